// The inner loops of a depthwise convolution: P neighbouring targets, a chunk of features.
//
// Features are innermost in memory and in the vectors. A tile walks the features of its P targets a
// vector at a time; for each it walks the rows of the kernel, and in a row loads every source
// column once for all the (target, tap) pairs that share it: column c serves tap c - p*R of
// target p, where R is the spacing of targets in columns (the stride over the dilation).
// With P = 8, a 3-tap row takes 10 + 3 loads for 24 multiply-adds.
//
// Tiles know accumulators alone, whole vectors of them: whatever is narrower, of another type or
// spread over several features is staged before (depthwise_sources.h). So they are compiled for two
// types, in objects of their own, and the walks for all four types share them.

#pragma once

#include <cstdint>

#include "geometry.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

constexpr int kWidestTile = 8;

template <class A>
constexpr int kLanes = kVectorBytes / sizeof(A);

// The sources of a tile: for each of the kernel's rows that exist, pointers to the columns. Those
// in the padding point at zeros.
template <class A>
struct TileSources {
  const A* const* table;  // [rows][columns], from the tile's first column on
  int64_t columns;        // from one row's pointers to the next one's
  int64_t offset;         // of the first feature from the pointers
  int64_t rows, taps;     // taps in each row
  int64_t spacing;        // R
  int64_t features;       // at least a vector of them
};

// What a later row of targets needs of arrays that no cache holds: sources that lie `source`
// elements after those of the last `rows` rows, and pixels that lie `pixel` elements after the
// tile's targets or cotangents.
struct Ahead {
  int64_t rows = 0;  // of sources; none where caches hold the arrays
  int64_t source = 0, pixel = 0;
};

template <class A>
struct GatherTile {
  TileSources<A> sources;
  Ahead ahead;
  const A* weights;
  const int64_t* weight_row[2];  // offset of each row's first tap for the upper and the lower row
                                 // of a pair of targets
  int64_t upper, both;  // of a pair: rows that the upper one alone sees, which come first, and both
  int64_t tap_step;
  A* targets;
  int64_t target_step;
  int64_t lower;  // offset of the lower row's targets
  bool streams;   // targets are written past the caches, in whole aligned vectors
};

// sums[row, u] += source(p, u) * g[p] over the P outputs. The sums hold a whole vector for each one
// of features, so that features which two of them share are not added twice.
template <class A>
struct FilterTile {
  TileSources<A> sources;
  Ahead ahead;
  const A* cotangents;
  int64_t cotangent_step;
  A* sums;
  const int64_t* sums_row;
  int64_t tap_step;
};

// The functions for taps, spacing and width (1 … kWidestTile) known at run time.
template <class A>
struct DepthwiseTiles {
  static void (*gather(int64_t taps, int64_t spacing, int64_t width))(const GatherTile<A>&);
  // Of two rows of targets at once; null where there are none.
  static void (*gather_pair(int64_t taps, int64_t spacing, int64_t width))(const GatherTile<A>&);
  static void (*filter(int64_t taps, int64_t spacing, int64_t width))(const FilterTile<A>&);
};

// Calls f(first feature, ordinal) for vectors that together cover `features`, at least one vector.
// The last is moved back to end with them: it computes some features again, to the same values.
template <int N, class F>
JAXCONV_INLINE void for_each_vector(int64_t features, F&& f) {
  for (int64_t i = 0; i * N < features; ++i) f(smaller(i * N, features - N), i);
}

// The targets p of P that use column c, by their tap c - p*R of K.
struct Users {
  int begin, end;
};
template <int P, int K, int R>
constexpr Users users(int c) {
  const int begin = c < K ? 0 : (c - K) / R + 1, end = c / R + 1;
  return {begin, end < P ? end : P};
}

// Calls f(p, u, column p*R + u) for all targets and K taps, whose first is u0, with each column
// loaded once where R is a constant.
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

// Ask for a vector of what a later row of targets needs, while this one is computed. Tiles read P
// pixels' first vectors, then their second ones, which the prefetchers of an AMD EPYC follow from
// memory at 11 GB/s, where addresses that rise one by one come at 29.
template <class A, int P, int K, int R>
JAXCONV_INLINE void ask_for_row(const Ahead& ahead, const TileSources<A>& s, int64_t r,
                                int64_t at) {
  constexpr int kColumns = P * (R > 0 ? R : 1), kFirst = K > R ? (K - R) / 2 : 0;
  const A* const* row = s.table + r * s.columns + kFirst;
  unroll<kColumns>([&](auto c) JAXCONV_LAMBDA {
    __builtin_prefetch(row[R > 0 ? c : c * s.spacing] + (at + ahead.source), 0, 2);
  });
}

