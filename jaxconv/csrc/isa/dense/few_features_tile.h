// Few features: vectors run along the source channels instead.
//
// A vector of features would be mostly empty. Here each lane takes a different source channel,
// every sum is N partial sums, and those are added at the end, N sums at a time by a transpose.
// Weights are packed one feature after the other. On 3x3 4x112x112 64>3, one thread of a Xeon
// takes 2.0 ms instead of 5.1 ms (see docs/design/measurements.md).

#pragma once

#include <cstdint>

#include "isa/dense/tile.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class A, int N, int R, int F>
void few_features_tile(const GatherTileArgs<A>& t) {
  Vec<A, N> acc[R][F] = {};
  const A* source[R];
  unroll<R>([&](auto r) JAXCONV_LAMBDA { source[r] = t.sources[r] + t.channel; });
  for (int64_t e = 0; e < t.runs; ++e) {
    const A* weights = t.panel + t.panel_row[e] * F;
    const int64_t at = t.offset[e];
    const auto add = [&](auto partial, int64_t c) JAXCONV_LAMBDA {
      constexpr bool kPartial = decltype(partial)::value;
      const int64_t n = t.length - c;
      Vec<A, N> w[F];
      unroll<F>([&](auto f) JAXCONV_LAMBDA {
        w[f] = load<A, N, kPartial>(weights + f * t.length + c, n);
      });
      unroll<R>([&](auto r) JAXCONV_LAMBDA {
        const auto x = kept(load<A, N, kPartial>(source[r] + (at + c), n));
        unroll<F>([&](auto f) JAXCONV_LAMBDA { acc[r][f] += x * w[f]; });
      });
    };
    int64_t c = 0;
    for (; c + N <= t.length; c += N) add(Index<false>{}, c);
    if (c < t.length) add(Index<true>{}, c);
  }
  constexpr int kSquares = (R * F + N - 1) / N;
  A sums[kSquares * N];
  unroll<kSquares>([&](auto square) JAXCONV_LAMBDA {
    Vec<A, N> row[N] = {};
    unroll<N>([&](auto i) JAXCONV_LAMBDA {
      constexpr int kAt = decltype(square)::value * N + decltype(i)::value;
      if constexpr (kAt < R * F) row[i] = acc[kAt / F][kAt % F];
    });
    transpose<A, N>(row);
    Vec<A, N> total = row[0];
    unroll<N, 1>([&](auto i) JAXCONV_LAMBDA { total += row[i]; });
    store<A, N>(sums + square * N, total);
  });
  if (!t.direct) {
    constexpr int kStride = (F + N - 1) / N * N;
    A rows[R * kStride] = {};
    for (int i = 0; i < R * F; ++i) rows[i / F * kStride + i % F] = sums[i];
    return t.write(t.writer, {rows, kStride, t.pixels, t.feature, F}, t.targets);
  }
  for (int64_t r = 0; r < t.pixels; ++r) {
    A* target = static_cast<A*>(t.targets[r]) + t.feature;
    for (int64_t f = 0; f < F; ++f) target[f] = sums[r * F + f];
  }
}

// One "vector" of F lanes: a panel of these tiles is F features wide.
template <class A, int R, int F>
GatherTiles<A> few_features_tiles() {
  constexpr int N = kVectorBytes / sizeof(A);
  GatherTiles<A> tiles{{}, R, 1, F};
  unroll<kTileSizes>([&](auto size) {
    tiles.run[size][0] = few_features_tile<A, N, tile_pixels(R, decltype(size)::value), F>;
  });
  return tiles;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
