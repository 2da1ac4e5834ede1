// Writes results of which each is the sum of several neighboring features.

#pragma once

#include <cstdint>

#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Adds each M neighboring features, or each `fold` for M = 0.
template <int M, class T, class A>
void write_sums(const A* from, int64_t channels, int64_t fold, T* to) {
  const int64_t count = M > 0 ? M : fold;
  for (int64_t c = 0; c < channels; ++c, from += count) {
    A sum = from[0];
    for (int64_t m = 1; m < count; ++m) sum += from[m];
    store_element(to + c, sum);
  }
}

template <class T, class A>
void write_folded(const A* from, int64_t features, int64_t fold, T* to) {
  switch (fold) {
    case 1: return store_elements(from, features, to);
    case 2: return write_sums<2>(from, features / 2, fold, to);
    case 4: return write_sums<4>(from, features / 4, fold, to);
    default: return write_sums<0>(from, features / fold, fold, to);
  }
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
