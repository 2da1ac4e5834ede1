// The engine for one instruction set and one element type; compiled once for each pair.

#include "engine.h"

#include "depthwise.h"
#include "vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

const char* JAXCONV_COMPUTE(const Call& call) {
  using T = JAXCONV_ELEMENT;
  const Geometry& g = call.geometry;
  if (g.groups == g.channels && g.features <= kLargestMultiplier * g.channels) {
    return depthwise<T>(call);
  }
  return "not built";
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
