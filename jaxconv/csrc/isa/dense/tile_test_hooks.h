// Calling a single dense tile from a test: the hooks of all instruction sets and element types.

#pragma once

#include <cstdint>

namespace jaxconv {

enum class DenseTile { kGather, kNarrowGroups, kFewFeatures, kFilterGrad };

// Which compiled tile to call, and with what. Tiles are selected as the operators select them: by
// the number of features of a group.
struct DenseTileTest {
  DenseTile tile;
  int64_t features;
  int64_t size;      // see tile_sizes.h; for kFilterGrad the number of rows
  int64_t vectors;   // of the panel; kFilterGrad always takes a full one
  const void* args;  // GatherTileArgs<A> (whose writer is set) or FilterGradTileArgs<A>, or null to call nothing
  int64_t* sizes;    // written: pixels (or rows) of a full tile, vectors of a full panel, lanes
};

#define JAXCONV_DECLARE_DENSE_TILE_TESTS(isa)     \
  namespace isa {                                 \
  bool test_dense_float32(const DenseTileTest&);  \
  bool test_dense_float64(const DenseTileTest&);  \
  bool test_dense_bfloat16(const DenseTileTest&); \
  bool test_dense_float16(const DenseTileTest&);  \
  }

JAXCONV_DECLARE_DENSE_TILE_TESTS(baseline)
JAXCONV_DECLARE_DENSE_TILE_TESTS(avx2)
JAXCONV_DECLARE_DENSE_TILE_TESTS(avx512)

}  // namespace jaxconv
