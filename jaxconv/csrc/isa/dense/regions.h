// Regions: the targets of a dense gather, cut so that those of a region see the same taps.
//
// At the border of the image some taps have no source. Pixels of a region all miss the same ones, so
// none of them is computed, no source is looked for outside, and a block of pixels is nothing but
// pointers: 3x3 d8 4x56x56x64 spends 18 % of its products in the padding, 3x3 8x7x7x512 19 %. Where
// regions would be too small to fill blocks an axis stays whole, and its border is staged with zeros.

#pragma once

#include <cstdint>

#include "isa/dense/tile_sizes.h"
#include "isa/dense/pixels.h"
#include "geometry.h"
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

// The targets whose taps all have sources.
JAXCONV_INLINE Range whole_targets(const Phase& p) {
  if (p.taps == 0) return {0, p.count};
  const Range first = inside(p.source(0, 0), p.per_target, p.count, p.sources);
  const Range last = inside(p.source(0, p.taps - 1), p.per_target, p.count, p.sources);
  const int64_t begin = larger(first.begin, last.begin), end = smaller(first.end, last.end);
  return {smaller(begin, larger(end, 0)), larger(end, 0)};
}

// Calls f(part) for the parts of a phase: all of it, or cut where the taps that exist change.
template <class F>
JAXCONV_INLINE void for_each_part(const Phase& p, bool cut, F&& f) {
  if (!cut) return f(p);
  const Range whole = whole_targets(p);
  for (int64_t j = 0, end; j < p.count; j = end) {
    const Range taps = valid_taps(p, j);
    end = j == whole.begin ? larger(whole.end, j + 1) : j + 1;
    for (; end < p.count; ++end) {
      const Range next = valid_taps(p, end);
      if (next.begin != taps.begin || next.end != taps.end) break;
    }
    f(part_of(p, {j, end}, taps.begin < taps.end ? taps : Range{0, 0}));
  }
}

class Regions {
 public:
  // `rows`: pixels of a whole block; `channels`: products of each tap for each feature.
  Regions(const Geometry& g, Operator op, int64_t rows, int64_t channels)
      : axis_(g.axis), op_(op) {
    AxisParts parts[2][3];
    int cuttable = 0;
    for (int a = 0; a < 3; ++a) {
      phases_[a] = phase_count(axis_[a], op);
      for (int cut = 0; cut < 2; ++cut) {
        for (int64_t i = 0; i < phases_[a]; ++i) {
          for_each_part(phase(axis_[a], op, i), cut, [&](const Phase& p) { parts[cut][a].add(p); });
        }
      }
      if (parts[1][a].count != parts[0][a].count) cuttable |= 1 << a;
    }
    const auto counted = [&](int cut, int a) -> const AxisParts& { return parts[cut >> a & 1][a]; };
    int best = 0;
    double least = 0;
    for (int cut = 0; cuttable != 0 && cut < 8; ++cut) {
      const AxisParts &d = counted(cut, 0), &h = counted(cut, 1), &w = counted(cut, 2);
      if ((cut & ~cuttable) != 0 || !d.fits() || !h.fits() || !w.fits()) continue;
      const double cost = this->cost(d, h, w, g.batch, rows, channels);
      if (cut == 0 || cost < least) {
        least = cost;
        best = cut;
      }
    }
    bordered_ = false;
    for (int a = 0; a < 3; ++a) {
      cut_[a] = best >> a & 1;
      parts_[a] = counted(best, a).count;
      bordered_ = bordered_ || counted(best, a).any_bordered;
    }
  }

  int64_t bytes() const {
    int64_t bytes = 0;
    for (int a = 0; a < 3; ++a) {
      bytes += Workspace::bytes<Phase>(parts_[a]) + Workspace::bytes<int64_t>(phases_[a] + 1);
    }
    return bytes;
  }

