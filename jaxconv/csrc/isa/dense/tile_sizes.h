// Each tile is compiled for several numbers of pixels, so that the last few pixels of a call do not
// cost as much as a full tile.

#pragma once

#include <cstdint>

#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// A full tile, two thirds, and one third of its pixels, rounded up.
constexpr int kTileSizes = 3;
constexpr int tile_pixels(int full, int size) {
  return ((kTileSizes - size) * full + kTileSizes - 1) / kTileSizes;
}

// The smallest size that holds this many pixels.
JAXCONV_INLINE int tile_size_for(int64_t full, int64_t pixels) {
  int size = 0;
  while (size + 1 < kTileSizes && pixels <= tile_pixels(static_cast<int>(full), size + 1)) ++size;
  return size;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
