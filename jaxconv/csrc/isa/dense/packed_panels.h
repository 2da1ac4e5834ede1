// Packing all panels of a kernel once, for the forward convolution to read in place.
//
// The panels depend on the kernel, the number of groups and the element type alone, so that they
// serve every batch and image size.

#pragma once

#include <cstdint>
#include <cstring>

#include "isa/dense/gather_packing.h"
#include "isa/dense/gather_plan.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T>
PanelSizes dense_panel_sizes(const Geometry& geometry) {
  Call call{};
  call.geometry = geometry;
  const GatherPlan<T> plan(call);
  return {plan.tiles.vectors, plan.tiles.lanes, plan.panels * plan.panel_bytes()};
}

// Packs the operand into the result. Room that panels leave, because the last one of a group is
// narrower, is zero.
template <class T>
const char* dense_pack(const Call& call) {
  using A = typename Accumulator<T>::type;
  const GatherPlan<T> plan(call);
  const int64_t taps = plan.geometry.taps();
  Workspace workspace(2 * Workspace::bytes<int64_t>(taps));
  if (!workspace.ok()) return kOutOfMemory;
  PackedTaps all_taps(taps, workspace);
  all_taps.list_all(taps);
  std::memset(call.result, 0, plan.panels * plan.panel_bytes());
  GatherPacking<T>(plan).pack(0, plan.panels, all_taps, static_cast<A*>(call.result),
                              call.team->members());
  return nullptr;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
