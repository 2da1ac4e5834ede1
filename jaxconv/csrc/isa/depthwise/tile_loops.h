// The inner loops of depthwise tiles: P neighboring targets, K taps per row, spacing R.
//
// Features are innermost in memory and in the vectors. A tile takes the features of its P targets
// one vector at a time; for each it visits the kernel's rows, and in a row loads every source
// column once for all (target, tap) pairs that share it: column c serves tap c - p*R of target p.
// With P = 8 and R = 1, a row of 3 taps takes 10 + 3 loads for 24 multiply-adds.

#pragma once

#include <cstdint>

#include "isa/depthwise/tile.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// The targets p of P that use column c, by their tap c - p*R of K.
struct Users {
  int begin, end;
};
template <int P, int K, int R>
constexpr Users users(int c) {
  const int begin = c < K ? 0 : (c - K) / R + 1, end = c / R + 1;
  return {begin, end < P ? end : P};
}

// Calls f(p, u, column p*R + u) for all targets p and K taps u, of which the first is u0. If R is a
// constant, each column is loaded once.
template <class A, int P, int K, int R, class F>
JAXCONV_INLINE void for_each_product(const TileSources<A>& s, int64_t r, int64_t u0, int64_t at,
                                     F&& f) {
  const A* const* row = s.table + r * s.columns + u0;
  if constexpr (R > 0) {
    unroll<(P - 1) * R + K>([&](auto c) JAXCONV_LAMBDA {
      const auto x = load<A, kLanes<A>>(row[c] + at);
      unroll<users<P, K, R>(c).end, users<P, K, R>(c).begin>([&](auto p) JAXCONV_LAMBDA {
        f(p, Index<c - p * R>{}, x);
      });
    });
  } else {
    unroll<P>([&](auto p) JAXCONV_LAMBDA {
      unroll<K>([&](auto u) JAXCONV_LAMBDA {
        f(p, u, load<A, kLanes<A>>(row[p * s.spacing + u] + at));
      });
    });
  }
}

// Prefetches one vector of each source column that a later row of targets adds. Tiles read the
// first vector of P pixels, then the second: an AMD EPYC's prefetchers follow that pattern at 11
// GB/s and consecutive addresses at 29 GB/s (see docs/design/measurements.md).
template <class A, int P, int K, int R>
JAXCONV_INLINE void prefetch_row(const Prefetch& prefetch, const TileSources<A>& s, int64_t r,
                                 int64_t at) {
  constexpr int kColumns = P * (R > 0 ? R : 1), kFirst = K > R ? (K - R) / 2 : 0;
  const A* const* row = s.table + r * s.columns + kFirst;
  unroll<kColumns>([&](auto c) JAXCONV_LAMBDA {
    __builtin_prefetch(row[R > 0 ? c : c * s.spacing] + (at + prefetch.source), 0, 2);
  });
}

template <class A, int P, int K, int R>
JAXCONV_INLINE void prefetch_sources(const Prefetch& prefetch, const TileSources<A>& s,
                                     int64_t at) {
  for (int64_t r = s.rows - prefetch.rows; r < s.rows; ++r) {
    prefetch_row<A, P, K, R>(prefetch, s, r, at);
  }
}

template <class A, int P>
JAXCONV_INLINE void prefetch_pixels(const Prefetch& prefetch, const A* pixels, int64_t step) {
  if (prefetch.rows == 0) return;
  unroll<P>([&](auto p) JAXCONV_LAMBDA {
    __builtin_prefetch(pixels + (p * step + prefetch.pixel), 0, 2);
  });
}

// Targets that are written past the caches are not read first.
template <class A, int P>
JAXCONV_INLINE void prefetch_targets(const GatherTile<A>& t, const A* targets) {
  if (!t.streams) prefetch_pixels<A, P>(t.prefetch, targets, t.target_step);
}

template <class A, int P>
JAXCONV_INLINE void write_targets(const GatherTile<A>& t, A* targets,
                                  Vec<A, kLanes<A>> (&acc)[P][1]) {
  constexpr int N = kLanes<A>;
  limit_sums<A, N>(t.epilogue, acc);
  if (kStreams && t.streams) {
    unroll<P>([&](auto p) JAXCONV_LAMBDA { stream<A, N>(targets + p * t.target_step, acc[p][0]); });
  } else {
    unroll<P>([&](auto p) JAXCONV_LAMBDA { store<A, N>(targets + p * t.target_step, acc[p][0]); });
  }
}

// Calls f(number of taps as a constant, first tap) until all taps of a row are covered: once for
// K > 0, which is their number; for K = 0 four taps at a time, then two, then one.
template <int K, class F>
JAXCONV_INLINE void for_each_chunk(int64_t taps, F&& f) {
  if constexpr (K > 0) {
    f(Index<K>{}, int64_t{0});
  } else {
    int64_t u = 0;
    for (; u + 4 <= taps; u += 4) f(Index<4>{}, u);
    if (taps & 2) {
      f(Index<2>{}, u);
      u += 2;
    }
    if (taps & 1) f(Index<1>{}, u);
  }
}

