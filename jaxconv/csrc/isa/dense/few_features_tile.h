// Few features: vectors of source channels.
//
// Of a vector of features most lanes would be empty. So here the lanes are source channels, each sum
// is N partial ones, and those are added at the end, N sums at a time by swapping rows and columns.
// Weights are packed feature by feature. 3x3 4x112x112 64>3 took 5.1 ms on one thread of a Xeon with
// a quarter of a vector of features; with vectors of channels 2.0.

#pragma once

#include <cstdint>

#include "isa/dense/pixels.h"
#include "isa/dense/tile.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// With fewer products adding the partial sums costs what the multiply-adds save.
constexpr int64_t kMostDots = 4;  // features
constexpr int64_t kLeastDotsChannels = kMergedChannels;  // runs of one tap, as weights are packed
constexpr int64_t kLeastDotsProducts = 128;

template <class T, class A, int N, int R, int F>
void dots_block(const GatherBlock<T, A>& b) {
  Vec<A, N> acc[R][F] = {};
  const A* source[R];
  unroll<R>([&](auto r) JAXCONV_LAMBDA { source[r] = b.sources[r] + b.channel; });
  for (int64_t e = 0; e < b.runs; ++e) {
    const A* weights = b.panel + b.panel_row[e] * F;
    const int64_t at = b.offset[e];
    const auto add = [&](auto partial, int64_t c) JAXCONV_LAMBDA {
      constexpr bool kPartial = decltype(partial)::value;
      const int64_t n = b.length - c;
      Vec<A, N> w[F];
      unroll<F>([&](auto f) JAXCONV_LAMBDA {
        w[f] = load<A, N, kPartial>(weights + f * b.length + c, n);
      });
      unroll<R>([&](auto r) JAXCONV_LAMBDA {
        const auto x = kept(load<A, N, kPartial>(source[r] + (at + c), n));
        unroll<F>([&](auto f) JAXCONV_LAMBDA { acc[r][f] += x * w[f]; });
      });
    };
    int64_t c = 0;
    for (; c + N <= b.length; c += N) add(Index<false>{}, c);
    if (c < b.length) add(Index<true>{}, c);
  }
  constexpr int kGroups = (R * F + N - 1) / N;
  A sums[kGroups * N];
  unroll<kGroups>([&](auto group) JAXCONV_LAMBDA {
    Vec<A, N> row[N] = {};
    unroll<N>([&](auto i) JAXCONV_LAMBDA {
      constexpr int kAt = decltype(group)::value * N + decltype(i)::value;
      if constexpr (kAt < R * F) row[i] = acc[kAt / F][kAt % F];
    });
    transpose<A, N>(row);
    Vec<A, N> total = row[0];
    unroll<N, 1>([&](auto i) JAXCONV_LAMBDA { total += row[i]; });
    store<A, N>(sums + group * N, total);
  });
  for (int64_t r = 0; r < b.pixels; ++r) {
    for (int64_t f = 0; f < F; ++f) store_element(b.targets[r] + b.feature + f, sums[r * F + f]);
  }
}

template <class T, class A, int R, int F>
GatherKernel<T, A> dots_kernel() {
  constexpr int N = kVectorBytes / sizeof(A);
  GatherKernel<T, A> kernel{{}, R, 1, F};
  unroll<kBlockSizes>([&](auto size) {
    kernel.run[size][0] = dots_block<T, A, N, block_pixels(R, decltype(size)::value), F>;
  });
  return kernel;
}

// As many pixels as leave registers for a source and the weights.
template <class T, class A>
GatherKernel<T, A> choose_dots_kernel(int64_t features) {
  constexpr bool kMany = kVectorRegisters == 32;
  switch (features) {
    case 1: return dots_kernel<T, A, kMany ? 12 : 8, 1>();
    case 2: return dots_kernel<T, A, kMany ? 12 : 6, 2>();
    case 3: return dots_kernel<T, A, kMany ? 8 : 3, 3>();
    default: return dots_kernel<T, A, kMany ? 6 : 2, 4>();
  }
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
