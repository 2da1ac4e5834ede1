// One call of a depthwise tile on plain memory, for tests (ffi/tile_tests_depthwise.cc).

#pragma once

#include <cstdint>

namespace jaxconv {

enum class DepthwiseTile : int64_t { kGather, kGatherPair, kFilter };

// The arguments of GatherTile and FilterTile (tile.h), which say what each means.
// tests/kernels/test_depthwise_tiles.py declares the same fields in the same order.
struct DepthwiseTileCall {
  DepthwiseTile tile;
  int64_t width, taps, spacing, features;
  int64_t rows, columns, offset, upper, both;
  int64_t prefetch_rows, prefetch_source, prefetch_pixel;
  int64_t tap_step;    // of weights or sums
  int64_t pixel_step;  // of targets or cotangents
  int64_t lower, streams;
  const void* const* table;
  const int64_t* row_offset[2];  // of weights or sums
  const void* operand;           // weights or cotangents
  void* result;                  // targets or sums
};

// Each calls the tile that an operator would choose; false if there is none.
#define JAXCONV_DECLARE_DEPTHWISE_TILES(isa)            \
  namespace isa {                                       \
  bool depthwise_tiles_float32(const DepthwiseTileCall&); \
  bool depthwise_tiles_float64(const DepthwiseTileCall&); \
  }

JAXCONV_DECLARE_DEPTHWISE_TILES(baseline)
JAXCONV_DECLARE_DEPTHWISE_TILES(avx2)
JAXCONV_DECLARE_DEPTHWISE_TILES(avx512)

}  // namespace jaxconv
