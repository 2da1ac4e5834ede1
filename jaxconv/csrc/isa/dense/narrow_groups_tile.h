// Groups narrower than a vector: one vector computes as many groups as it holds.
//
// With W channels and W features per group, N channels of a pixel are the sources of N/W groups,
// and one vector holds their results. In step s of the reduction, lane l multiplies source l^s of
// its group: step 0 uses the vector as loaded, the other steps shuffle it within registers, whereas
// a broadcast from memory would fill only W lanes. Weights are packed in that order. One load of
// sources serves W multiply-adds; the limit is then the shuffles, which share an execution port
// with the multiply-adds.

#pragma once

#include <cstdint>
#include <utility>

#include "isa/dense/gather_tile.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Lane l of the result is lane l^K of `v`. K is a constant so that the compiler picks the cheapest
// instruction for each.
template <class A, int N, int K, int... L>
JAXCONV_INLINE Vec<A, N> exchange_lanes(Vec<A, N> v, std::integer_sequence<int, L...>) {
#if defined(__clang__)
  return __builtin_shufflevector(v, v, (L ^ K)...);
#else
  using I = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;
  return __builtin_shuffle(v, Vec<I, N>{(L ^ K)...});
#endif
}
template <class A, int N, int K>
JAXCONV_INLINE Vec<A, N> exchange(Vec<A, N> v) {
  if constexpr (K == 0) return v;
  return exchange_lanes<A, N, K>(v, std::make_integer_sequence<int, N>{});
}

// Shuffles within 128 bits take an immediate and, on some processors, run on more ports. Wider
// groups therefore first exchange whole 128-bit pieces.
template <class A>
constexpr int kPieceLanes = 16 / sizeof(A);

template <class A, int N, int R, int W>
void narrow_groups_tile(const GatherTileArgs<A>& t) {
  constexpr int P = W < kPieceLanes<A> ? W : kPieceLanes<A>;
  Vec<A, N> acc[R][1] = {};
  start_sums<A, N>(t.epilogue, t.feature, acc);
  for (int64_t e = 0; e < t.runs; ++e) {
    const A* weights = t.panel + t.panel_row[e] * N;
    const int64_t at = t.offset[e] + t.channel;
    Vec<A, N> x[R];
    unroll<R>([&](auto r) JAXCONV_LAMBDA { x[r] = load<A, N>(t.sources[r] + at); });
    unroll<W / P>([&](auto piece) JAXCONV_LAMBDA {
      constexpr int kFirst = decltype(piece)::value * P;
      Vec<A, N> part[R];
      unroll<R>([&](auto r) JAXCONV_LAMBDA { part[r] = exchange<A, N, kFirst>(x[r]); });
      unroll<P>([&](auto s) JAXCONV_LAMBDA {
        const auto w = load<A, N>(weights + (kFirst + s) * N);
        unroll<R>([&](auto r) JAXCONV_LAMBDA {
          acc[r][0] += exchange<A, N, decltype(s)::value>(part[r]) * w;
        });
      });
    });
  }
  limit_sums<A, N>(t.epilogue, acc);
  if (!t.direct) return write_from_array<A, N, R, 1>(t, acc);
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    if (r < t.pixels) store<A, N>(static_cast<A*>(t.targets[r]) + t.feature, acc[r][0]);
  });
}

template <class A, int W>
GatherTiles<A> narrow_groups_tiles() {
  constexpr int N = kVectorBytes / sizeof(A);
  constexpr int R = kVectorRegisters == 32 ? 10 : 6;
  GatherTiles<A> tiles{{}, R, 1, N};
  unroll<kTileSizes>([&](auto size) {
    tiles.run[size][0] = narrow_groups_tile<A, N, tile_pixels(R, decltype(size)::value), W>;
  });
  return tiles;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
