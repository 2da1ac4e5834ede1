// The activations of an epilogue on accumulators in the L1 cache.

#pragma once

#include <cstdint>

#include "epilogue.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Compiled once per accumulator type, and not inlined into the tiles: their code is large, and
// storing and loading a vector takes little time beside an exponential.
template <class A>
struct Activations {
  // Replaces `count` values, which are whole vectors.
  static void apply(Activation activation, A negative_slope, A* values, int64_t count);
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
