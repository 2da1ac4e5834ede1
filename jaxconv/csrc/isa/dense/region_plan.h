// Regions: the targets of a gather, split so that all targets of one region use the same taps.
//
// At the borders of the image some taps have no source. All pixels of a region lack the same taps,
// so those products are not computed, no bounds are checked, and a tile of pixels is nothing but
// pointers. That saves 18 % of the products of 3x3 d8 4x56x56x64 (see docs/design/measurements.md).
// An axis whose regions would be too small to fill tiles is not split; sources at its borders are
// instead copied ("staged") with zeros for the padding.

#pragma once

#include <cstdint>

#include "call.h"
#include "geometry.h"
#include "isa/dense/tile_sizes.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// The part of a phase with targets [targets.begin, targets.end) and taps [taps.begin, taps.end).
JAXCONV_INLINE Phase part_of(Phase p, Range targets, Range taps) {
  p.first += p.step * targets.begin;
  p.origin = p.source(targets.begin, taps.begin);
  p.count = targets.end - targets.begin;
  p.tap_first += p.tap_step * taps.begin;
  p.taps = taps.end - taps.begin;
  return p;
}

// The targets for which all taps have sources.
JAXCONV_INLINE Range interior_targets(const Phase& p) {
  if (p.taps == 0) return {0, p.count};
  const Range first = inside(p.source(0, 0), p.per_target, p.count, p.sources);
  const Range last = inside(p.source(0, p.taps - 1), p.per_target, p.count, p.sources);
  const int64_t begin = larger(first.begin, last.begin), end = smaller(first.end, last.end);
  return {smaller(begin, larger(end, 0)), larger(end, 0)};
}

// Calls f(part) for the parts of a phase: the whole phase, or if `split`, one part for each stretch
// of targets with the same valid taps.
template <class F>
JAXCONV_INLINE void for_each_part(const Phase& p, bool split, F&& f) {
  if (!split) return f(p);
  const Range interior = interior_targets(p);
  for (int64_t j = 0, end; j < p.count; j = end) {
    const Range taps = valid_taps(p, j);
    end = j == interior.begin ? larger(interior.end, j + 1) : j + 1;
    for (; end < p.count; ++end) {
      const Range next = valid_taps(p, end);
      if (next.begin != taps.begin || next.end != taps.end) break;
    }
    f(part_of(p, {j, end}, taps.begin < taps.end ? taps : Range{0, 0}));
  }
}

// The numbers of targets and taps in the parts of an axis: all that their cost depends on.
struct AxisParts {
  static constexpr int kMaxParts = 32;
  int64_t count = 0;
  int64_t targets[kMaxParts], taps[kMaxParts];
  bool bordered[kMaxParts], any_bordered = false;

  void add(const Phase& p) {
    const Range interior = interior_targets(p);
    const bool border = interior.begin > 0 || interior.end < p.count;
    if (count < kMaxParts) {
      targets[count] = p.count;
      taps[count] = p.taps;
      bordered[count] = border;
    }
    any_bordered = any_bordered || border;
    ++count;
  }
  bool fits() const { return count <= kMaxParts; }
};

// Which axes are split into regions, and how many parts each axis has.
class RegionPlan {
 public:
  // `full_tile`: pixels of a full tile; `channels`: products per tap and feature.
  RegionPlan(const Geometry& g, Operator op, int64_t full_tile, int64_t channels)
      : axis_(g.axis), op_(op) {
    AxisParts parts[2][3];  // not split, split
    int splittable = 0;     // a bit per axis
    for (int a = 0; a < 3; ++a) {
      phases_[a] = phase_count(axis_[a], op);
      for (int split = 0; split < 2; ++split) parts[split][a] = axis_parts(a, split);
      if (parts[1][a].count != parts[0][a].count) splittable |= 1 << a;
    }
    const int best = cheapest_split(parts, splittable, g.batch, full_tile, channels);
    for (int a = 0; a < 3; ++a) {
      split_[a] = best >> a & 1;
      parts_[a] = parts[split_[a]][a].count;
      bordered_ = bordered_ || parts[split_[a]][a].any_bordered;
    }
  }

