// Tables of a depthwise call's phases, with the tile functions of each row phase.

#pragma once

#include <cstdint>
#include <cstring>

#include "isa/depthwise/plan.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// The targets of one row that use the same taps, and the functions that compute them.
template <class Tile>
struct RowPhase {
  Phase phase;
  int64_t spacing;
  Tile tile[2][kMaxTileWidth];  // [rows of targets - 1][width - 1]
};

// Tile: a function type that DepthwiseTiles<A> returns.
template <class T, class Tile>
struct PhaseTables {
  Phase *depth, *height;
  RowPhase<Tile>*row_begin, *row_end;

  static int64_t bytes(const DepthwisePlan<T>& plan) {
    return Workspace::bytes<RowPhase<Tile>>(plan.stretches.row_phases) +
           Workspace::bytes<Phase>(plan.shape.phases[0]) +
           Workspace::bytes<Phase>(plan.rows.lattices);
  }

  // choose(taps, spacing, width, rows of targets) -> tile function.
  template <class Choose>
  PhaseTables(const DepthwisePlan<T>& plan, Workspace& workspace, Choose&& choose)
      : depth(workspace.take<Phase>(plan.shape.phases[0])),
        height(workspace.take<Phase>(plan.rows.lattices)),
        row_begin(workspace.take<RowPhase<Tile>>(plan.stretches.row_phases)),
        row_end(row_begin) {
    const DepthwiseShape<T>& shape = plan.shape;
    for (int64_t i = 0; i < shape.phases[0]; ++i) depth[i] = phase(shape.axis[0], shape.op, i);
    const Axis& rows = shape.axis[1];
    for (int64_t i = 0; i < plan.rows.lattices; ++i) {
      height[i] = plan.rows.step > 1 ? lattice(phase(rows, shape.op, 0), i)
                                     : phase(rows, shape.op, i);
    }
    shape.for_each_row_phase([&](const Phase& p) {
      RowPhase<Tile>& next = *row_end++;
      next.phase = p;
      next.spacing = column_spacing(p);
      for (int width = 1; width <= kMaxTileWidth; ++width) {
        for (int64_t rows = 1; rows <= plan.rows.per_unit; ++rows) {
          next.tile[rows - 1][width - 1] = choose(p.taps, next.spacing, width, rows);
        }
      }
    });
  }
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
