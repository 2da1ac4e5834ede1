// The inner loop of the filter gradient of grouped and dense convolutions: a tile of input channels
// times a panel of features, summed over pixels.
//
// Pixels come as segments that are evenly spaced in memory: with one pointer per pixel, 3x3 kernels
// took 2 to 10 % longer (see docs/design/measurements.md).

#pragma once

#include <cstdint>

#include "isa/dense/tile.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

constexpr int64_t kPrefetchPixels = 8;

template <class A, int N, int R, int V, int... I>
JAXCONV_INLINE void add_channels(const A* source, const Vec<A, N> (&g)[V], Vec<A, N> (&acc)[R][V],
                                 Indices<I...>) {
  (add_products(broadcast<A, N>(source[I]), g, acc[I], IndicesBelow<V>{}), ...);
}

template <class A, int N, int R, int V>
void filter_grad_tile(const FilterGradTileArgs<A>& t) {
  Vec<A, N> acc[R][V];
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    load_each(t.sums + r * V * N, N, acc[r], IndicesBelow<V>{});
  });
  const Segment<A>* const end = t.segments + t.count;
  for (const Segment<A>* s = t.segments; s != end; ++s) {
    const A* source = s->source + t.offset;
    const A* cotangent = s->cotangent + t.panel;
    int64_t left = s->count;
    do {  // no segment is empty: for a loop that may not run, GCC copies all the sums
      Vec<A, N> g[V];
      load_each(cotangent, N, g, IndicesBelow<V>{});
      add_channels<A, N>(source, g, acc, IndicesBelow<R>{});
      // The sources of each pixel are on new cache lines. With 256 channels, prefetching them takes
      // 16 % off the time (see docs/design/measurements.md).
      __builtin_prefetch(source + kPrefetchPixels * s->source_step);
      __builtin_prefetch(source + kPrefetchPixels * s->source_step + R - 1);
      source += s->source_step;
      cotangent += V * N;
    } while (--left != 0);
  }
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    store_each(acc[r], t.sums + r * V * N, N, IndicesBelow<V>{});
  });
}

template <class A, int N, int R, int V>
FilterGradTiles<A> filter_grad_tiles() {
  FilterGradTiles<A> tiles{{}, R, V, N};
  unroll<R>([&](auto r) { tiles.run[r + 1] = filter_grad_tile<A, N, decltype(r)::value + 1, V>; });
  return tiles;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
