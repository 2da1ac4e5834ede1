// Grouped and dense convolutions for one instruction set and one element type: compiled once for
// each pair.

#include "engine.h"
#include "isa/dense/filter_grad.h"
#include "isa/dense/gather.h"

namespace jaxconv {
namespace JAXCONV_ISA {

const char* JAXCONV_COMPUTE(const Call& call) {
  return call.op == Operator::kFilterGrad ? DenseFilter<JAXCONV_ELEMENT>(call).run()
                                          : DenseGather<JAXCONV_ELEMENT>(call).run();
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
