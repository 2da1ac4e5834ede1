// The inner loop of grouped and dense gathers: a block of pixels times a panel of features.
//
// The accumulators of R pixels x V vectors of features stay in registers through the whole
// reduction, so that results of any element type are rounded once. Weights come from a packed
// panel, row after row; sources are read in place, one broadcast element at a time, through a table
// of pointers. With R x V = 12 x 2, every step of the reduction takes 14 loads for 24 multiply-adds
// and 128 bytes of weights, which the L2 cache delivers in a third of the time.

#pragma once

#include <cstdint>

#include "vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T, class A>
struct GatherBlock {
  const A* const* table;   // [runs][R]: where each pixel's run of sources begins
  const int64_t* panel_row;  // [runs]: the panel's row that the run begins at
  int64_t runs, length;    // and elements in each
  int64_t offset;          // of the group's first channel from those pointers
  const A* panel;          // [rows][V*N]
  T* const* targets;       // [R]
  int64_t pixels;          // of R, that exist
  int64_t feature, lanes;  // first feature, and how many of the V*N exist
};

template <class T, class A, int N, int R, int V>
void gather_block(const GatherBlock<T, A>& b) {
  Vec<A, N> acc[R][V] = {};
  for (int64_t e = 0; e < b.runs; ++e) {
    const A* weights = b.panel + b.panel_row[e] * (V * N);
    const A* source[R];
    // Counting bytes up to zero leaves registers of x86 for all twelve pointers.
    unroll<R>([&](auto r) JAXCONV_LAMBDA {
      source[r] = b.table[e * R + r] + (b.offset + b.length);
    });
    constexpr int64_t kStep = sizeof(A);
    for (int64_t c = -b.length * kStep; c != 0; c += kStep, weights += V * N) {
      Vec<A, N> w[V];
      unroll<V>([&](auto v) JAXCONV_LAMBDA { w[v] = load<A, N>(weights + v * N); });
      unroll<R>([&](auto r) JAXCONV_LAMBDA {
        const auto x = broadcast<A, N>(load_bits<A>(reinterpret_cast<const char*>(source[r]) + c));
        unroll<V>([&](auto v) JAXCONV_LAMBDA { acc[r][v] += x * w[v]; });
      });
    }
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

// A compiled block: its function and its size.
template <class T, class A>
struct GatherKernel {
  void (*run)(const GatherBlock<T, A>&);
  int64_t pixels;   // R
  int64_t vectors;  // V
  int64_t lanes;    // N
};

// The block for groups of `features`: the narrowest vectors that hold them, and as few panels as
// the registers allow.
template <class T, class A>
GatherKernel<T, A> choose_gather_kernel(int64_t features) {
  constexpr int N = kVectorBytes / sizeof(A);
  if constexpr (kVectorBytes >= 64) {
    if (features <= N / 4) return {gather_block<T, A, N / 4, 12, 1>, 12, 1, N / 4};
  }
  if constexpr (kVectorBytes >= 32) {
    if (features <= N / 2) return {gather_block<T, A, N / 2, 12, 1>, 12, 1, N / 2};
  }
  if (features <= N) return {gather_block<T, A, N, 12, 1>, 12, 1, N};
  const int64_t vectors = ceil_div(features, N);
  if constexpr (kVectorRegisters == 32) {
    if (vectors % 2 != 0 && vectors % 3 == 0) return {gather_block<T, A, N, 8, 3>, 8, 3, N};
    return {gather_block<T, A, N, 12, 2>, 12, 2, N};
  } else {
    return {gather_block<T, A, N, 6, 2>, 6, 2, N};
  }
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
