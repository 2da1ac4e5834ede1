// The sources of a filter gradient: for each run of taps, the pixels that have sources, listed as
// segments of output rows.
//
// Sources of a 16-bit type are copied as accumulators; so are merged runs that lie partly in the
// padding, with zeros for it. All others are read in place.

#pragma once

#include <cstdint>

#include "geometry.h"
#include "isa/dense/filter_grad_plan.h"
#include "isa/dense/pixels.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T>
class SegmentLister {
  using A = typename Accumulator<T>::type;
  using Memory = SectionMemory<A>;

 public:
  explicit SegmentLister(const FilterGradPlan<T>& plan) : plan_(plan) {}

  // Divides pixels [first, first + count) into rows of outputs and returns the number of rows.
  int64_t list_rows(int64_t first, int64_t count, PixelRow* row) const {
    const PixelGrid& grid = plan_.grid;
    const Phase *d = grid.axis, *h = d + 1, *w = d + 2;
    const PixelRow* const begin = row;
    for (int64_t done = 0; done < count; done += row->count, ++row) {
      const int64_t pixel = first + done, above = pixel / w->count;
      row->first = pixel % w->count;
      row->count = smaller(w->count - row->first, count - done);
      row->pixel = done;
      row->at[0] = d->source(above / h->count % d->count, 0);
      row->at[1] = h->source(above % h->count, 0);
      const int64_t n = above / h->count / d->count;
      row->source = (((n * d->sources + row->at[0]) * h->sources + row->at[1]) * w->sources +
                     w->source(row->first, 0)) *
                    grid.channels;
    }
    return row - begin;
  }

  // Lists the segments of pixels that have sources in the run and returns their number; each pixel
  // has `span` channels from channel `base` on.
  int64_t list_segments(const Run& run, int64_t rows, int64_t base, int64_t span,
                        const Memory& memory) const {
    const Phase& w = plan_.grid.axis[2];
    const int64_t step = w.per_target * plan_.grid.channels;
    const Range valid = valid_pixels(run);
    const T* source = static_cast<const T*>(plan_.call.source) + run.offset + base;
    Segment<A>* segment = memory.segments;
    A* copy = memory.copied;
    for (const PixelRow* row = memory.rows; row < memory.rows + rows; ++row) {
      if (!row_exists(run, *row)) continue;
      const int64_t end = row->first + row->count;
      const int64_t a = clamp(valid.begin, row->first, end), b = clamp(valid.end, a, end);
      const T* first = source + row->source;
      const A* cotangent = memory.packed + row->pixel * plan_.panel_width;
      if (plan_.merged) copy_border(*row, row->first, a, first, cotangent, segment, copy);
      if (a < b) {
        const T* from = first + (a - row->first) * step;
        *segment = {copy, span, cotangent + (a - row->first) * plan_.panel_width, b - a};
        if constexpr (FilterGradPlan<T>::kWidens) {
          for (int64_t i = 0; i < b - a; ++i, copy += span) {
            copy_elements(from + i * step, span, copy);
          }
        } else {
          segment->source = from;
          segment->source_step = step;
        }
        ++segment;
      }
      if (plan_.merged) copy_border(*row, b, end, first, cotangent, segment, copy);
    }
    return segment - memory.segments;
  }

 private:
  // The pixels of a row that have a source in the run, or for a merged run, all its sources.
  Range valid_pixels(const Run& run) const {
    const Phase& w = plan_.grid.axis[2];
    const Range first = inside(w.source(0, run.tap[2]), w.per_target, w.count, w.sources);
    if (!plan_.merged) return first;
    const int64_t last = inside(w.source(0, w.taps - 1), w.per_target, w.count, w.sources).end;
    return {smaller(first.begin, last), smaller(first.end, last)};
  }

  // Whether the row of sources that the run reads exists.
  bool row_exists(const Run& run, const PixelRow& row) const {
    for (int a = 0; a < 2; ++a) {
      const Phase& axis = plan_.grid.axis[a];
      const int64_t at = row.at[a] + run.tap[a] * axis.per_tap;
      if (at < 0 || at >= axis.sources) return false;
    }
    return true;
  }

  // Lists copies of the merged runs of pixels [begin, end), which lie partly in the padding.
  void copy_border(const PixelRow& row, int64_t begin, int64_t end, const T* first,
                   const A* cotangent, Segment<A>*& segment, A*& copy) const {
    const Phase& w = plan_.grid.axis[2];
    const int64_t channels = plan_.grid.channels;
    for (int64_t j = begin; j < end; ++j, copy += plan_.run_length) {
      const T* from = first + (j - row.first) * w.per_target * channels;
      copy_merged(from, valid_taps(w, j), w.taps, channels, copy);
      *segment++ = {copy, plan_.run_length, cotangent + (j - row.first) * plan_.panel_width, 1};
    }
  }

  const FilterGradPlan<T>& plan_;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
