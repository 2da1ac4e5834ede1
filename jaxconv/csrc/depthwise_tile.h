// The inner loops of a depthwise convolution: P neighbouring targets, all channels.
//
// Channels are innermost in memory and in the vectors. A tile walks the channels of its P targets a
// vector at a time; for each it walks the rows of the kernel, and in a row loads every source
// column once for all the (target, tap) pairs that share it: column c serves tap c - p*R of
// target p, where R is the spacing of targets in columns (the stride over the dilation).
// With P = 8, a 3-tap row takes 10 + 3 loads for 24 multiply-adds.

#pragma once

#include <cstdint>

#include "vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Where a tile finds its sources. Direct: column c of row r is at base + row[r] + c*column_step.
// Otherwise some columns lie in the padding, and a table holds each pointer: those point at zeros.
// The table of a row has (P-1)*R + taps columns, or P*taps where R is not a constant of the tile.
template <class T>
struct Columns {
  const T* base;
  const int64_t* row;
  int64_t column_step;
  const T* const* table;  // [rows][columns]
  int64_t columns;
  int64_t offset;         // of the first channel, where not at the pointers of the table
};

// The taps and channels of a tile; features are channels * multiplier.
struct TileShape {
  int64_t rows;      // valid kernel rows
  int64_t taps;      // in each
  int64_t ratio;     // R
  int64_t channels;
  int64_t multiplier;
  bool whole;        // the arrays hold at least a vector of channels
};

template <class T, bool Direct>
JAXCONV_INLINE const T* column(const Columns<T>& s, int64_t r, int64_t c) {
  if constexpr (Direct) {
    return s.base + s.row[r] + c * s.column_step;
  } else {
    return s.table[r * s.columns + c] + s.offset;
  }
}

// How a vector of features finds its channels.
enum class Lanes {
  kPlain,    // multiplier 1: the same index; at least a whole vector of channels
  kPartial,  // multiplier 1, fewer channels than lanes
  kExpand,   // multiplier M: channel f/M, through a permutation of the vector of channels
};

// One vector of features of a tile: which channels it reads, how they are spread, how many count.
template <int N>
struct Block {
  int64_t ordinal;
  int64_t channel, feature;
  int64_t source_lanes, lanes;
  Vec<int32_t, N> spread;
};

template <class T, class A, int N, Lanes L>
JAXCONV_INLINE Vec<A, N> load_source(const T* p, const Block<N>& b) {
  if constexpr (L == Lanes::kPlain) {
    return load<A, N>(p + b.channel);
  } else if constexpr (L == Lanes::kPartial) {
    return load<A, N, true>(p + b.channel, b.source_lanes);
  } else {
    const auto v = b.source_lanes == N ? load<A, N>(p + b.channel)
                                       : load<A, N, true>(p + b.channel, b.source_lanes);
    return permute<A, N>(v, b.spread);
  }
}

template <class T, class A, int N, Lanes L>
JAXCONV_INLINE Vec<A, N> load_features(const T* p, const Block<N>& b) {
  if constexpr (L == Lanes::kPlain) return load<A, N>(p + b.feature);
  if (L == Lanes::kExpand && b.lanes == N) return load<A, N>(p + b.feature);
  return load<A, N, true>(p + b.feature, b.lanes);
}

template <class T, class A, int N, Lanes L>
JAXCONV_INLINE void store_features(T* p, Vec<A, N> v, const Block<N>& b) {
  if constexpr (L == Lanes::kPlain) return store<A, N>(p + b.feature, v);
  if (L == Lanes::kExpand && b.lanes == N) return store<A, N>(p + b.feature, v);
  store<A, N, true>(p + b.feature, v, b.lanes);
}

