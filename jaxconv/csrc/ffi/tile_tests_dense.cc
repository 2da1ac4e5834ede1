// The entry through which tests/kernels/test_dense_tiles.py calls single tiles of grouped and dense
// convolutions, for the instruction set in use.

#include <cstdint>
#include <cstring>

#include "ffi/export.h"
#include "ffi/instruction_set.h"
#include "geometry.h"
#include "isa/dense/tile_test_hooks.h"

namespace jaxconv {
namespace {

struct TileTests {
  const char* instruction_set;
  bool (*by_element[4])(const DenseTileTest&);
};

#define JAXCONV_TILE_TESTS(isa)                                                    \
  {#isa,                                                                           \
   {isa::test_dense_float32, isa::test_dense_float64, isa::test_dense_bfloat16,    \
    isa::test_dense_float16}}

constexpr TileTests kTileTests[] = {
    JAXCONV_TILE_TESTS(baseline),
#if defined(JAXCONV_X86)
    JAXCONV_TILE_TESTS(avx2),
    JAXCONV_TILE_TESTS(avx512),
#endif
};

}  // namespace
}  // namespace jaxconv

// 1 if the tile is compiled, else 0; the arguments are those of DenseTileTest.
JAXCONV_EXPORT int jaxconv_test_dense_tile(int64_t tile, int64_t element, int64_t features,
                                           int64_t size, int64_t vectors, const void* args,
                                           int64_t* sizes) {
  const jaxconv::DenseTileTest test{static_cast<jaxconv::DenseTile>(tile), features, size, vectors,
                                    args, sizes};
  for (const jaxconv::TileTests& tests : jaxconv::kTileTests) {
    if (std::strcmp(tests.instruction_set, jaxconv::instruction_set().name) != 0) continue;
    return tests.by_element[element](test) ? 1 : 0;
  }
  return 0;
}
