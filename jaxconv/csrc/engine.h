// The engine's copies: one for each instruction set and element type.

#pragma once

#include "call.h"

#define JAXCONV_DECLARE_ENGINE(isa)             \
  namespace isa {                               \
  const char* compute_float32(const Call&);     \
  const char* compute_float64(const Call&);     \
  const char* compute_bfloat16(const Call&);    \
  const char* compute_float16(const Call&);     \
  }

namespace jaxconv {

JAXCONV_DECLARE_ENGINE(baseline)
JAXCONV_DECLARE_ENGINE(avx2)
JAXCONV_DECLARE_ENGINE(avx512)

}  // namespace jaxconv
