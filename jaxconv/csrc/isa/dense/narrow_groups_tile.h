// Groups narrower than a vector, as many at once as a vector holds.
//
// With W in-features and W out-features a group, a pixel's N channels are the sources of N/W groups,
// and one vector of results. In step s of the reduction lane l takes its group's source l^s: in the
// first what was loaded, in the others a shuffle within registers, where broadcasts from memory would
// fill W lanes at a time. Weights are packed in that order. A vector of sources is loaded once for W
// multiply-adds; what then counts are the shuffles, which share a port with the multiply-adds.

#pragma once

#include <cstdint>
#include <utility>

#include "isa/dense/tile.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Lane l of the result is lane l^K of v: constants, so that the compiler has the cheapest instruction
// for each.
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

// Within 128 bits shuffles take an immediate and, on some processors, more ports; wider groups
// exchange whole pieces of that size first.
template <class A>
constexpr int kPiece = 16 / sizeof(A);

template <class T, class A, int N, int R, int W>
void bundle_block(const GatherBlock<T, A>& b) {
  constexpr int P = W < kPiece<A> ? W : kPiece<A>;
  Vec<A, N> acc[R] = {};
  for (int64_t e = 0; e < b.runs; ++e) {
    const A* weights = b.panel + b.panel_row[e] * N;
    const int64_t at = b.offset[e] + b.channel;
    Vec<A, N> x[R];
    unroll<R>([&](auto r) JAXCONV_LAMBDA { x[r] = load<A, N>(b.sources[r] + at); });
    unroll<W / P>([&](auto piece) JAXCONV_LAMBDA {
      constexpr int kFirst = decltype(piece)::value * P;
      Vec<A, N> part[R];
      unroll<R>([&](auto r) JAXCONV_LAMBDA { part[r] = exchange<A, N, kFirst>(x[r]); });
      unroll<P>([&](auto s) JAXCONV_LAMBDA {
        const auto w = load<A, N>(weights + (kFirst + s) * N);
        unroll<R>([&](auto r) JAXCONV_LAMBDA {
          acc[r] += exchange<A, N, decltype(s)::value>(part[r]) * w;
        });
      });
    });
  }
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    if (r < b.pixels) store<A, N>(b.targets[r] + b.feature, acc[r]);
  });
}

template <class T, class A, int W>
GatherKernel<T, A> bundle_kernel() {
  constexpr int N = kVectorBytes / sizeof(A);
  constexpr int R = kVectorRegisters == 32 ? 10 : 6;
  GatherKernel<T, A> kernel{{}, R, 1, N};
  unroll<kBlockSizes>([&](auto size) {
    kernel.run[size][0] = bundle_block<T, A, N, block_pixels(R, decltype(size)::value), W>;
  });
  return kernel;
}

// How many groups of so many sources and targets go into one vector: 1 where none do.
template <class A>
int64_t bundled_groups(int64_t groups, int64_t sources, int64_t targets) {
  constexpr int64_t N = kVectorBytes / sizeof(A);
  const bool served = kVectorBytes >= 32 && sources == targets && targets > 1 && targets < N &&
                      N % targets == 0 && groups * targets % N == 0;
  return served ? N / targets : 1;
}

// The block for bundles of groups of `width`, which bundled_groups serves.
template <class T, class A>
GatherKernel<T, A> choose_bundle_kernel(int64_t width) {
  constexpr int N = kVectorBytes / sizeof(A);
  if constexpr (N > 8) {
    if (width == 8) return bundle_kernel<T, A, 8>();
  }
  if constexpr (N > 4) {
    if (width == 4) return bundle_kernel<T, A, 4>();
  }
  return bundle_kernel<T, A, 2>();
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