  Phase phase_of(int axis, int64_t index) const { return phase(axis_[axis], op_, index); }
  int64_t phases(int axis) const { return phases_[axis]; }
  int64_t parts(int axis) const { return parts_[axis]; }
  bool split(int axis) const { return split_[axis]; }

  // Combinations of the phases of all axes. The regions of each combination have their own taps.
  int64_t combinations() const { return phases_[0] * phases_[1] * phases_[2]; }
  void combination(int64_t index, Phase* axis) const {
    for (int a = 2; a >= 0; --a) {
      axis[a] = phase_of(a, index % phases_[a]);
      index /= phases_[a];
    }
  }

  // Whether some regions have taps without a source, so that their sources may have to be staged.
  bool bordered() const { return bordered_; }

  // The number of regions of all combinations.
  int64_t regions() const { return parts_[0] * parts_[1] * parts_[2]; }

  // The workspace that the list of all parts takes.
  int64_t bytes() const {
    int64_t bytes = 0;
    for (int a = 0; a < 3; ++a) {
      bytes += Workspace::bytes<Phase>(parts_[a]) + Workspace::bytes<int64_t>(phases_[a] + 1);
    }
    return bytes;
  }

 private:
  AxisParts axis_parts(int axis, bool split) const {
    AxisParts parts;
    for (int64_t i = 0; i < phases_[axis]; ++i) {
      for_each_part(phase_of(axis, i), split, [&](const Phase& p) { parts.add(p); });
    }
    return parts;
  }

  // The cheapest set of axes to split, one bit per axis.
  static int cheapest_split(const AxisParts (&parts)[2][3], int splittable, int64_t batch,
                            int64_t full_tile, int64_t channels) {
    int best = 0;
    double best_cost = 0;
    for (int split = 0; splittable != 0 && split < 8; ++split) {
      const AxisParts &d = parts[split & 1][0], &h = parts[split >> 1 & 1][1];
      const AxisParts& w = parts[split >> 2 & 1][2];
      if ((split & ~splittable) != 0 || !d.fits() || !h.fits() || !w.fits()) continue;
      const double cost = RegionPlan::cost(d, h, w, batch, full_tile, channels);
      if (split == 0 || cost < best_cost) {
        best_cost = cost;
        best = split;
      }
    }
    return best;
  }

  // Approximate number of vector products. Tiles are computed in full, and staging costs a tenth
  // more.
  static double cost(const AxisParts& d, const AxisParts& h, const AxisParts& w, int64_t batch,
                     int64_t full_tile, int64_t channels) {
    constexpr int64_t kTileCostPerPixel = 8;  // of starting and finishing a tile
    constexpr double kStagingFactor = 1.1;
    double cost = 0;
    for (int64_t i = 0; i < d.count; ++i) {
      for (int64_t j = 0; j < h.count; ++j) {
        for (int64_t k = 0; k < w.count; ++k) {
          const int64_t pixels =
              computed_pixels(batch * d.targets[i] * h.targets[j] * w.targets[k], full_tile);
          const int64_t products = d.taps[i] * h.taps[j] * w.taps[k] * channels;
          const bool staged = d.bordered[i] || h.bordered[j] || w.bordered[k];
          cost += static_cast<double>(pixels * (products + kTileCostPerPixel)) *
                  (staged ? kStagingFactor : 1.0);
        }
      }
    }
    return cost;
  }

  // The pixels of the tiles that `pixels` targets take.
  static int64_t computed_pixels(int64_t pixels, int64_t full_tile) {
    const int64_t rest = pixels % full_tile;
    if (rest == 0) return pixels;
    return pixels - rest + tile_pixels(static_cast<int>(full_tile), tile_size_for(full_tile, rest));
  }

  const Axis* axis_;
  Operator op_;
  bool split_[3], bordered_ = false;
  int64_t phases_[3], parts_[3];
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
