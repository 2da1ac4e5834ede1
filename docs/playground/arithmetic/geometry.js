// The sizes of one convolution, and which pixel meets which tap.
//
// A convolution has two axes here, rows and columns; in one dimension the first is an idle one.
// Each axis is {n, k, s, d, low, high, border, o}: input, kernel, stride, dilation, padding, output.

import { resolvePadding } from "./padding.js";

export const effectiveExtent = (k, d) => d * (k - 1) + 1;

export function outputExtent({ n, k, s, d, low, high }) {
  return Math.max(Math.floor((n + low + high - effectiveExtent(k, d)) / s) + 1, 0);
}

const IDLE = { n: 1, k: 1, s: 1, d: 1, low: 0, high: 0, border: null, o: 1 };

/** One axis of a convolution with this padding entry. */
export function axis(n, k, s, d, entry) {
  const sized = { n, k, s, d, ...resolvePadding(entry, n, k, s, d) };
  return { ...sized, o: outputExtent(sized) };
}

/** One axis of the convolution whose adjoint maps `n` pixels to more, and its padding. */
export function transposedAxis(n, k, s, d, entry, extra) {
  if (entry === "SAME" || entry === "SAME_LOWER") return axis(n * s, k, s, d, entry);
  const { low, high, border } = resolvePadding(entry, n, k, s, d);
  const extent = (n - 1) * s + effectiveExtent(k, d) - low - high + extra;
  const sized = { n: extent, k, s, d, low, high: high - extra, border };
  return { ...sized, o: outputExtent(sized) };
}

/** The convolution of `channels` to `features` in `groups` with one or two such axes. */
export function convolution(axes, channels, features, groups) {
  const both = axes.length === 1 ? [IDLE, axes[0]] : axes;
  return { rank: axes.length, axes: both, channels, features, groups };
}

/** The input pixel at position `q` of an axis; null where it is a zero of the padding. */
export function source(q, { n, border }) {
  if (q >= 0 && q < n) return q;
  switch (border) {
    case "CIRCULAR":
      return ((q % n) + n) % n;
    case "REFLECT":
      return q < 0 ? -q : 2 * (n - 1) - q;
    case "REPLICATE":
      return q < 0 ? 0 : n - 1;
    default:
      return null;
  }
}

/** Every {o, t, q, i} of an axis: output, tap, position, and the input pixel there or null. */
export function visits(axis) {
  const all = [];
  for (let o = 0; o < axis.o; o++)
    for (let t = 0; t < axis.k; t++) {
      const q = axis.s * o + axis.d * t - axis.low;
      all.push({ o, t, q, i: source(q, axis) });
    }
  return all;
}
