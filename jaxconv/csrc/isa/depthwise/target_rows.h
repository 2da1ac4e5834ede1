// The order in which the rows of targets are computed, in units that threads share.

#pragma once

#include <cstdint>

#include "isa/depthwise/shape.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// The part of the L2 cache for a band of rows of all planes that a 3-D kernel spans.
constexpr int64_t kMaxBandBytes = 256 << 10;

// A unit of work: a row of targets, a pair of rows that are one tap apart (neighbors, or with a
// dilation of 2 rows 0 and 2, 1 and 3, 4 and 6), or a segment of a long row.
struct Unit {
  int64_t n, d, h;  // batch element, plane and (upper) row
  int64_t segment;
  int64_t rows;  // of targets: 1 or 2
};

template <class T>
struct TargetRows {
  int64_t per_unit;   // rows of targets: 1, or 2 in pairs
  int64_t step;       // from the upper row of a pair to the lower
  int64_t lattices;   // interleaved sets of rows a tap apart (dilation 2: even and odd rows)
  int64_t segments;   // per row
  int64_t row_units;  // per plane
  int64_t band;       // row units
  int64_t units;
  int64_t planes, height;

  TargetRows(const DepthwiseShape<T>& shape, bool pairs)
      : per_unit(pairs ? 2 : 1),
        step(pairs ? lattice_count(phase(shape.axis[1], shape.op, 0)) : 1),
        lattices(shape.phases[1] * step),
        planes(shape.targets[0]),
        height(shape.targets[1]) {
    // A 1-D convolution has few, long rows: split them, so that threads can share them.
    const int64_t rows = shape.batch * planes * height;
    segments = rows >= 64 ? 1 : clamp(shape.targets[2] / 16, 1, ceil_div(64, larger(rows, 1)));
    row_units = height / (per_unit * step) * step + smaller(step, height % (per_unit * step));
    band = band_rows(shape);
    units = shape.batch * planes * row_units * segments;
  }

  // From a row of targets to the one for which tiles prefetch.
  int64_t rows_ahead() const { return lattices * per_unit; }

  Unit unit(int64_t i) const {
    const int64_t plane_units = planes * row_units;
    const int64_t in_image = i / segments % plane_units;
    const int64_t first = in_image / (band * planes) * band;
    const int64_t rows = smaller(band, row_units - first), in_band = in_image - first * planes;
    const int64_t row = first + in_band % rows;
    Unit u{i / segments / plane_units, in_band / rows, row / step * step * per_unit + row % step,
           i % segments, 1};
    if (per_unit == 2 && u.h + step < height) u.rows = 2;
    return u;
  }

 private:
  // If a 3-D convolution visited whole planes in turn, each would push the others that its kernel
  // spans out of the L2 cache. It visits a band of rows of all planes instead, then the next band.
  int64_t band_rows(const DepthwiseShape<T>& shape) const {
    const Axis &depth = shape.axis[0], &rows = shape.axis[1];
    const int64_t fitting = kMaxBandBytes / (shape.row_bytes() * depth.kernel * rows.stride);
    const int64_t all = larger(height, rows.kernel);
    return ceil_div(depth.kernel == 1 ? all : clamp(fitting, rows.kernel, all), per_unit);
  }
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
