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
template <int P, int K, int R>
constexpr int first_user(int c) {
  return c < K ? 0 : (c - K) / R + 1;
}
template <int P, int K, int R>
constexpr int count_users(int c) {
  return (c / R + 1 < P ? c / R + 1 : P) - first_user<P, K, R>(c);
}

// What sources are multiplied with, and where the products are added: for a gather, factors are
// weights [K] and there is a sum per target; for a filter gradient, factors are cotangents [P] and
// there is a sum per tap.
template <class V, int S, int F>
struct Products {
  V (&sums)[S];
  const V (&factors)[F];
};
enum class SumPer { kTarget, kTap };

// Adds the products of one source and the targets p = First + I, of which it is tap Column - p*R.
template <SumPer Per, int R, int Column, int First, class V, int S, int F, int... I>
JAXCONV_INLINE void add_source([[maybe_unused]] V x, [[maybe_unused]] Products<V, S, F> to,
                               Indices<I...>) {
  [[maybe_unused]] constexpr bool kPerTarget = Per == SumPer::kTarget;
  ((to.sums[kPerTarget ? First + I : Column - (First + I) * R] +=
    x * to.factors[kPerTarget ? Column - (First + I) * R : First + I]),
   ...);
}

// Adds the products of one column, loaded once for one or two rows of targets.
template <SumPer Per, int P, int K, int R, int Column, class V, class... To>
JAXCONV_INLINE void add_column(V x, To... to) {
  (add_source<Per, R, Column, first_user<P, K, R>(Column)>(
       x, to, IndicesBelow<count_users<P, K, R>(Column)>{}),
   ...);
}

