// The arrays of one depthwise call, from the point of view of its targets.

#pragma once

#include <cstdint>

#include "geometry.h"
#include "isa/depthwise/tile.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T>
struct DepthwiseShape {
  using A = typename Accumulator<T>::type;

  const Axis* axis;
  Operator op;
  int64_t batch, features;
  int64_t repeat;    // features per channel of a source pixel
  int64_t channels;  // of a source pixel
  int64_t unit;      // chunks of features are multiples of this: whole vectors and whole channels
  int64_t targets[3], sources[3], phases[3];

  DepthwiseShape(const Geometry& g, Operator op, int64_t repeat)
      : axis(g.axis),
        op(op),
        batch(g.batch),
        features(g.features),
        repeat(repeat),
        channels(g.features / repeat) {
    const int64_t multiplier = g.features / g.channels;
    unit = kLanes<A> / greatest_common_divisor(kLanes<A>, multiplier) * multiplier;
    for (int a = 0; a < 3; ++a) {
      targets[a] = op == Operator::kInputGrad ? axis[a].in : axis[a].out;
      sources[a] = op == Operator::kInputGrad ? axis[a].out : axis[a].in;
      phases[a] = phase_count(axis[a], op);
    }
  }

  int64_t kernel_rows() const { return axis[0].kernel * axis[1].kernel; }
  int64_t max_row_taps() const { return most_taps(axis[2], op); }

  int64_t image_size() const { return sources[0] * sources[1] * sources[2] * channels; }
  int64_t pixel_bytes() const { return channels * static_cast<int64_t>(sizeof(T)); }
  int64_t row_bytes() const { return sources[2] * pixel_bytes(); }

  // Of sources and targets together.
  int64_t array_bytes() const {
    const int64_t target_size = targets[0] * targets[1] * targets[2] * features;
    return batch * (image_size() + target_size) * static_cast<int64_t>(sizeof(T));
  }

  // Calls f(phase) for each set of targets of a row that use the same taps.
  template <class F>
  void for_each_row_phase(F&& f) const {
    for (int64_t i = 0; i < phases[2]; ++i) {
      const Phase whole = phase(axis[2], op, i);
      for (int64_t j = 0; j < lattice_count(whole); ++j) f(lattice(whole, j));
    }
  }
};

// The distance between neighboring targets of a row phase, in columns.
static inline int64_t column_spacing(const Phase& p) {
  return smaller(p.per_target / p.per_tap, p.taps);
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