// Calls f(block) for vectors that together cover all features. The last vector of channels is moved
// back to end with them: it computes some features again, to the same values. `channels` may be the
// last few of an array that holds a whole vector of them: the block then begins before the first.
template <int N, Lanes L, class F>
JAXCONV_INLINE void for_each_block(int64_t channels, int64_t multiplier, bool whole, F&& f) {
  Block<N> b{};
  if constexpr (L == Lanes::kPlain) {
    for (int64_t c = 0; c < channels; c += N) {
      b.channel = b.feature = smaller(c, channels - N);
      f(b);
      ++b.ordinal;
    }
  } else if constexpr (L == Lanes::kPartial) {
    b.source_lanes = b.lanes = channels;
    f(b);
  } else {
    b.source_lanes = whole ? N : channels;
    for (int64_t c = 0; c < channels; c += N) {
      b.channel = whole ? smaller(c, channels - N) : 0;
      for (int64_t j = 0; j * N < b.source_lanes * multiplier; ++j) {
        b.feature = b.channel * multiplier + j * N;
        b.lanes = smaller(N, b.source_lanes * multiplier - j * N);
        int32_t spread[N];
        for (int l = 0; l < N; ++l) spread[l] = static_cast<int32_t>((j * N + l) / multiplier);
        b.spread = load_bits<Vec<int32_t, N>>(spread);
        f(b);
        ++b.ordinal;
      }
    }
  }
}

