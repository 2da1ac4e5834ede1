// The depthwise tiles and the choice among them by size: compiled once per instruction set and
// accumulator type.

#include "isa/depthwise/tile_call.h"
#include "isa/depthwise/tile_loops.h"

namespace jaxconv {
namespace JAXCONV_ISA {
namespace {

// Sanitizers instrument every product: Clang would compile the specialized tiles for minutes.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(undefined_behavior_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#else
constexpr bool kSanitized = false;
#endif

// Common numbers of taps are compile-time constants where that was measured to be faster: float32
// with AVX2 and later. (An input gradient with strides of 2 uses one or two of 3 taps.) Depthwise
// 4x4 8x56x56x64 forward takes 0.55 ms instead of 0.72 (see docs/design/measurements.md).
template <class A>
constexpr bool kSpecialized = !kSanitized && std::is_same_v<A, float> &&
                              (kVectorBytes >= 32 || kVectorRegisters == 32);

// Calls choose(P, K, R) with constants; K = 0 stands for any number of taps, R = 0 for any spacing.
template <class Function, class A, int P, class Choose>
Function choose_of_width(int64_t taps, int64_t spacing, Choose choose) {
  if constexpr (kSpecialized<A> && P >= 4) {
    if (spacing == 1) {
      if (taps == 1) return choose(Index<P>{}, Index<1>{}, Index<1>{});
      if (taps == 2) return choose(Index<P>{}, Index<2>{}, Index<1>{});
      if (taps == 3) return choose(Index<P>{}, Index<3>{}, Index<1>{});
      if (taps == 4) return choose(Index<P>{}, Index<4>{}, Index<1>{});
      if (taps == 5) return choose(Index<P>{}, Index<5>{}, Index<1>{});
      if (taps == 7) return choose(Index<P>{}, Index<7>{}, Index<1>{});
    } else if (spacing == 2) {
      if (taps == 3) return choose(Index<P>{}, Index<3>{}, Index<2>{});
      if (taps == 5) return choose(Index<P>{}, Index<5>{}, Index<2>{});
    }
  }
  if (spacing == 1) return choose(Index<P>{}, Index<0>{}, Index<1>{});
  if (spacing == 2) return choose(Index<P>{}, Index<0>{}, Index<2>{});
  return choose(Index<P>{}, Index<0>{}, Index<0>{});
}

template <class Function, class A, class Choose>
Function choose_tile(int64_t taps, int64_t spacing, int64_t width, Choose choose) {
  Function tile = nullptr;
  unroll<kMaxTileWidth + 1, 1>([&](auto p) {
    constexpr int P = decltype(p)::value;
    if (width == P) tile = choose_of_width<Function, A, P>(taps, spacing, choose);
  });
  return tile;
}

}  // namespace

template <class A>
void (*DepthwiseTiles<A>::gather(int64_t taps, int64_t spacing, int64_t width))(
    const GatherTile<A>&) {
  using Function = void (*)(const GatherTile<A>&);
  return choose_tile<Function, A>(taps, spacing, width, [](auto p, auto k, auto r) -> Function {
    return gather_tile<A, decltype(p)::value, decltype(k)::value, decltype(r)::value>;
  });
}

template <class A>
void (*DepthwiseTiles<A>::gather_pair(int64_t taps, int64_t spacing, int64_t width))(
    const GatherTile<A>&) {
  using Function = void (*)(const GatherTile<A>&);
  if (taps < 3) return nullptr;  // rows share too little: 2x2 4x56x56x64 is 4 % slower
  return choose_tile<Function, A>(taps, spacing, width, [](auto p, auto k, auto r) -> Function {
    constexpr int K = decltype(k)::value, R = decltype(r)::value;
    constexpr bool kPairs = kSpecialized<A> && kVectorRegisters == 32 && R == 1 && K != 1 && K != 2;
    if constexpr (kPairs) return gather_pair_tile<A, decltype(p)::value, K>;
    return nullptr;
  });
}

template <class A>
void (*DepthwiseTiles<A>::filter(int64_t taps, int64_t spacing, int64_t width))(
    const FilterTile<A>&) {
  using Function = void (*)(const FilterTile<A>&);
  return choose_tile<Function, A>(taps, spacing, width, [](auto p, auto k, auto r) -> Function {
    return filter_tile<A, decltype(p)::value, decltype(k)::value, decltype(r)::value>;
  });
}

template struct DepthwiseTiles<JAXCONV_ACCUMULATOR>;

namespace {

using A = JAXCONV_ACCUMULATOR;

TileSources<A> sources_of(const DepthwiseTileCall& c) {
  return {reinterpret_cast<const A* const*>(c.table), c.columns, c.offset, c.rows, c.taps,
          c.spacing, c.features};
}

bool call_gather(const DepthwiseTileCall& c) {
  const auto tile = c.tile == DepthwiseTile::kGatherPair
                        ? DepthwiseTiles<A>::gather_pair(c.taps, c.spacing, c.width)
                        : DepthwiseTiles<A>::gather(c.taps, c.spacing, c.width);
  if (tile == nullptr) return false;
  tile({sources_of(c), {c.prefetch_rows, c.prefetch_source, c.prefetch_pixel},
        static_cast<const A*>(c.operand), {c.row_offset[0], c.row_offset[1]}, c.upper, c.both,
        c.tap_step, static_cast<A*>(c.result), c.pixel_step, c.lower, c.streams != 0, {}});
  if (c.streams != 0) finish_streams();
  return true;
}

bool call_filter(const DepthwiseTileCall& c) {
  const auto tile = DepthwiseTiles<A>::filter(c.taps, c.spacing, c.width);
  if (tile == nullptr) return false;
  tile({sources_of(c), {c.prefetch_rows, c.prefetch_source, c.prefetch_pixel},
        static_cast<const A*>(c.operand), c.pixel_step, static_cast<A*>(c.result),
        c.row_offset[0], c.tap_step});
  return true;
}

}  // namespace

bool JAXCONV_CALL_TILE(const DepthwiseTileCall& call) {
  return call.tile == DepthwiseTile::kFilter ? call_filter(call) : call_gather(call);
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