  void list(Workspace& workspace) {
    for (int a = 0; a < 3; ++a) {
      part_[a] = workspace.take<Phase>(parts_[a]);
      begin_[a] = workspace.take<int64_t>(phases_[a] + 1);
      int64_t count = 0;
      for (int64_t i = 0; i < phases_[a]; ++i) {
        begin_[a][i] = count;
        for_each_part(phase(axis_[a], op_, i), cut_[a],
                      [&](const Phase& p) { part_[a][count++] = p; });
      }
      begin_[a][phases_[a]] = count;
    }
    select_all();
  }

  // Combinations of phases, each of which has regions of its own.
  int64_t combinations() const { return phases_[0] * phases_[1] * phases_[2]; }

  void phases(int64_t combination, Phase* axis) const {
    for (int a = 2; a >= 0; --a) {
      axis[a] = phase(axis_[a], op_, combination % phases_[a]);
      combination /= phases_[a];
    }
  }

  // The regions to number from 0 on: all of them, or those of one combination.
  void select_all() {
    for (int a = 0; a < 3; ++a) selected_[a] = {0, parts_[a]};
  }
  void select(int64_t combination) {
    for (int a = 2; a >= 0; --a) {
      const int64_t i = combination % phases_[a];
      selected_[a] = {begin_[a][i], begin_[a][i + 1]};
      combination /= phases_[a];
    }
  }

  // Whether some regions have taps without a source.
  bool bordered() const { return bordered_; }

  int64_t most() const { return parts_[0] * parts_[1] * parts_[2]; }
  int64_t count() const {
    int64_t count = 1;
    for (const Range& range : selected_) count *= range.end - range.begin;
    return count;
  }

  // The axes of a region.
  void axes(int64_t region, Phase* axis) const {
    for (int a = 2; a >= 0; --a) {
      const int64_t parts = selected_[a].end - selected_[a].begin;
      axis[a] = part_[a][selected_[a].begin + region % parts];
      region /= parts;
    }
  }

 private:
  // The targets and taps of an axis' parts: all that their cost depends on.
  struct AxisParts {
    static constexpr int kMost = 32;
    int64_t count = 0;
    int64_t targets[kMost], taps[kMost];
    bool bordered[kMost], any_bordered = false;

    void add(const Phase& p) {
      const Range whole = whole_targets(p);
      const bool border = whole.begin > 0 || whole.end < p.count;
      if (count < kMost) {
        targets[count] = p.count;
        taps[count] = p.taps;
        bordered[count] = border;
      }
      any_bordered = any_bordered || border;
      ++count;
    }
    bool fits() const { return count <= kMost; }
  };

  // Products of a vector, about: blocks are computed whole, and a staged border costs a tenth more.
  static double cost(const AxisParts& d, const AxisParts& h, const AxisParts& w, int64_t batch,
                     int64_t rows, int64_t channels) {
    constexpr int64_t kPerPixel = 8;  // what beginning and ending a block costs
    double cost = 0;
    for (int64_t i = 0; i < d.count; ++i) {
      for (int64_t j = 0; j < h.count; ++j) {
        for (int64_t k = 0; k < w.count; ++k) {
          const int64_t pixels = batch * d.targets[i] * h.targets[j] * w.targets[k];
          const int64_t rest = pixels % rows;
          const int64_t computed =
              pixels - rest +
              (rest == 0 ? 0 : block_pixels(static_cast<int>(rows), block_size(rows, rest)));
          const int64_t products = d.taps[i] * h.taps[j] * w.taps[k] * channels;
          const bool staged = d.bordered[i] || h.bordered[j] || w.bordered[k];
          cost += static_cast<double>(computed * (products + kPerPixel)) * (staged ? 1.1 : 1.0);
        }
      }
    }
    return cost;
  }

  const Axis* axis_;
  Operator op_;
  bool cut_[3], bordered_;
  int64_t phases_[3], parts_[3];
  Phase* part_[3];
  int64_t* begin_[3];  // the first part of each phase
  Range selected_[3];
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
