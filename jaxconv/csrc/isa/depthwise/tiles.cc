// The tiles of depthwise convolutions for one instruction set and one type of accumulators:
// compiled once for each pair.

#include "isa/depthwise/tile.h"

namespace jaxconv {
namespace JAXCONV_ISA {
namespace {

// Sanitizers check every product apart: all tiles with them took Clang minutes to compile.
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

// Common kernels have their taps as constants, where it was measured to matter: float32 on
// machines of today. One and two are what an input gradient with strides of 2 sees of 3 taps: 3x3
// 8x28x28x256 went from 0.29 to 0.23 ms on one thread; 4x4 8x56x56x64 forward from 0.72 to 0.55.
template <class A>
constexpr bool kSpecialised = !kSanitized && std::is_same_v<A, float> &&
                              (kVectorBytes >= 32 || kVectorRegisters == 32);

// choose(P, K, R) as constants; K = 0 for any number of taps, R = 0 for any spacing.
template <class Function, class A, int P, class Choose>
Function choose_of_width(int64_t taps, int64_t spacing, Choose choose) {
  if constexpr (kSpecialised<A> && P >= 4) {
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
  Function chosen = nullptr;
  unroll<kWidestTile + 1, 1>([&](auto p) {
    constexpr int P = decltype(p)::value;
    if (width == P) chosen = choose_of_width<Function, A, P>(taps, spacing, choose);
  });
  return chosen;
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
  if (taps < 3) return nullptr;  // too little to share: 2x2 4x56x56x64 4 % slower
  return choose_tile<Function, A>(taps, spacing, width, [](auto p, auto k, auto r) -> Function {
    constexpr bool kPairs = kSpecialised<A> && kVectorRegisters == 32 && decltype(r)::value == 1;
    if constexpr (kPairs) return gather_pair_tile<A, decltype(p)::value, decltype(k)::value>;
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

template struct DepthwiseTiles<JAXCONV_ELEMENT>;

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
