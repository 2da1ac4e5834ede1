// The sizes of one convolution and, per axis, which sources and taps contribute to which targets.
//
// Plain data with 64-bit indices. Functions are `static inline` on purpose: sources are compiled
// once per instruction set, and the linker could resolve a function that these objects share to the
// copy built for a newer processor than this one.

#pragma once

#include <cstdint>

namespace jaxconv {

enum class Operator { kConv, kInputGrad, kFilterGrad };
enum class Element { kFloat32, kFloat64, kBFloat16, kFloat16 };

// One spatial axis of the forward convolution: output o reads input o*stride - low + tap*dilation.
struct Axis {
  int64_t in, out, kernel, stride, low, dilation;
};

// Convolutions of lower rank have leading axes of size 1.
struct Geometry {
  int64_t batch, channels, features, groups;
  Axis axis[3];

  int64_t group_in() const { return channels / groups; }
  int64_t group_out() const { return features / groups; }
  int64_t taps() const { return axis[0].kernel * axis[1].kernel * axis[2].kernel; }
  int64_t inputs() const { return axis[0].in * axis[1].in * axis[2].in; }
  int64_t outputs() const { return axis[0].out * axis[1].out * axis[2].out; }
};

// conv and input_grad both gather: target = sum over taps of source * weight. For conv, targets are
// outputs; for input_grad, targets are inputs and sources are output cotangents. A phase is a set
// of evenly spaced targets that use the same taps:
//
//   target(j) = first + step*j               0 <= j < count
//   tap(u)    = tap_first + tap_step*u       0 <= u < taps
//   source    = origin + per_target*j + per_tap*u, which is padding if outside [0, sources)
//
// A convolution has one phase per axis; an input gradient has one per residue of the stride.
struct Phase {
  int64_t first, step, count;
  int64_t tap_first, tap_step, taps;
  int64_t origin, per_target, per_tap, sources;

  int64_t source(int64_t j, int64_t u) const { return origin + per_target * j + per_tap * u; }
};

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static inline int64_t floor_mod(int64_t a, int64_t b) {
  const int64_t r = a % b;
  return r < 0 ? r + b : r;
}

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }
static inline int64_t clamp(int64_t x, int64_t low, int64_t high) {
  return smaller(larger(x, low), high);
}

static inline int64_t round_up(int64_t a, int64_t unit) { return ceil_div(a, unit) * unit; }

static inline int64_t greatest_common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t r = a % b;
    a = b;
    b = r;
  }
  return a;
}

// Target i is target i / phase_count of phase i % phase_count. Residues past the last target have
// no phase, so that a stride longer than the axis adds none.
static inline int64_t phase_count(const Axis& axis, Operator op) {
  return op == Operator::kInputGrad ? smaller(axis.stride, larger(axis.in, 1)) : 1;
}

static inline Phase phase(const Axis& axis, Operator op, int64_t residue) {
  if (op != Operator::kInputGrad) {
    return {0,         1,           axis.out,      0,      1, axis.kernel,
            -axis.low, axis.stride, axis.dilation, axis.in};
  }
  // i + low = o*stride + t*dilation. The taps that solve this for i = residue (mod stride) are
  // t0, t0 + stride/g, …, if any. Each moves the source back by dilation/g, so the phase lists
  // them from last to first.
  const int64_t g = greatest_common_divisor(axis.stride, axis.dilation);
  const int64_t spacing = axis.stride / g;
  const int64_t count = residue < axis.in ? ceil_div(axis.in - residue, axis.stride) : 0;
  Phase p{residue, axis.stride, count, 0, -spacing, 0, 0, 1, axis.dilation / g, axis.out};
  const int64_t shifted = residue + axis.low;
  for (int64_t t0 = 0; t0 < smaller(spacing, axis.kernel); ++t0) {
    if (floor_mod(shifted - t0 * axis.dilation, axis.stride) != 0) continue;
    p.taps = (axis.kernel - t0 - 1) / spacing + 1;
    p.tap_first = t0 + (p.taps - 1) * spacing;
    const int64_t distance = shifted - t0 * axis.dilation;  // a multiple of stride
    p.origin = distance / axis.stride - (p.taps - 1) * p.per_tap;
    break;
  }
  return p;
}

// The largest number of taps of any phase.
static inline int64_t most_taps(const Axis& axis, Operator op) {
  if (op != Operator::kInputGrad) return axis.kernel;
  return ceil_div(axis.kernel, axis.stride / greatest_common_divisor(axis.stride, axis.dilation));
}

// Splits a phase so that neighboring targets lie a whole number of taps apart. Targets then share
// sources for any dilation, and a dilated axis costs no more than an undilated one.
static inline int64_t lattice_spacing(const Phase& p) {
  return p.per_tap / greatest_common_divisor(p.per_target, p.per_tap);
}

static inline int64_t lattice_count(const Phase& p) {
  return smaller(lattice_spacing(p), larger(p.count, 1));
}

static inline Phase lattice(Phase p, int64_t residue) {
  const int64_t q = lattice_spacing(p);
  p.first += residue * p.step;
  p.origin += residue * p.per_target;
  p.count = residue < p.count ? ceil_div(p.count - residue, q) : 0;
  p.step *= q;
  p.per_target *= q;
  return p;
}

struct Range {
  int64_t begin, end;

  bool holds(int64_t i) const { return begin <= i && i < end; }
};

// The i of [0, count) with 0 <= at + i*step < size.
static inline Range inside(int64_t at, int64_t step, int64_t count, int64_t size) {
  if (at >= 0 && at + (count - 1) * step < size) return {0, count};  // usual case: no division
  const int64_t begin = at >= 0 ? 0 : ceil_div(-at, step);
  const int64_t end = at >= size ? 0 : ceil_div(size - at, step);
  return {smaller(begin, count), clamp(end, smaller(begin, count), count)};
}

// The taps of target j whose source is not padding: begin <= u < end.
static inline Range valid_taps(const Phase& p, int64_t j) {
  return inside(p.source(j, 0), p.per_tap, p.taps, p.sources);
}

}  // namespace jaxconv
