// The packing step of a filter gradient: copies the cotangents of a chunk of pixels into panels,
//
//   packed[panel][pixel][feature]
//
// with zeros past the last feature of a group.

#pragma once

#include <cstdint>

#include "isa/dense/filter_grad_plan.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Packs pixels [first, first + count) for the panels of a section.
template <class T, class A>
void pack_cotangents(const FilterGradPlan<T>& plan, const Section& s, int64_t first, int64_t count,
                     A* packed) {
  const int64_t features = plan.geometry.features, width = plan.panel_width;
  const T* cotangents = static_cast<const T*>(plan.call.operand) + first * features;
  for (int64_t p = s.panel; p < s.panel + s.panels; ++p) {
    const T* from = cotangents + plan.first_feature(p);
    const int64_t lanes = plan.panel_lanes(p);
    for (int64_t i = 0; i < count; ++i, from += features, packed += width) {
      copy_elements(from, lanes, packed);
      for (int64_t l = lanes; l < width; ++l) packed[l] = 0;
    }
  }
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
