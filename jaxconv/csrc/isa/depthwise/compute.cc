// Depthwise convolutions for one instruction set and one element type: compiled once per pair.

#include "engine.h"
#include "isa/depthwise/filter_grad.h"
#include "isa/depthwise/gather.h"

namespace jaxconv {
namespace JAXCONV_ISA {

const char* JAXCONV_COMPUTE(const Call& call) {
  return call.op == Operator::kFilterGrad ? depthwise_filter_grad<JAXCONV_ELEMENT>(call)
                                          : depthwise_gather<JAXCONV_ELEMENT>(call);
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