template <class A, int P, int K, int R>
JAXCONV_INLINE void ask_for_sources(const Ahead& ahead, const TileSources<A>& s, int64_t at) {
  for (int64_t r = s.rows - ahead.rows; r < s.rows; ++r) ask_for_row<A, P, K, R>(ahead, s, r, at);
}

template <class A, int P>
JAXCONV_INLINE void ask_for_pixels(const Ahead& ahead, const A* pixels, int64_t step) {
  if (ahead.rows == 0) return;
  unroll<P>([&](auto p) JAXCONV_LAMBDA {
    __builtin_prefetch(pixels + (p * step + ahead.pixel), 0, 2);
  });
}

// Of targets that are written past the caches nothing is read before.
template <class A, int P>
JAXCONV_INLINE void ask_for_targets(const GatherTile<A>& t, const A* targets) {
  if (!t.streams) ask_for_pixels<A, P>(t.ahead, targets, t.target_step);
}

template <class A, int P>
JAXCONV_INLINE void write_targets(const GatherTile<A>& t, A* targets,
                                  const Vec<A, kLanes<A>> (&acc)[P]) {
  constexpr int N = kLanes<A>;
  if (kStreams && t.streams) {
    unroll<P>([&](auto p) JAXCONV_LAMBDA { stream<A, N>(targets + p * t.target_step, acc[p]); });
  } else {
    unroll<P>([&](auto p) JAXCONV_LAMBDA { store<A, N>(targets + p * t.target_step, acc[p]); });
  }
}

// Calls f(taps as a constant, first tap) over all taps of a row: in one go where K is their number,
// otherwise (K = 0) by fours, a two and a one.
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
    ask_for_sources<A, P, K, R>(t.ahead, t.sources, at);
    ask_for_targets<A, P>(t, t.targets + feature);
    Vec<A, N> acc[P] = {};
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
            [&](auto p, auto u, Vec<A, N> x) JAXCONV_LAMBDA { acc[p] += x * w[u]; });
      });
    }
    write_targets<A, P>(t, t.targets + feature, acc);
  });
}

// Two rows of neighbouring targets, the lower one row of sources further: of every source row but the
// first and the last, what is loaded serves both. 3x3 kernels so take a third less from the L2 cache:
// 3x3x3 2x16x32x32x64 10 % faster on Zen 4, 3x3 8x28x28x128 with a multiplier of 2 20 %. On a Xeon of
// two multiply-adds a cycle 7x7 8x56x56x96 takes 11 % less, 31x31 1x28x28x128 23 %. Rows are sorted by
// who sees them: asking each took that a fifth.
template <class A, int P, int K>
void gather_pair_tile(const GatherTile<A>& t) {
  constexpr int N = kLanes<A>;
  // The last row that both see, where one does. At the top of a volume it may be none, while the lower
  // row of targets sees one of each plane.
  const int64_t both_end = t.upper + t.both, last_of_both = larger(both_end, 1) - 1;
  for_each_vector<N>(t.sources.features, [&](int64_t feature, int64_t) JAXCONV_LAMBDA {
    const int64_t at = t.sources.offset + feature;
    if (t.ahead.rows > 0) ask_for_row<A, P, K, 1>(t.ahead, t.sources, t.sources.rows - 1, at);
    if (t.ahead.rows > 1) ask_for_row<A, P, K, 1>(t.ahead, t.sources, last_of_both, at);
    ask_for_targets<A, P>(t, t.targets + feature);
    ask_for_targets<A, P>(t, t.targets + t.lower + feature);
    Vec<A, N> acc[2][P] = {};
    const auto add_rows = [&](auto first, auto last, int64_t begin, int64_t end) JAXCONV_LAMBDA {
      constexpr int kFirst = decltype(first)::value, kEnd = decltype(last)::value + 1;
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
                unroll<kEnd, kFirst>([&](auto q) JAXCONV_LAMBDA { acc[q][p] += x * w[q][u]; });
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
    ask_for_sources<A, P, K, R>(t.ahead, t.sources, at);
    ask_for_pixels<A, P>(t.ahead, t.cotangents + feature, t.cotangent_step);
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
