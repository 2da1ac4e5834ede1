// The entry through which tests/kernels/test_dense_tiles.py calls single tiles of grouped and dense
// convolutions, for the instruction set in use.

#include <cstdint>
#include <string>

#include "ffi/request.h"
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
extern "C" __attribute__((visibility("default"))) int jaxconv_test_dense_tile(
    int64_t tile, int64_t element, int64_t features, int64_t size, int64_t vectors,
    const void* args, int64_t* sizes) {
  const jaxconv::DenseTileTest test{static_cast<jaxconv::DenseTile>(tile), features, size, vectors,
                                    args, sizes};
  for (const jaxconv::TileTests& tests : jaxconv::kTileTests) {
    if (tests.instruction_set == std::string(jaxconv::instruction_set())) {
      return tests.by_element[element](test) ? 1 : 0;
    }
  }
  return 0;
}
