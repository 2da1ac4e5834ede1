// Grouped and dense convolutions for one instruction set and one element type; compiled once per
// pair.

#include "engine.h"
#include "isa/dense/filter_grad_run.h"
#include "isa/dense/gather_run.h"
#include "isa/dense/packed_panels.h"
#include "isa/dense/tile_test.h"
#include "isa/dense/tile_test_hooks.h"

namespace jaxconv {
namespace JAXCONV_ISA {

const char* JAXCONV_COMPUTE(const Call& call) {
  return call.op == Operator::kFilterGrad ? dense_filter_grad<JAXCONV_ELEMENT>(call)
                                          : dense_gather<JAXCONV_ELEMENT>(call);
}

const char* JAXCONV_PACK(const Call& call) { return dense_pack<JAXCONV_ELEMENT>(call); }

PanelSizes JAXCONV_SIZE_PANELS(const Geometry& geometry) {
  return dense_panel_sizes<JAXCONV_ELEMENT>(geometry);
}

bool JAXCONV_TEST_TILE(const DenseTileTest& test) { return run_tile_test<JAXCONV_ELEMENT>(test); }

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