// How many blocks that is.
template <int N>
JAXCONV_INLINE int64_t block_count(int64_t channels, int64_t multiplier, bool whole) {
  return whole ? ceil_div(channels, N) * multiplier : ceil_div(channels * multiplier, N);
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

// acc[p] += source(p, u) * weight[u] for K taps of one row, the first of them tap u0.
template <class T, class A, int N, Lanes L, int P, int K, int R, bool Direct>
JAXCONV_INLINE void gather_taps(Vec<A, N> (&acc)[P], const Columns<T>& sources, int64_t r,
                                int64_t u0, const TileShape& shape, const T* weights,
                                int64_t tap_step,
                                const Block<N>& block) {
  Vec<A, N> w[K];
  unroll<K>([&](auto u) JAXCONV_LAMBDA {
    w[u] = load_features<T, A, N, L>(weights + (u0 + u) * tap_step, block);
  });
  if constexpr (R > 0) {
    unroll<(P - 1) * R + K>([&](auto c) JAXCONV_LAMBDA {
      const auto x = load_source<T, A, N, L>(column<T, Direct>(sources, r, u0 + c), block);
      unroll<users<P, K, R>(c).end, users<P, K, R>(c).begin>([&](auto p) JAXCONV_LAMBDA {
        acc[p] += x * w[c - p * R];
      });
    });
  } else {
    unroll<K>([&](auto u) JAXCONV_LAMBDA {
      unroll<P>([&](auto p) JAXCONV_LAMBDA {
        const int64_t c = Direct ? u0 + u + p * shape.ratio : u0 + u + p * shape.taps;
        const T* from = column<T, Direct>(sources, r, c);
        acc[p] += load_source<T, A, N, L>(from, block) * w[u];
      });
    });
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

template <class T, class O>
struct GatherTile {
  Columns<T> sources;
  TileShape shape;
  const T* weights;
  const int64_t* weight_row;  // offset of each valid row's first tap
  int64_t tap_step;
  O* targets;
  int64_t target_step;
};

template <class T, class O, class A, int N, Lanes L, int P, int K, int R, bool Direct>
void gather_tile(const GatherTile<T, O>& t) {
  const TileShape& shape = t.shape;
  const auto compute = [&](const Block<N>& b) JAXCONV_LAMBDA {
    Vec<A, N> acc[P] = {};
    for (int64_t r = 0; r < t.shape.rows; ++r) {
      const T* weights = t.weights + t.weight_row[r];
      for_each_chunk<K>(t.shape.taps, [&](auto k, int64_t u0) JAXCONV_LAMBDA {
        gather_taps<T, A, N, L, P, decltype(k)::value, R, Direct>(
            acc, t.sources, r, u0, t.shape, weights, t.tap_step, b);
      });
    }
    unroll<P>([&](auto p) JAXCONV_LAMBDA {
      store_features<O, A, N, L>(t.targets + p * t.target_step, acc[p], b);
    });
  };
  for_each_block<N, L>(shape.channels, shape.multiplier, shape.whole, compute);
}

// The filter gradient of a tile: sums[row, u] += source(p, u) * g[p] over the P outputs. The sums
// hold a whole vector for each block, so that channels which two blocks share are not added twice.
template <class T, class A>
struct FilterTile {
  Columns<T> sources;
  TileShape shape;
  const T* cotangents;
  int64_t cotangent_step;
  A* sums;
  const int64_t* sums_row;
  int64_t tap_step;
};

template <class T, class A, int N, Lanes L, int P, int K, int R, bool Direct>
JAXCONV_INLINE void filter_taps(const Vec<A, N> (&g)[P], const Columns<T>& sources, int64_t r,
                                int64_t u0, const TileShape& shape, A* sums, int64_t tap_step,
                                const Block<N>& block) {
  Vec<A, N> acc[K];
  unroll<K>([&](auto u) JAXCONV_LAMBDA {
    acc[u] = load<A, N>(sums + (u0 + u) * tap_step + block.ordinal * N);
  });
  if constexpr (R > 0) {
    unroll<(P - 1) * R + K>([&](auto c) JAXCONV_LAMBDA {
      const auto x = load_source<T, A, N, L>(column<T, Direct>(sources, r, u0 + c), block);
      unroll<users<P, K, R>(c).end, users<P, K, R>(c).begin>([&](auto p) JAXCONV_LAMBDA {
        acc[c - p * R] += x * g[p];
      });
    });
  } else {
    unroll<P>([&](auto p) JAXCONV_LAMBDA {
      unroll<K>([&](auto u) JAXCONV_LAMBDA {
        const int64_t c = Direct ? u0 + u + p * shape.ratio : u0 + u + p * shape.taps;
        const T* from = column<T, Direct>(sources, r, c);
        acc[u] += load_source<T, A, N, L>(from, block) * g[p];
      });
    });
  }
  unroll<K>([&](auto u) JAXCONV_LAMBDA {
    store<A, N>(sums + (u0 + u) * tap_step + block.ordinal * N, acc[u]);
  });
}

template <class T, class A, int N, Lanes L, int P, int K, int R, bool Direct>
void filter_tile(const FilterTile<T, A>& t) {
  const TileShape& shape = t.shape;
  const auto compute = [&](const Block<N>& b) JAXCONV_LAMBDA {
    Vec<A, N> g[P];
    unroll<P>([&](auto p) JAXCONV_LAMBDA {
      g[p] = load_features<T, A, N, L>(t.cotangents + p * t.cotangent_step, b);
    });
    for (int64_t r = 0; r < t.shape.rows; ++r) {
      A* sums = t.sums + t.sums_row[r];
      for_each_chunk<K>(t.shape.taps, [&](auto k, int64_t u0) JAXCONV_LAMBDA {
        filter_taps<T, A, N, L, P, decltype(k)::value, R, Direct>(
            g, t.sources, r, u0, t.shape, sums, t.tap_step, b);
      });
    }
  };
  for_each_block<N, L>(shape.channels, shape.multiplier, shape.whole, compute);
}

// Ratios that tables of shared columns serve; beyond, each (target, tap) pair has its own column.
constexpr int64_t kSharedRatio = 2;

// The tile function for taps, ratio and kind of sources known at run time; Choice<P, K, R, Direct>
// names it. Where `Specialised`, the taps of common kernels are constants: compiling those for
// every type and machine would take many minutes, so they are for float32 on machines of today.
template <class Tile, template <int, int, int, bool> class Choice, int P, bool Specialised>
Tile choose_tile(int64_t taps, int64_t ratio, bool direct) {
  const auto by_source = [&](auto k, auto r) JAXCONV_LAMBDA -> Tile {
    constexpr int K = decltype(k)::value, R = decltype(r)::value;
    return direct ? Tile(Choice<P, K, R, true>::run) : Tile(Choice<P, K, R, false>::run);
  };
  if constexpr (Specialised) {
    if (ratio == 1) {
      if (taps == 3) return by_source(Index<3>{}, Index<1>{});
      if (taps == 5) return by_source(Index<5>{}, Index<1>{});
      if (taps == 7) return by_source(Index<7>{}, Index<1>{});
    } else if (ratio == 2) {
      if (taps == 3) return by_source(Index<3>{}, Index<2>{});
      if (taps == 5) return by_source(Index<5>{}, Index<2>{});
    }
  }
  if (ratio == 1) return by_source(Index<0>{}, Index<1>{});
  if (ratio == 2) return by_source(Index<0>{}, Index<2>{});
  return by_source(Index<0>{}, Index<0>{});
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
