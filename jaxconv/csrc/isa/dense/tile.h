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
#include "isa/dense/tile_sizes.h"
#include "isa/result_writer.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// The reduction is a list of runs: `length` sources that are contiguous in memory, and as many rows
// of the panel. tests/kernels/test_dense_tiles.py mirrors this struct.
template <class T, class A>
struct GatherTileArgs {
  const A* const* sources;   // [R]: one pointer per pixel
  const int64_t* offset;     // [runs]: where a run starts, relative to those pointers
  const int64_t* panel_row;  // [runs]: the first row of a run in the panel
  int64_t runs, length;      // number of runs, elements of each
  int64_t channel;           // first channel of the group, added to every offset
  const A* panel;            // [rows][V*N]
  const char* prefetch;      // bytes that later tiles read, and how many for each block of products
  int64_t prefetch_bytes;
  T* const* targets;         // [R]: one pointer per pixel
  int64_t pixels;            // how many of the R pixels exist
  int64_t feature, lanes;    // the first feature, and how many of the V*N exist
  TileEpilogue<A> epilogue;
  const ResultWriter<T>* writer;  // for any other epilogue, or null
};

// Tiles of the widest panels prefetch between blocks of products. The others read little, and their
// loops are short. (A prefetch for each product made 1x1 56x56 24>144 5 % slower, see
// docs/design/measurements.md.)
constexpr int64_t kPrefetchBlock = 16;
template <int R, int V>
constexpr bool kPrefetches = R <= 6 && V == (kVectorRegisters == 32 ? 4 : 2);

// Calls step() `count` times, in pairs where there are 32 registers, which is 3 to 6 % faster on a
// Xeon (see docs/design/measurements.md).
template <class F>
JAXCONV_INLINE void repeat_in_pairs(int64_t count, F&& step) {
  constexpr int kSteps = kVectorRegisters == 32 ? 2 : 1;
  for (; count % kSteps != 0; --count) step();
  for (; count > 0; count -= kSteps) unroll<kSteps>([&](auto) JAXCONV_LAMBDA { step(); });
}

// Leaves the accumulators in an array, in rows of whole vectors, for a function that serves tiles
// of all sizes.
template <class T, class A, int N, int R, int V>
JAXCONV_INLINE void write_from_array(const GatherTileArgs<T, A>& t, const Vec<A, N> (&acc)[R][V]) {
  constexpr int kLanes = kVectorBytes / sizeof(A);
  constexpr int kStride = (V * N + kLanes - 1) / kLanes * kLanes;
  alignas(kVectorBytes) A values[R * kStride];
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    unroll<V>([&](auto v) JAXCONV_LAMBDA {
      store<A, N>(values + r * kStride + v * N, acc[r][v]);
    });
  });
  const TileSums<A> sums{values, kStride, t.pixels, t.feature, t.lanes};
  if (t.writer != nullptr) {
    t.writer->write(sums, t.targets);
  } else {
    store_sums(sums, t.targets);
  }
}

template <class T, class A, int N, int R, int V>
void gather_tile(const GatherTileArgs<T, A>& t) {
  Vec<A, N> acc[R][V] = {};
  start_sums<A, N>(t.epilogue, t.feature, acc);
  const char* source[R];
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    source[r] = reinterpret_cast<const char*>(t.sources[r] + t.channel);
  });
  [[maybe_unused]] const char* ahead = t.prefetch;
  for (int64_t e = 0; e < t.runs; ++e) {
    const A* weights = t.panel + t.panel_row[e] * (V * N);
    int64_t c = t.offset[e] * static_cast<int64_t>(sizeof(A));
    const auto add_product = [&]() JAXCONV_LAMBDA {
      Vec<A, N> w[V];
      unroll<V>([&](auto v) JAXCONV_LAMBDA { w[v] = load<A, N>(weights + v * N); });
      unroll<R>([&](auto r) JAXCONV_LAMBDA {
        const auto x = broadcast<A, N>(load_bits<A>(source[r] + c));
        unroll<V>([&](auto v) JAXCONV_LAMBDA { acc[r][v] += x * w[v]; });
      });
      c += sizeof(A);
      weights += V * N;
    };
    // With 16 registers these tiles serve few features too: a second, plain loop is for them.
    if (!kPrefetches<R, V> || (kVectorRegisters == 16 && t.prefetch_bytes == 0)) {
      repeat_in_pairs(t.length, add_product);
      continue;
    }
    for (int64_t done = 0; done < t.length; done += kPrefetchBlock) {
      const char* const end = ahead + t.prefetch_bytes;
      for (; ahead < end; ahead += 64) __builtin_prefetch(ahead, 0, 2);
      repeat_in_pairs(smaller(kPrefetchBlock, t.length - done), add_product);
    }
  }
  limit_sums<A, N>(t.epilogue, acc);
  const bool whole = t.lanes == V * N;
  if (t.writer != nullptr || !(whole || kMaskedStores)) {
    return write_from_array<T, A, N, R, V>(t, acc);
  }
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    if (r >= t.pixels) return;
    T* target = t.targets[r] + t.feature;
    unroll<V>([&](auto v) JAXCONV_LAMBDA {
      if (!kMaskedStores || whole) {
        store<A, N>(target + v * N, acc[r][v]);
      } else if (v * N < t.lanes) {
        store<A, N, true>(target + v * N, acc[r][v], smaller(N, t.lanes - v * N));
      }
    });
  });
}

constexpr int kMaxTilePixels = 12;
constexpr int kMaxTileVectors = 4;

// The compiled tiles for one width of group: by size (see tile_sizes.h) and number of vectors.
template <class T, class A>
struct GatherTiles {
  void (*run[kTileSizes][kMaxTileVectors])(const GatherTileArgs<T, A>&);
  int64_t pixels;   // R of a full tile
  int64_t vectors;  // V of a full panel
  int64_t lanes;    // N
};

template <class T, class A, int N, int R, int V, int MinV = V>
GatherTiles<T, A> gather_tiles() {
  GatherTiles<T, A> tiles{{}, R, V, N};
  unroll<kTileSizes>([&](auto size) {
    unroll<V + 1, MinV>([&](auto v) {
      tiles.run[size][v - 1] =
          gather_tile<T, A, N, tile_pixels(R, decltype(size)::value), decltype(v)::value>;
    });
  });
  return tiles;
}

// The tiles for groups of `features` features: the narrowest vectors that hold them, or else as few
// panels as the registers allow.
template <class T, class A>
GatherTiles<T, A> choose_gather_tiles(int64_t features) {
  constexpr int N = kVectorBytes / sizeof(A);
  if constexpr (kVectorBytes >= 64) {
    if (features <= N / 4) return gather_tiles<T, A, N / 4, 12, 1>();
  }
  if constexpr (kVectorBytes >= 32) {
    if (features <= N / 2) return gather_tiles<T, A, N / 2, 12, 1>();
  }
  if (features <= N) return gather_tiles<T, A, N, 12, 1>();
  if constexpr (kVectorRegisters == 32) {
    const int64_t vectors = ceil_div(features, N);
    switch (ceil_div(vectors, ceil_div(vectors, kMaxTileVectors))) {  // panels of similar width
      case 2: return gather_tiles<T, A, N, 12, 2, 1>();
      case 3: return gather_tiles<T, A, N, 8, 3, 1>();
      default: return gather_tiles<T, A, N, 6, 4, 1>();
    }
  } else {
    return gather_tiles<T, A, N, 6, 2, 1>();
  }
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
