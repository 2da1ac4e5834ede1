// The tiles of grouped and dense convolutions: their arguments, and the tables of those compiled.
//
// Tiles read and write accumulators, so that they are compiled for two types only (tiles.cc) and shared
// by the operators of all four.

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
template <class A>
struct GatherTileArgs {
  const A* const* sources;   // [R]: one pointer per pixel
  const int64_t* offset;     // [runs]: where a run starts, relative to those pointers
  const int64_t* panel_row;  // [runs]: the first row of a run in the panel
  int64_t runs, length;      // number of runs, elements of each
  int64_t channel;           // first channel of the group, added to every offset
  const A* panel;            // [rows][V*N]
  const char* prefetch;      // bytes that later tiles read, and how many for each block of products
  int64_t prefetch_bytes;
  void* const* targets;      // [R]: one pointer per pixel
  int64_t pixels;            // how many of the R pixels exist
  int64_t feature, lanes;    // the first feature, and how many of the V*N exist
  TileEpilogue<A> epilogue;
  // Sums that are results as they are, whole vectors of them, are stored by the tile. All others go
  // through write(writer, …), which is ResultWriter<T>::write_tile for the element type T.
  const void* writer;
  void (*write)(const void* writer, const TileSums<A>&, void* const* targets);
  bool direct;
};

// Gather tiles with a large panel prefetch once per so many products.
constexpr int64_t kPrefetchBlock = 16;

constexpr int kMaxTilePixels = 12;
constexpr int kMaxTileVectors = 4;

// The compiled tiles for one width of group: by size (see tile_sizes.h) and number of vectors.
template <class A>
struct GatherTiles {
  void (*run[kTileSizes][kMaxTileVectors])(const GatherTileArgs<A>&);
  int64_t pixels;   // R of a full tile
  int64_t vectors;  // V of a full panel
  int64_t lanes;    // N
};

// Adjacent pixels: their sources lie `source_step` elements apart, their cotangents one panel
// width. tests/kernels/test_dense_tiles.py mirrors this struct and the next.
template <class A>
struct Segment {
  const A* source;
  int64_t source_step;
  const A* cotangent;
  int64_t count;  // at least 1
};

// sums[r][v] += sum over the pixels i of all segments of source[i][r] * cotangent[i][v].
template <class A>
struct FilterGradTileArgs {
  const Segment<A>* segments;
  int64_t count;
  int64_t offset;  // of the first channel, relative to the sources of a segment
  int64_t panel;   // of the panel, relative to the cotangents of a segment
  A* sums;         // [R][V*N]
};

constexpr int kMaxTileRows = 12;

// The compiled tiles for one width of group, by number of rows (input channels): 1 to `rows`.
template <class A>
struct FilterGradTiles {
  void (*run[kMaxTileRows + 1])(const FilterGradTileArgs<A>&);
  int64_t rows, vectors, lanes;
};

// The tiles for groups of so many features, or channels and features.
template <class A>
struct DenseTiles {
  static GatherTiles<A> gather(int64_t features);
  static GatherTiles<A> few_features(int64_t features);  // at most kMaxFewFeatures
  static GatherTiles<A> narrow_groups(int64_t width);    // where groups_per_vector() is more than 1
  static FilterGradTiles<A> filter_grad(int64_t features);
};

constexpr int64_t kMaxFewFeatures = 4;

// How many groups with this many sources and targets each share a vector: 1 if this tile does not
// apply.
template <class A>
int64_t groups_per_vector(int64_t groups, int64_t sources, int64_t targets) {
  constexpr int64_t N = kVectorBytes / sizeof(A);
  const bool applies = kVectorBytes >= 32 && sources == targets && targets > 1 && targets < N &&
                       N % targets == 0 && groups * targets % N == 0;
  return applies ? N / targets : 1;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
