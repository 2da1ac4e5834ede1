// The inner loop of grouped and dense gathers: a tile of pixels times a panel of features.
//
// The accumulators of R pixels x V vectors of features stay in registers through the whole
// reduction, so that results of every element type are rounded once. Weights are read in order from
// a packed panel. Each pixel has a pointer to its sources, also in a register; sources are
// broadcast one element at a time from that pointer plus an offset common to all pixels.
//
// R x V = 6 x 4 needs 10 loads per 24 multiply-adds; 12 x 2 needs 14, which made a Xeon 7 to 50 %
// slower (see docs/design/measurements.md).

#pragma once

#include <cstdint>

#include "geometry.h"
#include "isa/dense/tile.h"
#include "isa/result_writer.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Tiles of the widest panels prefetch between blocks of products. The others read little, and their
// loops are short. (A prefetch for each product made 1x1 56x56 24>144 5 % slower, see
// docs/design/measurements.md.)
template <int R, int V>
constexpr bool kPrefetches = R <= 6 && V == (kVectorRegisters == 32 ? 4 : 2);

template <class A, int N, int R, int V, int... I>
JAXCONV_INLINE void add_pixels(const char* const (&source)[R], int64_t at, const Vec<A, N> (&w)[V],
                               Vec<A, N> (&acc)[R][V], Indices<I...>) {
  (add_products(broadcast<A, N>(load_bits<A>(source[I] + at)), w, acc[I], IndicesBelow<V>{}), ...);
}

// Adds the product of one source per pixel with one vector of weights per vector of features.
template <class A, int N, int R, int V>
JAXCONV_INLINE void add_product(const char* const (&source)[R], int64_t& at, const A*& weights,
                                Vec<A, N> (&acc)[R][V]) {
  Vec<A, N> w[V];
  load_each(weights, N, w, IndicesBelow<V>{});
  add_pixels<A, N>(source, at, w, acc, IndicesBelow<R>{});
  at += sizeof(A);
  weights += V * N;
}

// Adds `count` products, in pairs where there are 32 registers, which is 3 to 6 % faster on a Xeon
// (see docs/design/measurements.md).
template <class A, int N, int R, int V>
JAXCONV_INLINE void add_run(const char* const (&source)[R], int64_t count, int64_t& at,
                            const A*& weights, Vec<A, N> (&acc)[R][V]) {
  if constexpr (kVectorRegisters == 32) {
    for (; count % 2 != 0; --count) add_product<A, N>(source, at, weights, acc);
    for (; count > 0; count -= 2) {
      add_product<A, N>(source, at, weights, acc);
      add_product<A, N>(source, at, weights, acc);
    }
  } else {
    for (; count > 0; --count) add_product<A, N>(source, at, weights, acc);
  }
}

// Leaves the accumulators in an array, in rows of whole vectors, for a function that serves tiles
// of all sizes.
template <class A, int N, int R, int V>
JAXCONV_INLINE void write_from_array(const GatherTileArgs<A>& t, const Vec<A, N> (&acc)[R][V]) {
  constexpr int kLanes = kVectorBytes / sizeof(A);
  constexpr int kStride = (V * N + kLanes - 1) / kLanes * kLanes;
  alignas(kVectorBytes) A values[R * kStride];
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    store_each(acc[r], values + r * kStride, N, IndicesBelow<V>{});
  });
  t.write(t.writer, {values, kStride, t.pixels, t.feature, t.lanes}, t.targets);
}

template <class A, int N, int R, int V>
void gather_tile(const GatherTileArgs<A>& t) {
  Vec<A, N> acc[R][V] = {};
  start_sums<A, N>(t.epilogue, t.feature, acc);
  const char* source[R];
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    source[r] = reinterpret_cast<const char*>(t.sources[r] + t.channel);
  });
  [[maybe_unused]] const char* ahead = t.prefetch;
  for (int64_t e = 0; e < t.runs; ++e) {
    const A* weights = t.panel + t.panel_row[e] * (V * N);
    int64_t at = t.offset[e] * static_cast<int64_t>(sizeof(A));
    // With 16 registers these tiles serve few features too: a second, plain loop is for them.
    if (!kPrefetches<R, V> || (kVectorRegisters == 16 && t.prefetch_bytes == 0)) {
      add_run<A, N>(source, t.length, at, weights, acc);
      continue;
    }
    for (int64_t done = 0; done < t.length; done += kPrefetchBlock) {
      const char* const end = ahead + t.prefetch_bytes;
      for (; ahead < end; ahead += 64) __builtin_prefetch(ahead, 0, 2);
      add_run<A, N>(source, smaller(kPrefetchBlock, t.length - done), at, weights, acc);
    }
  }
  limit_sums<A, N>(t.epilogue, acc);
  const bool whole = t.lanes == V * N;
  if (!t.direct || !(whole || kMaskedStores)) return write_from_array<A, N, R, V>(t, acc);
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    if (r >= t.pixels) return;
    A* target = static_cast<A*>(t.targets[r]) + t.feature;
    if (!kMaskedStores || whole) return store_each(acc[r], target, N, IndicesBelow<V>{});
    unroll<V>([&](auto v) JAXCONV_LAMBDA {
      if (v * N < t.lanes) {
        store<A, N, true>(target + v * N, acc[r][v], smaller(N, t.lanes - v * N));
      }
    });
  });
}

template <class A, int N, int R, int V, int MinV = V>
GatherTiles<A> gather_tiles() {
  GatherTiles<A> tiles{{}, R, V, N};
  unroll<kTileSizes>([&](auto size) {
    unroll<V + 1, MinV>([&](auto v) {
      tiles.run[size][v - 1] =
          gather_tile<A, N, tile_pixels(R, decltype(size)::value), decltype(v)::value>;
    });
  });
  return tiles;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
