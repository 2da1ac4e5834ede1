// Depthwise convolutions for one instruction set and one element type: compiled once for
// each pair.

#include "engine.h"
#include "depthwise.h"

namespace jaxconv {
namespace JAXCONV_ISA {

const char* JAXCONV_COMPUTE(const Call& call) {
  return depthwise<JAXCONV_ELEMENT>(call);
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
