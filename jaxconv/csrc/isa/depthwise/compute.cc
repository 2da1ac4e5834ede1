// Depthwise convolutions for one instruction set and all element types; compiled once for each set.

#include "engine.h"
#include "isa/depthwise/filter_grad.h"
#include "isa/depthwise/gather.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T>
const char* depthwise(const Call& call) {
  return call.op == Operator::kFilterGrad ? depthwise_filter_grad<T>(call)
                                          : depthwise_gather<T>(call);
}

const char* depthwise_float32(const Call& call) { return depthwise<float>(call); }
const char* depthwise_float64(const Call& call) { return depthwise<double>(call); }
const char* depthwise_bfloat16(const Call& call) { return depthwise<bfloat16>(call); }
const char* depthwise_float16(const Call& call) { return depthwise<float16>(call); }

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
