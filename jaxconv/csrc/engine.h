// The compiled copies of the engine: depthwise and dense, per instruction set and element type.

#pragma once

#include "call.h"

#define JAXCONV_DECLARE_ENGINE(isa)                                                         \
  namespace isa {                                                                           \
  const char *depthwise_float32(const Call&), *dense_float32(const Call&);                  \
  const char *depthwise_float64(const Call&), *dense_float64(const Call&);                  \
  const char *depthwise_bfloat16(const Call&), *dense_bfloat16(const Call&);                \
  const char *depthwise_float16(const Call&), *dense_float16(const Call&);                  \
  /* Packs the operand into panels, the result. */                                          \
  const char *pack_dense_float32(const Call&), *pack_dense_float64(const Call&);            \
  const char *pack_dense_bfloat16(const Call&), *pack_dense_float16(const Call&);           \
  PanelSizes size_panels_dense_float32(const Geometry&);                                    \
  PanelSizes size_panels_dense_float64(const Geometry&);                                    \
  PanelSizes size_panels_dense_bfloat16(const Geometry&);                                   \
  PanelSizes size_panels_dense_float16(const Geometry&);                                    \
  }

namespace jaxconv {

JAXCONV_DECLARE_ENGINE(baseline)
JAXCONV_DECLARE_ENGINE(avx2)
JAXCONV_DECLARE_ENGINE(avx512)

}  // namespace jaxconv
