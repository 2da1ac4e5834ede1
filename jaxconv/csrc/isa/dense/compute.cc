// Grouped and dense convolutions for one instruction set; compiled once for each. All element types
// are in one file because they share much, and reading the headers of intrinsics takes a second.

#include "engine.h"
#include "isa/dense/filter_grad_run.h"
#include "isa/dense/gather_run.h"
#include "isa/dense/packed_panels.h"
#include "isa/dense/tile_test.h"
#include "isa/dense/tile_test_hooks.h"

namespace jaxconv {
namespace JAXCONV_ISA {

#define JAXCONV_DEFINE_DENSE(name, T)                                                              \
  const char* dense_##name(const Call& call) {                                                     \
    return call.op == Operator::kFilterGrad ? dense_filter_grad<T>(call) : dense_gather<T>(call);  \
  }                                                                                                \
  const char* pack_dense_##name(const Call& call) { return dense_pack<T>(call); }                  \
  PanelSizes size_panels_dense_##name(const Geometry& g) { return dense_panel_sizes<T>(g); }       \
  bool test_dense_##name(const DenseTileTest& test) { return run_tile_test<T>(test); }

JAXCONV_DEFINE_DENSE(float32, float)
JAXCONV_DEFINE_DENSE(float64, double)
JAXCONV_DEFINE_DENSE(bfloat16, bfloat16)
JAXCONV_DEFINE_DENSE(float16, float16)

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
