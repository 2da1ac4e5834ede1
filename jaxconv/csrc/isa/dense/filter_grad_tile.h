// The inner loop of the filter gradient of grouped and dense convolutions: a block of in-features
// times a panel of out-features, summed over pixels.
//
// Pixels come as segments, evenly spaced in memory: with a list of pointers to each of them 3x3
// kernels took 2 to 10 % longer.

#pragma once

#include <cstdint>

#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Neighbouring pixels: `source_step` elements apart, and their cotangents a panel's width.
template <class A>
struct Segment {
  const A* source;
  int64_t source_step;
  const A* cotangent;
  int64_t count;
};

// sums[r][v] += sum over the pixels i of all segments of source[i][r] * cotangent[i][v].
template <class A>
struct FilterBlock {
  const Segment<A>* segments;
  int64_t count;
  int64_t offset;  // of the first in-feature from the segments' sources
  int64_t panel;   // of the panel from their cotangents
  A* sums;         // [R][V*N]
};

constexpr int64_t kAhead = 8;  // pixels

template <class A, int N, int R, int V>
void filter_block(const FilterBlock<A>& b) {
  Vec<A, N> acc[R][V];
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    unroll<V>([&](auto v) JAXCONV_LAMBDA {
      acc[r][v] = load<A, N>(b.sums + (r * V + v) * N);
    });
  });
  const Segment<A>* const end = b.segments + b.count;
  for (const Segment<A>* s = b.segments; s != end; ++s) {
    const A* source = s->source + b.offset;
    const A* cotangent = s->cotangent + b.panel;
    int64_t left = s->count;
    do {  // no segment is empty: a loop that may not run costs GCC a copy of all the sums
      Vec<A, N> g[V];
      unroll<V>([&](auto v) JAXCONV_LAMBDA { g[v] = load<A, N>(cotangent + v * N); });
      unroll<R>([&](auto r) JAXCONV_LAMBDA {
        const auto x = broadcast<A, N>(source[r]);
        unroll<V>([&](auto v) JAXCONV_LAMBDA { acc[r][v] += x * g[v]; });
      });
      // Sources a pixel apart are new lines: fetched early, 256 channels take 16 % less time.
      __builtin_prefetch(source + kAhead * s->source_step);
      __builtin_prefetch(source + kAhead * s->source_step + R - 1);
      source += s->source_step;
      cotangent += V * N;
    } while (--left != 0);
  }
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    unroll<V>([&](auto v) JAXCONV_LAMBDA {
      store<A, N>(b.sums + (r * V + v) * N, acc[r][v]);
    });
  });
}

// Blocks of 1 … rows in-features.
template <class A>
struct FilterKernel {
  void (*run[13])(const FilterBlock<A>&);
  int64_t rows, vectors, lanes;
};

template <class A, int N, int R, int V>
FilterKernel<A> filter_kernel() {
  FilterKernel<A> kernel{{}, R, V, N};
  unroll<R>([&](auto r) { kernel.run[r + 1] = filter_block<A, N, decltype(r)::value + 1, V>; });
  return kernel;
}

template <class A>
FilterKernel<A> choose_filter_kernel(int64_t features) {
  constexpr int N = kVectorBytes / sizeof(A);
  if constexpr (kVectorBytes >= 64) {
    if (features <= N / 4) return filter_kernel<A, N / 4, 12, 1>();
  }
  if constexpr (kVectorBytes >= 32) {
    if (features <= N / 2) return filter_kernel<A, N / 2, 12, 1>();
  }
  if (features <= N) return filter_kernel<A, N, 12, 1>();
  if constexpr (kVectorRegisters == 32) {
    const int64_t vectors = ceil_div(features, N);
    if (vectors % 2 != 0 && vectors % 3 == 0) return filter_kernel<A, N, 8, 3>();
    return filter_kernel<A, N, 12, 2>();
  } else {
    return filter_kernel<A, N, 6, 2>();
  }
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
