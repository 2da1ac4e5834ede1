// The run step that the depthwise operators share: units of target rows, stretches of them, chunks
// of features, tiles.

#pragma once

#include <cstdint>

#include "isa/depthwise/phases.h"
#include "isa/depthwise/plan.h"
#include "isa/depthwise/staging.h"
#include "isa/depthwise/stretch.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Tile: a function type that DepthwiseTiles<A> returns.
template <class T, class Tile>
class DepthwiseRun {
  using A = typename Accumulator<T>::type;
  static constexpr int N = kLanes<A>;

 public:
  using Member = typename SourceStaging<T>::Member;

  // What one call of visit() computes.
  struct Work {
    int64_t unit_begin, unit_end;
    const T* source;
    int64_t feature_begin, feature_end;
    int64_t row_size;  // from one kernel row of weights or sums to the next
  };

  static int64_t bytes(const DepthwisePlan<T>& plan) {
    return PhaseTables<T, Tile>::bytes(plan) + SourceStaging<T>::bytes(plan);
  }
  static int64_t member_bytes(const DepthwisePlan<T>& plan) {
    return SourceStaging<T>::member_bytes(plan);
  }

  // choose(taps, spacing, width, rows of targets) -> tile function.
  template <class Choose>
  DepthwiseRun(const DepthwisePlan<T>& plan, Workspace& workspace, Choose&& choose)
      : plan_(plan), tables_(plan, workspace, choose), staging_(plan, workspace) {}

  Member member(Workspace& workspace) const { return staging_.member(workspace); }

  // Calls open(stretch) for every stretch and chunk of features of the work, then compute(stretch,
  // tile, sources, target, width) for each of its tiles.
  template <class Open, class Compute>
  void visit(const Work& work, const Member& m, Open&& open, Compute&& compute) const {
    const FeatureChunks chunks(work.feature_end - work.feature_begin, plan_.stretches.chunk_size,
                               plan_.shape.unit, N);
    const T* cached = nullptr;
    for (int64_t i = work.unit_begin; i < work.unit_end; ++i) {
      const Unit unit = plan_.rows.unit(i);
      const T* image = work.source + unit.n * plan_.shape.image_size();
      Stretch s = unit_rows(unit, work.row_size, m);
      if (plan_.row_cache()) {
        if (image != cached) plan_.sources.cache.clear(m.cache);
        staging_.cache_rows(s, image, work.feature_begin, chunks.span, m);
        cached = image;
      }
      for (const RowPhase<Tile>* row = tables_.row_begin; row < tables_.row_end; ++row) {
        s.phase = &row->phase;
        s.spacing = row->spacing;
        s.target = s.phase->count * unit.segment / plan_.rows.segments;
        const int64_t end = s.phase->count * (unit.segment + 1) / plan_.rows.segments;
        for (; s.target < end; s.target += s.targets) {
          s.targets = smaller(plan_.stretches.max_targets, end - s.target);
          staging_.list(s, image, m);
          for (int64_t c = 0; c < chunks.count; ++c) {
            s.feature = work.feature_begin + chunks.begin(c);
            s.features = chunks.end(c) - chunks.begin(c);
            if (plan_.staged()) staging_.stage(s, image, m);
            open(s);
            // Of the first feature from the table's pointers.
            const int64_t offset =
                plan_.row_cache() ? chunks.begin(c) : plan_.staged() ? 0 : s.feature;
            visit_tiles(s, *row, offset, m, compute);
          }
        }
      }
    }
  }

 private:
  // The rows of a unit: of its targets, and of the sources and taps that they use.
  Stretch unit_rows(const Unit& unit, int64_t row_size, const Member& m) const {
    Stretch s;
    s.row = (unit.n * plan_.rows.planes + unit.d) * plan_.rows.height + unit.h;
    s.target_rows = unit.rows;
    list_rows(unit, row_size, m, &s);
    set_prefetch(unit.h, &s);
    s.source_row = m.source_row;
    for (int q = 0; q < 2; ++q) s.kernel_row[q] = m.kernel_row[q];
    return s;
  }

  // Lists the source rows that the unit's targets use: those of the upper row only, of both, of the
  // lower row only.
  void list_rows(const Unit& unit, int64_t row_size, const Member& m, Stretch* s) const {
    const DepthwiseShape<T>& shape = plan_.shape;
    const Phase& pd = tables_.depth[unit.d % shape.phases[0]];
    const Phase& ph = tables_.height[unit.h % plan_.rows.lattices];
    const int64_t jd = unit.d / shape.phases[0], jh = unit.h / plan_.rows.lattices;
    const Range ud = valid_taps(pd, jd), upper = valid_taps(ph, jh);
    const Range lower = unit.rows == 2 ? valid_taps(ph, jh + 1) : Range{0, 0};
    const auto kernel_row = [&](int64_t a, int64_t b) {
      const int64_t td = pd.tap_first + pd.tap_step * a, th = ph.tap_first + ph.tap_step * b;
      return (td * shape.axis[1].kernel + th) * row_size;
    };
    s->rows = 0;
    const auto list = [&](bool by_upper, bool by_lower) {
      const int64_t before = s->rows;
      for (int64_t a = ud.begin; a < ud.end; ++a) {
        for (int64_t b = 0; b < ph.taps + unit.rows - 1; ++b) {
          if (upper.holds(b) != by_upper || lower.holds(b - 1) != by_lower) continue;
          const int64_t row = ph.source(jh, b), r = s->rows++;
          m.kernel_row[0][r] = kernel_row(a, b);
          m.kernel_row[1][r] = kernel_row(a, b - 1);
          if (plan_.row_cache()) m.slot[r] = plan_.sources.cache.slot(a, row);
          m.source_row[r] =
              (pd.source(jd, a) * shape.sources[1] + row) * shape.sources[2] * shape.channels;
        }
      }
      return s->rows - before;
    };
    s->upper = list(true, false);
    s->both = list(true, true);
    list(false, true);
  }

  // Tiles prefetch for the next unit of this row's lattice, rows_ahead() further down. It uses as
  // many new source rows as it lies further down in the sources.
  void set_prefetch(int64_t h, Stretch* s) const {
    if (!plan_.sources.prefetch || s->rows == 0) return;
    const Phase& p = tables_.height[h % plan_.rows.lattices];
    const int64_t rows = p.per_target * plan_.rows.per_unit;
    s->prefetch.rows = clamp(rows / p.per_tap, 1, s->rows);
    s->prefetch.source = rows * plan_.shape.sources[2] * plan_.shape.channels;
  }

  // Divides a stretch evenly into as few tiles as possible: 14 targets as 7 + 7.
  template <class Compute>
  void visit_tiles(const Stretch& s, const RowPhase<Tile>& row, int64_t offset, const Member& m,
                   Compute&& compute) const {
    TileSources<A> sources;
    sources.columns = s.columns();
    sources.offset = offset;
    sources.rows = s.rows;
    sources.taps = s.phase->taps;
    sources.spacing = s.spacing;
    sources.features = larger(s.features, N);
    for (int64_t done = 0, width; done < s.targets; done += width) {
      const int64_t left = s.targets - done;
      width = ceil_div(left, ceil_div(left, kMaxTileWidth));
      sources.table = m.table + done * s.spacing;
      compute(s, row.tile[s.target_rows - 1][width - 1], sources, s.target + done, width);
    }
  }

  const DepthwisePlan<T>& plan_;
  const PhaseTables<T, Tile> tables_;
  const SourceStaging<T> staging_;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
