// One depthwise tile: up to kMaxTileWidth neighboring targets and a chunk of features.
//
// A tile is the innermost step of a depthwise operator; the arguments below are all that it knows.
// It reads and writes whole vectors of accumulators. Operands that are narrower, of another type or
// repeated over several features are staged first (stretch.h), so tiles are compiled for two types
// only (tiles.cc) and shared by the operators of all four.

#pragma once

#include <cstdint>

#include "geometry.h"
#include "isa/result_writer.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

constexpr int kMaxTileWidth = 8;

template <class A>
constexpr int kLanes = kVectorBytes / sizeof(A);

// The first feature of vector i of those that together cover `features`, at least one vector. The
// last vector is moved back to end with the features: it recomputes some of them, to the same
// values.
template <int N>
JAXCONV_INLINE int64_t feature_of_vector(int64_t i, int64_t features) {
  return smaller(i * N, features - N);
}

// The sources of a tile: for each kernel row that is not padding, pointers to the columns. Columns
// that are padding point to zeros.
template <class A>
struct TileSources {
  const A* const* table;  // [rows][columns], starting at the tile's first column
  int64_t columns;        // from one row's pointers to the next row's
  int64_t offset;         // of the first feature from the pointers
  int64_t rows, taps;     // taps per row
  int64_t spacing;        // columns from one target to the next
  int64_t features;       // at least one vector
};

// What to prefetch for a later row of targets: sources `source` elements after those of the last
// `rows` rows, and pixels `pixel` elements after the tile's targets or cotangents.
struct Prefetch {
  int64_t rows = 0;  // of sources; none if the caches hold the arrays
  int64_t source = 0, pixel = 0;
};

template <class A>
struct GatherTile {
  TileSources<A> sources;
  Prefetch prefetch;
  const A* weights;
  const int64_t* weight_row[2];  // offset of each row's first tap, for the upper and the lower row
                                 // of a pair of target rows
  int64_t upper, both;  // of a pair: source rows used by the upper row only, which come first, and
                        // by both
  int64_t tap_step;
  A* targets;
  int64_t target_step;
  int64_t lower;  // offset of the lower row's targets
  bool streams;   // write targets past the caches, in whole aligned vectors
  TileEpilogue<A> epilogue;
};

// sums[row, u] += source(p, u) * cotangent(p) over the tile's targets p. Each vector of features
// has whole vectors of sums of its own, so that features in two overlapping vectors are not added
// twice.
template <class A>
struct FilterTile {
  TileSources<A> sources;
  Prefetch prefetch;
  const A* cotangents;
  int64_t cotangent_step;
  A* sums;
  const int64_t* sums_row;
  int64_t tap_step;
};

// The tile functions for taps, spacing and width (1 … kMaxTileWidth) known at run time.
template <class A>
struct DepthwiseTiles {
  static void (*gather(int64_t taps, int64_t spacing, int64_t width))(const GatherTile<A>&);
  // Computes two rows of targets at once; null if there is no such tile.
  static void (*gather_pair(int64_t taps, int64_t spacing, int64_t width))(const GatherTile<A>&);
  static void (*filter(int64_t taps, int64_t spacing, int64_t width))(const FilterTile<A>&);
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
