// The packing step of a gather: weights are copied into panels,
//
//   packed[panel][tap][source channel][feature]
//
// with zeros past the last feature of a group. The tiles for narrow groups and for few features
// have orders of their own.

#pragma once

#include <cstdint>
#include <cstring>

#include "isa/dense/gather_plan.h"
#include "isa/dense/pixels.h"
#include "isa/vec.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// The order in which taps are packed.
struct PackedTaps {
  PackedTaps(int64_t taps, Workspace& workspace)
      : tap(workspace.take<int64_t>(taps)), row(workspace.take<int64_t>(taps)) {}

  int64_t count = 0;
  int64_t* tap;  // [count]: index into the taps of the kernel
  int64_t* row;  // the inverse

  void list_all(int64_t taps) {
    for (count = 0; count < taps; ++count) tap[count] = row[count] = count;
  }

  // Lists the taps of one combination of phases; `runs` is scratch memory.
  void list_combination(const RegionPlan& regions, const Axis* kernel, int64_t combination,
                        Run* runs) {
    PixelGrid grid{};
    regions.combination(combination, grid.axis);
    count = list_runs(grid, kernel, false, runs);
    for (int64_t i = 0; i < count; ++i) {
      tap[i] = runs[i].first;
      row[runs[i].first] = i;
    }
  }
};

template <class T>
class GatherPacking {
  using A = typename Accumulator<T>::type;

 public:
  explicit GatherPacking(const GatherPlan<T>& plan) : plan_(plan) {}

  // Packs panels [first, first + panels).
  void pack(int64_t first, int64_t panels, const PackedTaps& taps, A* packed,
            int64_t members) const {
    const int64_t units = panels * taps.count;
    const int64_t pieces = pieces_for(units * sources() * plan_.panel_width / 2, units);
    share(*plan_.call.team, pieces, members, [&](int64_t piece, int64_t) {
      for (int64_t u = units * piece / pieces; u < units * (piece + 1) / pieces; ++u) {
        const int64_t panel = u / taps.count, row = u % taps.count;
        pack_tap(first + panel, taps.tap[row], row, packed + panel * plan_.panel_size);
      }
    });
  }

 private:
  void pack_tap(int64_t panel, int64_t tap, int64_t row, A* packed) const {
    const Geometry& g = plan_.geometry;
    const int64_t feature = panel % plan_.group_panels * plan_.panel_width;
    const int64_t lanes = plan_.panel_lanes(panel);
    const int64_t width = plan_.panel_vectors(panel) * plan_.tiles.lanes;
    A* to = packed + row * sources() * width;
    const T* from = static_cast<const T*>(plan_.call.operand) + tap * g.group_in() * g.features +
                    plan_.panel_group(panel) * (g.features / plan_.groups);
    if (plan_.combined_groups > 1) {
      pack_narrow_groups(from, to);
    } else if (plan_.few_features) {
      pack_few_features(from, to);
    } else if (!plan_.input_grad) {
      pack_rows(from + feature, lanes, width, to);
    } else {
      pack_transposed(from + feature * g.features, lanes, width, to);
    }
  }

  void pack_rows(const T* from, int64_t lanes, int64_t width, A* to) const {
    for (int64_t c = 0; c < sources(); ++c, from += kernel_row(), to += width) {
      copy_elements(from, lanes, to);
      for (int64_t l = lanes; l < width; ++l) to[l] = 0;
    }
  }

  // One feature after the other. In an input gradient, features are the rows of the kernel.
  void pack_few_features(const T* from, A* to) const {
    for (int64_t l = 0; l < plan_.group_targets; ++l, to += sources()) {
      if (plan_.input_grad) {
        copy_elements(from + l * kernel_row(), sources(), to);
      } else {
        for (int64_t c = 0; c < sources(); ++c) to[c] = to_accumulator(from[c * kernel_row() + l]);
      }
    }
  }

  // In the order in which narrow_groups_tile shuffles its sources.
  void pack_narrow_groups(const T* from, A* to) const {
    const int64_t width = sources();
    for (int64_t s = 0; s < width; ++s) {
      for (int64_t l = 0; l < plan_.group_targets; ++l) {
        const int64_t lane = l % width, source = lane ^ s;
        *to++ = to_accumulator(plan_.input_grad ? from[lane * kernel_row() + (l - lane) + source]
                                                : from[source * kernel_row() + l]);
      }
    }
  }

  // Squares of whole vectors are transposed in registers, the rest is copied one element at a time.
  // Without the squares, the input gradient of 3x3 1x7x7x512 took twice as long as the convolution
  // (see docs/design/measurements.md).
  void pack_transposed(const T* from, int64_t lanes, int64_t width, A* to) const {
    constexpr int N = kVectorBytes / sizeof(A);
    if (lanes < width) std::memset(to, 0, sizeof(A) * sources() * width);
    const int64_t rows = lanes / N * N, columns = sources() / N * N;
    for (int64_t c = 0; c < columns; c += N) {
      for (int64_t l = 0; l < rows; l += N) {
        Vec<A, N> square[N];
        unroll<N>([&](auto i) JAXCONV_LAMBDA {
          square[i] = load<A, N>(from + (l + i) * kernel_row() + c);
        });
        transpose<A, N>(square);
        unroll<N>([&](auto i) JAXCONV_LAMBDA { store<A, N>(to + (c + i) * width + l, square[i]); });
      }
    }
    for (int64_t l = 0; l < lanes; ++l) {
      const T* row = from + l * kernel_row();
      for (int64_t c = l < rows ? columns : 0; c < sources(); ++c) {
        to[c * width + l] = to_accumulator(row[c]);
      }
    }
  }

  int64_t sources() const { return plan_.group_sources; }
  int64_t kernel_row() const { return plan_.geometry.features; }  // elements per channel

  const GatherPlan<T>& plan_;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
