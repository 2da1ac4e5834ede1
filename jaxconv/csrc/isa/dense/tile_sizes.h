// The sizes of blocks of pixels: few pixels are not computed as if they were many.

#pragma once

#include <cstdint>

#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// R pixels, two thirds and a third of them.
constexpr int kBlockSizes = 3;
constexpr int block_pixels(int rows, int size) {
  return ((kBlockSizes - size) * rows + kBlockSizes - 1) / kBlockSizes;
}

// The smallest block that holds so many pixels.
JAXCONV_INLINE int block_size(int64_t rows, int64_t pixels) {
  int size = 0;
  while (size + 1 < kBlockSizes && pixels <= block_pixels(static_cast<int>(rows), size + 1)) ++size;
  return size;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
