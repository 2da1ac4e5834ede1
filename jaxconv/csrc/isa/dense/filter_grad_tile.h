// The inner loop of the filter gradient of grouped and dense convolutions: a tile of input channels
// times a panel of features, summed over pixels.
//
// Pixels come as segments that are evenly spaced in memory: with one pointer per pixel, 3x3 kernels
// took 2 to 10 % longer (see docs/design/measurements.md).

#pragma once

#include <cstdint>

#include "geometry.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Adjacent pixels: their sources lie `source_step` elements apart, their cotangents one panel
// width. tests/kernels/test_dense_tiles.py mirrors this struct and the next.
template <class A>
struct Segment {
  const A* source;
  int64_t source_step;
  const A* cotangent;
  int64_t count;  // at least 1
};

// sums[r][v] += sum over the pixels i of all segments of source[i][r] * cotangent[i][v].
template <class A>
struct FilterGradTileArgs {
  const Segment<A>* segments;
  int64_t count;
  int64_t offset;  // of the first channel, relative to the sources of a segment
  int64_t panel;   // of the panel, relative to the cotangents of a segment
  A* sums;         // [R][V*N]
};

constexpr int64_t kPrefetchPixels = 8;

template <class A, int N, int R, int V>
void filter_grad_tile(const FilterGradTileArgs<A>& t) {
  Vec<A, N> acc[R][V];
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    unroll<V>([&](auto v) JAXCONV_LAMBDA { acc[r][v] = load<A, N>(t.sums + (r * V + v) * N); });
  });
  const Segment<A>* const end = t.segments + t.count;
  for (const Segment<A>* s = t.segments; s != end; ++s) {
    const A* source = s->source + t.offset;
    const A* cotangent = s->cotangent + t.panel;
    int64_t left = s->count;
    do {  // no segment is empty: for a loop that may not run, GCC copies all the sums
      Vec<A, N> g[V];
      unroll<V>([&](auto v) JAXCONV_LAMBDA { g[v] = load<A, N>(cotangent + v * N); });
      unroll<R>([&](auto r) JAXCONV_LAMBDA {
        const auto x = broadcast<A, N>(source[r]);
        unroll<V>([&](auto v) JAXCONV_LAMBDA { acc[r][v] += x * g[v]; });
      });
      // The sources of each pixel are on new cache lines. With 256 channels, prefetching them takes
      // 16 % off the time (see docs/design/measurements.md).
      __builtin_prefetch(source + kPrefetchPixels * s->source_step);
      __builtin_prefetch(source + kPrefetchPixels * s->source_step + R - 1);
      source += s->source_step;
      cotangent += V * N;
    } while (--left != 0);
  }
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    unroll<V>([&](auto v) JAXCONV_LAMBDA { store<A, N>(t.sums + (r * V + v) * N, acc[r][v]); });
  });
}

constexpr int kMaxTileRows = 12;

// The compiled tiles for one width of group, by number of rows (input channels): 1 to `rows`.
template <class A>
struct FilterGradTiles {
  void (*run[kMaxTileRows + 1])(const FilterGradTileArgs<A>&);
  int64_t rows, vectors, lanes;
};

template <class A, int N, int R, int V>
FilterGradTiles<A> filter_grad_tiles() {
  FilterGradTiles<A> tiles{{}, R, V, N};
  unroll<R>([&](auto r) { tiles.run[r + 1] = filter_grad_tile<A, N, decltype(r)::value + 1, V>; });
  return tiles;
}

template <class A>
FilterGradTiles<A> choose_filter_grad_tiles(int64_t features) {
  constexpr int N = kVectorBytes / sizeof(A);
  if constexpr (kVectorBytes >= 64) {
    if (features <= N / 4) return filter_grad_tiles<A, N / 4, 12, 1>();
  }
  if constexpr (kVectorBytes >= 32) {
    if (features <= N / 2) return filter_grad_tiles<A, N / 2, 12, 1>();
  }
  if (features <= N) return filter_grad_tiles<A, N, 12, 1>();
  if constexpr (kVectorRegisters == 32) {
    const int64_t vectors = ceil_div(features, N);
    if (vectors % 2 != 0 && vectors % 3 == 0) return filter_grad_tiles<A, N, 8, 3>();
    return filter_grad_tiles<A, N, 12, 2>();
  } else {
    return filter_grad_tiles<A, N, 6, 2>();
  }
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