template <class A, int P, int K, int R>
void gather_tile(const GatherTile<A>& t) {
  constexpr int N = kLanes<A>;
  for_each_vector<N>(t.sources.features, [&](int64_t feature, int64_t) JAXCONV_LAMBDA {
    const int64_t at = t.sources.offset + feature;
    prefetch_sources<A, P, K, R>(t.prefetch, t.sources, at);
    prefetch_targets<A, P>(t, t.targets + feature);
    Vec<A, N> acc[P][1] = {};
    start_sums<A, N>(t.epilogue, feature, acc);
    for (int64_t r = 0; r < t.sources.rows; ++r) {
      const A* weights = t.weights + t.weight_row[0][r] + feature;
      for_each_chunk<K>(t.sources.taps, [&](auto k, int64_t u0) JAXCONV_LAMBDA {
        constexpr int kTaps = decltype(k)::value;
        Vec<A, N> w[kTaps];
        unroll<kTaps>([&](auto u) JAXCONV_LAMBDA {
          w[u] = load<A, N>(weights + (u0 + u) * t.tap_step);
        });
        for_each_product<A, P, kTaps, R>(
            t.sources, r, u0, at,
            [&](auto p, auto u, Vec<A, N> x) JAXCONV_LAMBDA { acc[p][0] += x * w[u]; });
      });
    }
    write_targets<A, P>(t, t.targets + feature, acc);
  });
}

// Two rows of targets, the lower one using sources one row further down. Every source row except
// the first and the last is loaded once for both: depthwise 7x7 8x56x56x96 is 11 % faster (see
// docs/design/measurements.md). Source rows are sorted by which target rows use them, so that the
// loops need no branch.
template <class A, int P, int K>
void gather_pair_tile(const GatherTile<A>& t) {
  constexpr int N = kLanes<A>;
  // The last source row that both use, if any: at the top of a volume there may be none, while the
  // lower row of targets uses one per plane.
  const int64_t both_end = t.upper + t.both, last_of_both = larger(both_end, 1) - 1;
  for_each_vector<N>(t.sources.features, [&](int64_t feature, int64_t) JAXCONV_LAMBDA {
    const int64_t at = t.sources.offset + feature;
    const int64_t last = t.sources.rows - 1;
    if (t.prefetch.rows > 0) prefetch_row<A, P, K, 1>(t.prefetch, t.sources, last, at);
    if (t.prefetch.rows > 1) prefetch_row<A, P, K, 1>(t.prefetch, t.sources, last_of_both, at);
    prefetch_targets<A, P>(t, t.targets + feature);
    prefetch_targets<A, P>(t, t.targets + t.lower + feature);
    Vec<A, N> acc[2][P][1] = {};
    unroll<2>([&](auto q) JAXCONV_LAMBDA { start_sums<A, N>(t.epilogue, feature, acc[q]); });
    const auto add_rows = [&](auto first_target, auto last_target, int64_t begin,
                              int64_t end) JAXCONV_LAMBDA {
      constexpr int kFirst = decltype(first_target)::value;
      constexpr int kEnd = decltype(last_target)::value + 1;
      for (int64_t r = begin; r < end; ++r) {
        for_each_chunk<K>(t.sources.taps, [&](auto k, int64_t u0) JAXCONV_LAMBDA {
          constexpr int kTaps = decltype(k)::value;
          Vec<A, N> w[2][kTaps];
          unroll<kEnd, kFirst>([&](auto q) JAXCONV_LAMBDA {
            const A* weights = t.weights + t.weight_row[q][r] + feature;
            unroll<kTaps>([&](auto u) JAXCONV_LAMBDA {
              w[q][u] = load<A, N>(weights + (u0 + u) * t.tap_step);
            });
          });
          for_each_product<A, P, kTaps, 1>(
              t.sources, r, u0, at, [&](auto p, auto u, Vec<A, N> x) JAXCONV_LAMBDA {
                unroll<kEnd, kFirst>([&](auto q) JAXCONV_LAMBDA { acc[q][p][0] += x * w[q][u]; });
              });
        });
      }
    };
    add_rows(Index<0>{}, Index<0>{}, 0, t.upper);
    add_rows(Index<0>{}, Index<1>{}, t.upper, both_end);
    add_rows(Index<1>{}, Index<1>{}, both_end, t.sources.rows);
    write_targets<A, P>(t, t.targets + feature, acc[0]);
    write_targets<A, P>(t, t.targets + t.lower + feature, acc[1]);
  });
}

template <class A, int P, int K, int R>
void filter_tile(const FilterTile<A>& t) {
  constexpr int N = kLanes<A>;
  for_each_vector<N>(t.sources.features, [&](int64_t feature, int64_t ordinal) JAXCONV_LAMBDA {
    const int64_t at = t.sources.offset + feature;
    prefetch_sources<A, P, K, R>(t.prefetch, t.sources, at);
    prefetch_pixels<A, P>(t.prefetch, t.cotangents + feature, t.cotangent_step);
    Vec<A, N> g[P];
    unroll<P>([&](auto p) JAXCONV_LAMBDA {
      g[p] = load<A, N>(t.cotangents + p * t.cotangent_step + feature);
    });
    for (int64_t r = 0; r < t.sources.rows; ++r) {
      A* sums = t.sums + t.sums_row[r] + ordinal * N;
      for_each_chunk<K>(t.sources.taps, [&](auto k, int64_t u0) JAXCONV_LAMBDA {
        constexpr int kTaps = decltype(k)::value;
        Vec<A, N> acc[kTaps];
        unroll<kTaps>([&](auto u) JAXCONV_LAMBDA {
          acc[u] = load<A, N>(sums + (u0 + u) * t.tap_step);
        });
        for_each_product<A, P, kTaps, R>(
            t.sources, r, u0, at,
            [&](auto p, auto u, Vec<A, N> x) JAXCONV_LAMBDA { acc[u] += x * g[p]; });
        unroll<kTaps>([&](auto u) JAXCONV_LAMBDA {
          store<A, N>(sums + (u0 + u) * t.tap_step, acc[u]);
        });
      });
    }
  });
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
