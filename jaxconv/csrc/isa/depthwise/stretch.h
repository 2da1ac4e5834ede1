// A stretch: consecutive targets of one row (or of a pair of rows) and a chunk of their features.
//
// Tiles read sources through a table of pointers, one per kernel row and column: to the sources in
// place where those are whole vectors of accumulators, otherwise to copies. Columns that are
// padding point to zeros. All tiles of a stretch share one table.

#pragma once

#include <cstdint>

#include "geometry.h"
#include "isa/depthwise/tile.h"

namespace jaxconv {
namespace JAXCONV_ISA {

struct Stretch {
  const Phase* phase;
  int64_t spacing;               // of neighboring targets, in columns
  int64_t row;                   // of targets, counted over the batch and all axes but the last
  int64_t target_rows;           // 1 or 2
  int64_t target, targets;       // first target of the phase, and how many
  int64_t rows;                  // of sources
  const int64_t* source_row;     // where each begins in the image
  const int64_t* kernel_row[2];  // offset of its taps, for each row of targets
  int64_t upper, both;           // source rows used by the upper target row only, which come first,
                                 // and by both
  int64_t feature, features;
  Prefetch prefetch;  // without its pixels

  // Whether the columns of neighboring targets overlap or adjoin. If not, each target has a run of
  // columns of its own.
  bool shared() const { return phase->per_target <= phase->per_tap * phase->taps; }
  int64_t runs() const { return shared() ? 1 : targets; }
  int64_t run_length() const {
    return shared() ? (targets - 1) * spacing + phase->taps : phase->taps;
  }
  int64_t columns() const { return runs() * run_length(); }

  // Calls f(row, first column, its source index, the columns of the run that are not padding) for
  // all runs.
  template <class F>
  JAXCONV_INLINE void for_each_run(F&& f) const {
    const int64_t length = run_length();
    for (int64_t g = 0; g < runs(); ++g) {
      const int64_t at = phase->source(target + g, 0);
      const Range found = inside(at, phase->per_tap, length, phase->sources);
      for (int64_t r = 0; r < rows; ++r) f(r, g * length, at, found);
    }
  }
};

// Fills the table of a stretch. first_of(row, first column, its source index) is where a run of
// columns would begin; consecutive columns are `step` elements apart.
template <class A, class F>
JAXCONV_INLINE void list_columns(const Stretch& s, int64_t step, const A* zeros, const A** table,
                                 F&& first_of) {
  const int64_t columns = s.columns(), length = s.run_length();
  s.for_each_run([&](int64_t r, int64_t first, int64_t at, Range found) JAXCONV_LAMBDA {
    const A** entry = table + r * columns + first;
    const A* from = first_of(r, first, at);
    for (int64_t c = 0; c < found.begin; ++c) entry[c] = zeros;
    for (int64_t c = found.begin; c < found.end; ++c) entry[c] = from + c * step;
    for (int64_t c = found.end; c < length; ++c) entry[c] = zeros;
  });
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