// Adds the products of a row of sources, for all P targets and K taps; `row` points to the column
// of the first of them. If R is a constant, each column is loaded once.
template <SumPer Per, int P, int K, int R, class A, int... C, class... To>
JAXCONV_INLINE void add_columns(const A* const* row, int64_t at, Indices<C...>, To... to) {
  (add_column<Per, P, K, R, C>(load<A, kLanes<A>>(row[C] + at), to...), ...);
}
template <SumPer Per, int K, class A, int... I, class To>
JAXCONV_INLINE void add_spaced_columns(const A* const* row, int64_t spacing, int64_t at,
                                       Indices<I...>, To to) {
  (add_source<Per, K, I, I / K>(load<A, kLanes<A>>(row[I / K * spacing + I % K] + at), to,
                                Indices<0>{}),
   ...);
}
template <SumPer Per, int P, int K, int R, class A, class... To>
JAXCONV_INLINE void add_row(const TileSources<A>& s, const A* const* row, int64_t at, To... to) {
  if constexpr (R > 0) {
    add_columns<Per, P, K, R, A>(row, at, IndicesBelow<(P - 1) * R + K>{}, to...);
  } else {
    add_spaced_columns<Per, K, A>(row, s.spacing, at, IndicesBelow<P * K>{}, to...);
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
JAXCONV_INLINE void start_targets(const GatherTile<A>& t, int64_t feature,
                                  Vec<A, kLanes<A>> (&sums)[P]) {
  if (t.epilogue.bias == nullptr) return;
  const auto bias = load<A, kLanes<A>>(t.epilogue.bias + feature);
  unroll<P>([&](auto p) JAXCONV_LAMBDA { sums[p] = bias; });
}

template <class A, int P>
JAXCONV_INLINE void write_targets(const GatherTile<A>& t, A* targets,
                                  Vec<A, kLanes<A>> (&sums)[P]) {
  constexpr int N = kLanes<A>;
  limit_sums<A, N>(t.epilogue, sums);
  if (kStreams && t.streams) {
    unroll<P>([&](auto p) JAXCONV_LAMBDA { stream<A, N>(targets + p * t.target_step, sums[p]); });
  } else {
    unroll<P>([&](auto p) JAXCONV_LAMBDA { store<A, N>(targets + p * t.target_step, sums[p]); });
  }
}

// Adds taps [u0, u0 + K) of a row of sources.
template <class A, int P, int K, int R>
JAXCONV_INLINE void gather_taps(const GatherTile<A>& t, int64_t r, int64_t u0, int64_t feature,
                                Vec<A, kLanes<A>> (&sums)[P]) {
  Vec<A, kLanes<A>> w[K];
  load_each(t.weights + t.weight_row[0][r] + feature + u0 * t.tap_step, t.tap_step, w,
            IndicesBelow<K>{});
  const TileSources<A>& s = t.sources;
  add_row<SumPer::kTarget, P, K, R>(s, s.table + r * s.columns + u0, s.offset + feature,
                                    Products<Vec<A, kLanes<A>>, P, K>{sums, w});
}

template <class A, int P, int K, int R>
void gather_tile(const GatherTile<A>& t) {
  constexpr int N = kLanes<A>;
  for (int64_t i = 0; i * N < t.sources.features; ++i) {
    const int64_t feature = feature_of_vector<N>(i, t.sources.features);
    prefetch_sources<A, P, K, R>(t.prefetch, t.sources, t.sources.offset + feature);
    prefetch_targets<A, P>(t, t.targets + feature);
    Vec<A, N> sums[P] = {};
    start_targets<A, P>(t, feature, sums);
    for (int64_t r = 0; r < t.sources.rows; ++r) {
      if constexpr (K > 0) {
        gather_taps<A, P, K, R>(t, r, 0, feature, sums);
      } else {
        int64_t u = 0;
        for (; u + 4 <= t.sources.taps; u += 4) gather_taps<A, P, 4, R>(t, r, u, feature, sums);
        if (t.sources.taps & 2) gather_taps<A, P, 2, R>(t, r, u, feature, sums);
        if (t.sources.taps & 1) {
          gather_taps<A, P, 1, R>(t, r, t.sources.taps - 1, feature, sums);
        }
      }
    }
    write_targets<A, P>(t, t.targets + feature, sums);
  }
}

// Adds taps [u0, u0 + K) of source rows [begin, end) to the upper row of targets, the lower, or
// both.
template <class A, int P, int K, bool Upper, bool Lower>
JAXCONV_INLINE void gather_pair_taps(const GatherTile<A>& t, int64_t r, int64_t u0, int64_t feature,
                                     Vec<A, kLanes<A>> (&sums)[2][P]) {
  using V = Vec<A, kLanes<A>>;
  V w[2][K];
  const A* const weights = t.weights + feature + u0 * t.tap_step;
  if constexpr (Upper) {
    load_each(weights + t.weight_row[0][r], t.tap_step, w[0], IndicesBelow<K>{});
  }
  if constexpr (Lower) {
    load_each(weights + t.weight_row[1][r], t.tap_step, w[1], IndicesBelow<K>{});
  }
  const TileSources<A>& s = t.sources;
  const A* const* const row = s.table + r * s.columns + u0;
  const int64_t at = s.offset + feature;
  using Row = Products<V, P, K>;
  if constexpr (Upper && Lower) {
    add_row<SumPer::kTarget, P, K, 1>(s, row, at, Row{sums[0], w[0]}, Row{sums[1], w[1]});
  } else {
    add_row<SumPer::kTarget, P, K, 1>(s, row, at, Row{sums[Lower], w[Lower]});
  }
}

template <class A, int P, int K, bool Upper, bool Lower>
JAXCONV_INLINE void gather_pair_rows(const GatherTile<A>& t, int64_t begin, int64_t end,
                                     int64_t feature, Vec<A, kLanes<A>> (&sums)[2][P]) {
  for (int64_t r = begin; r < end; ++r) {
    if constexpr (K > 0) {
      gather_pair_taps<A, P, K, Upper, Lower>(t, r, 0, feature, sums);
    } else {
      int64_t u = 0;
      for (; u + 4 <= t.sources.taps; u += 4) {
        gather_pair_taps<A, P, 4, Upper, Lower>(t, r, u, feature, sums);
      }
      if (t.sources.taps & 2) gather_pair_taps<A, P, 2, Upper, Lower>(t, r, u, feature, sums);
      if (t.sources.taps & 1) {
        gather_pair_taps<A, P, 1, Upper, Lower>(t, r, t.sources.taps - 1, feature, sums);
      }
    }
  }
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
  for (int64_t i = 0; i * N < t.sources.features; ++i) {
    const int64_t feature = feature_of_vector<N>(i, t.sources.features);
    const int64_t at = t.sources.offset + feature;
    const int64_t last = t.sources.rows - 1;
    if (t.prefetch.rows > 0) prefetch_row<A, P, K, 1>(t.prefetch, t.sources, last, at);
    if (t.prefetch.rows > 1) prefetch_row<A, P, K, 1>(t.prefetch, t.sources, last_of_both, at);
    prefetch_targets<A, P>(t, t.targets + feature);
    prefetch_targets<A, P>(t, t.targets + t.lower + feature);
    Vec<A, N> sums[2][P] = {};
    start_targets<A, P>(t, feature, sums[0]);
    start_targets<A, P>(t, feature, sums[1]);
    gather_pair_rows<A, P, K, true, false>(t, 0, t.upper, feature, sums);
    gather_pair_rows<A, P, K, true, true>(t, t.upper, both_end, feature, sums);
    gather_pair_rows<A, P, K, false, true>(t, both_end, t.sources.rows, feature, sums);
    write_targets<A, P>(t, t.targets + feature, sums[0]);
    write_targets<A, P>(t, t.targets + t.lower + feature, sums[1]);
  }
}

// Adds to the sums of taps [u0, u0 + K).
template <class A, int P, int K, int R>
JAXCONV_INLINE void filter_taps(const FilterTile<A>& t, int64_t r, int64_t u0, int64_t at,
                                A* row_sums, const Vec<A, kLanes<A>> (&g)[P]) {
  Vec<A, kLanes<A>> sums[K];
  const TileSources<A>& s = t.sources;
  load_each(row_sums + u0 * t.tap_step, t.tap_step, sums, IndicesBelow<K>{});
  add_row<SumPer::kTap, P, K, R>(s, s.table + r * s.columns + u0, at,
                                 Products<Vec<A, kLanes<A>>, K, P>{sums, g});
  store_each(sums, row_sums + u0 * t.tap_step, t.tap_step, IndicesBelow<K>{});
}

template <class A, int P, int K, int R>
void filter_tile(const FilterTile<A>& t) {
  constexpr int N = kLanes<A>;
  for (int64_t i = 0; i * N < t.sources.features; ++i) {
    const int64_t feature = feature_of_vector<N>(i, t.sources.features);
    const int64_t at = t.sources.offset + feature;
    prefetch_sources<A, P, K, R>(t.prefetch, t.sources, at);
    prefetch_pixels<A, P>(t.prefetch, t.cotangents + feature, t.cotangent_step);
    Vec<A, N> g[P];
    load_each(t.cotangents + feature, t.cotangent_step, g, IndicesBelow<P>{});
    for (int64_t r = 0; r < t.sources.rows; ++r) {
      A* sums = t.sums + t.sums_row[r] + i * N;
      if constexpr (K > 0) {
        filter_taps<A, P, K, R>(t, r, 0, at, sums, g);
      } else {
        int64_t u = 0;
        for (; u + 4 <= t.sources.taps; u += 4) filter_taps<A, P, 4, R>(t, r, u, at, sums, g);
        if (t.sources.taps & 2) filter_taps<A, P, 2, R>(t, r, u, at, sums, g);
        if (t.sources.taps & 1) filter_taps<A, P, 1, R>(t, r, t.sources.taps - 1, at, sums, g);
      }
    }
  }
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
