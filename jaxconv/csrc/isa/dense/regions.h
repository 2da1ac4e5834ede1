// The regions that a RegionPlan describes, listed in the workspace and numbered.

#pragma once

#include <cstdint>

#include "geometry.h"
#include "isa/dense/region_plan.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

class Regions {
 public:
  Regions(const RegionPlan& plan, Workspace& workspace) : plan_(plan) {
    for (int a = 0; a < 3; ++a) {
      part_[a] = workspace.take<Phase>(plan.parts(a));
      begin_[a] = workspace.take<int64_t>(plan.phases(a) + 1);
      int64_t count = 0;
      for (int64_t i = 0; i < plan.phases(a); ++i) {
        begin_[a][i] = count;
        for_each_part(plan.phase_of(a, i), plan.split(a),
                      [&](const Phase& p) { part_[a][count++] = p; });
      }
      begin_[a][plan.phases(a)] = count;
      selected_[a] = {0, plan.parts(a)};
    }
  }

  // Numbers only the regions of one combination of phases from 0 on; at first, all are numbered.
  void select(int64_t combination) {
    for (int a = 2; a >= 0; --a) {
      const int64_t i = combination % plan_.phases(a);
      selected_[a] = {begin_[a][i], begin_[a][i + 1]};
      combination /= plan_.phases(a);
    }
  }

  // The number of selected regions.
  int64_t count() const {
    int64_t count = 1;
    for (const Range& range : selected_) count *= range.end - range.begin;
    return count;
  }

  // Writes the three axes of a region.
  void axes(int64_t region, Phase* axis) const {
    for (int a = 2; a >= 0; --a) {
      const int64_t parts = selected_[a].end - selected_[a].begin;
      axis[a] = part_[a][selected_[a].begin + region % parts];
      region /= parts;
    }
  }

 private:
  const RegionPlan& plan_;
  Phase* part_[3];
  int64_t* begin_[3];  // the first part of each phase
  Range selected_[3];
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
