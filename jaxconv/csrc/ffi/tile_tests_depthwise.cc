// Calls single depthwise tiles on the caller's memory, for tests/kernels/test_depthwise_tiles.py.

#include <cstdint>
#include <cstring>

#include "ffi/export.h"
#include "ffi/instruction_set.h"
#include "geometry.h"
#include "isa/depthwise/tile_call.h"

namespace jaxconv {
namespace {

using TileFunction = bool (*)(const DepthwiseTileCall&);

struct TileFunctions {
  const char* isa;
  TileFunction float32, float64;
};

#define JAXCONV_TILES(isa) \
  {#isa, isa::depthwise_tiles_float32, isa::depthwise_tiles_float64}

constexpr TileFunctions kTiles[] = {
    JAXCONV_TILES(baseline),
#if defined(JAXCONV_X86)
    JAXCONV_TILES(avx2),
    JAXCONV_TILES(avx512),
#endif
};

}  // namespace
}  // namespace jaxconv

// Uses the instruction set in use; `element` is a jaxconv::Element, float32 or float64. 1 if the
// tile was computed, 0 if there is no such tile.
JAXCONV_EXPORT int jaxconv_test_depthwise_tile(int64_t element,
                                               const jaxconv::DepthwiseTileCall* call) {
  const bool is_double = static_cast<jaxconv::Element>(element) == jaxconv::Element::kFloat64;
  for (const auto& tiles : jaxconv::kTiles) {
    if (std::strcmp(tiles.isa, jaxconv::instruction_set().name) != 0) continue;
    return (is_double ? tiles.float64 : tiles.float32)(*call) ? 1 : 0;
  }
  return 0;
}
