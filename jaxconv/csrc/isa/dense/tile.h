// The inner loop of grouped and dense gathers: a block of pixels times a panel of features.
//
// The accumulators of R pixels x V vectors of features stay in registers through the whole
// reduction, so that results of any element type are rounded once. Weights come from a packed
// panel, row after row; sources are read one broadcast element at a time, from a pointer for each
// pixel, which stay in registers too, and an offset that all pixels have in common. With R x V =
// 6 x 4, every step of the reduction takes 10 loads for 24 multiply-adds, and 256 bytes of weights,
// which the L2 cache delivers in a third to two thirds of the time. 12 x 2 takes 14 loads: Zen 4,
// with one multiply-add a cycle, then still reached 97 to 99 % of what it has, a Xeon, with two, 7
// to 50 % less than with 6 x 4.

#pragma once

#include <cstdint>

#include "isa/dense/tile_sizes.h"
#include "geometry.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T, class A>
struct GatherBlock {
  const A* const* sources;   // [R]: each pixel's
  const int64_t* offset;     // [runs]: where a run begins from there,
  const int64_t* panel_row;  // [runs]: and at which of the panel's rows
  int64_t runs, length;      // and elements in each
  int64_t channel;           // the group's first, added to all of those
  const A* panel;            // [rows][V*N]
  T* const* targets;         // [R]
  int64_t pixels;            // of R, that exist
  int64_t feature, lanes;    // first feature, and how many of the V*N exist
};

// Calls step() so many times, in twos where registers allow: 3 to 6 % faster on a Xeon.
template <class F>
JAXCONV_INLINE void in_twos(int64_t count, F&& step) {
  constexpr int kSteps = kVectorRegisters == 32 ? 2 : 1;
  for (; count % kSteps != 0; --count) step();
  for (; count > 0; count -= kSteps) unroll<kSteps>([&](auto) JAXCONV_LAMBDA { step(); });
}

template <class T, class A, int N, int R, int V>
void gather_block(const GatherBlock<T, A>& b) {
  Vec<A, N> acc[R][V] = {};
  const char* source[R];
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    source[r] = reinterpret_cast<const char*>(b.sources[r] + b.channel);
  });
  for (int64_t e = 0; e < b.runs; ++e) {
    const A* weights = b.panel + b.panel_row[e] * (V * N);
    int64_t c = b.offset[e] * static_cast<int64_t>(sizeof(A));
    in_twos(b.length, [&]() JAXCONV_LAMBDA {
      Vec<A, N> w[V];
      unroll<V>([&](auto v) JAXCONV_LAMBDA { w[v] = load<A, N>(weights + v * N); });
      unroll<R>([&](auto r) JAXCONV_LAMBDA {
        const auto x = broadcast<A, N>(load_bits<A>(source[r] + c));
        unroll<V>([&](auto v) JAXCONV_LAMBDA { acc[r][v] += x * w[v]; });
      });
      c += sizeof(A);
      weights += V * N;
    });
  }
  const bool whole = b.lanes == V * N;
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    if (r >= b.pixels) return;
    T* target = b.targets[r] + b.feature;
    unroll<V>([&](auto v) JAXCONV_LAMBDA {
      if (whole) {
        store<A, N>(target + v * N, acc[r][v]);
      } else if (v * N < b.lanes) {
        store<A, N, true>(target + v * N, acc[r][v], smaller(N, b.lanes - v * N));
      }
    });
  });
}

constexpr int kMostPixels = 12;
constexpr int kMostVectors = 4;

// Compiled blocks of R pixels, two thirds and a third of them, and of 1 … V vectors.
template <class T, class A>
struct GatherKernel {
  void (*run[kBlockSizes][kMostVectors])(const GatherBlock<T, A>&);
  int64_t pixels;   // R
  int64_t vectors;  // V
  int64_t lanes;    // N
};

template <class T, class A, int N, int R, int V, int Fewest = V>
GatherKernel<T, A> gather_kernel() {
  GatherKernel<T, A> kernel{{}, R, V, N};
  unroll<kBlockSizes>([&](auto size) {
    unroll<V + 1, Fewest>([&](auto v) {
      kernel.run[size][v - 1] =
          gather_block<T, A, N, block_pixels(R, decltype(size)::value), decltype(v)::value>;
    });
  });
  return kernel;
}

// The blocks for groups of `features`: the narrowest vectors that hold them, and as few panels as
// the registers allow.
template <class T, class A>
GatherKernel<T, A> choose_gather_kernel(int64_t features) {
  constexpr int N = kVectorBytes / sizeof(A);
  if constexpr (kVectorBytes >= 64) {
    if (features <= N / 4) return gather_kernel<T, A, N / 4, 12, 1>();
  }
  if constexpr (kVectorBytes >= 32) {
    if (features <= N / 2) return gather_kernel<T, A, N / 2, 12, 1>();
  }
  if (features <= N) return gather_kernel<T, A, N, 12, 1>();
  if constexpr (kVectorRegisters == 32) {
    const int64_t vectors = ceil_div(features, N);
    switch (ceil_div(vectors, ceil_div(vectors, kMostVectors))) {  // panels of about one width
      case 2: return gather_kernel<T, A, N, 12, 2, 1>();
      case 3: return gather_kernel<T, A, N, 8, 3, 1>();
      default: return gather_kernel<T, A, N, 6, 4, 1>();
    }
  } else {
    return gather_kernel<T, A, N, 6, 2, 1>();
  }
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
