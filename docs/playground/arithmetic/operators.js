// The three operators, from the trilinear form that they share:
//
//     T(x, k, g) = sum over n, o, f, t, c of  g[o, f] * x[s*o + d*t - low, c] * k[t, c, f]
//
// "g" is the convolution itself, "x" the input gradient (the transposed convolution) and "k" the
// filter gradient: each is the derivative of T in one argument at the other two. Arrays are flat
// and channels-last: x [*S, C], k [*K, C/G, F], g [*O, F].

import { visits } from "./geometry.js";

const OPERANDS = { g: ["x", "k"], x: ["g", "k"], k: ["x", "g"] };
const AT = { g: "o", x: "i", k: "t" };

/** The two arrays that the operator for this result reads. */
export const operandsOf = (role) => OPERANDS[role];

/** The name of the index of this array on an axis: o, i or t. */
export const indexOf = (role) => AT[role];

/** The extents of an array: two axes and its features; a kernel has C/G and F. */
export function shapeOf(conv, role) {
  const [rows, columns] = conv.axes;
  if (role === "x") return [rows.n, columns.n, conv.channels];
  if (role === "g") return [rows.o, columns.o, conv.features];
  return [rows.k, columns.k, conv.channels / conv.groups, conv.features];
}

export const sizeOf = (conv, role) => shapeOf(conv, role).reduce((a, b) => a * b, 1);

/** Where the entry of channel `c` and feature `f` at `[row, column]` lies in the flat array. */
export function offset(conv, role, [row, column], c, f) {
  const columns = shapeOf(conv, role)[1];
  const pixel = row * columns + column;
  if (role === "x") return pixel * conv.channels + c;
  if (role === "g") return pixel * conv.features + f;
  const perGroup = conv.channels / conv.groups;
  return (pixel * perGroup + (c % perGroup)) * conv.features + f;
}

/** The channels that are summed with feature `f`. */
export function channelsOf(conv, f) {
  const perGroup = conv.channels / conv.groups;
  const group = Math.floor(f / (conv.features / conv.groups));
  return range(group * perGroup, perGroup);
}

/** The features that read channel `c`. */
export function featuresOf(conv, c) {
  const perGroup = conv.features / conv.groups;
  const group = Math.floor(c / (conv.channels / conv.groups));
  return range(group * perGroup, perGroup);
}

const range = (start, count) => Array.from({ length: count }, (_, at) => start + at);

/** The whole result in `role`; `arrays` has the other two. */
export function compute(conv, role, arrays) {
  const result = new Float64Array(sizeOf(conv, role));
  const values = { ...arrays, [role]: result };
  const [rows, columns] = conv.axes.map((axis) => visits(axis).filter(({ i }) => i !== null));
  for (const row of rows)
    for (const column of columns) addProducts(conv, role, values, row, column);
  return result;
}

/** Adds the products of all channels and features where one pixel meets one tap. */
function addProducts(conv, role, { x, k, g }, row, column) {
  const { channels, features, groups } = conv;
  const [perGroup, perGroupOut] = [channels / groups, features / groups];
  const pixel = (row.i * conv.axes[1].n + column.i) * channels;
  const tap = (row.t * conv.axes[1].k + column.t) * perGroup * features;
  const output = (row.o * conv.axes[1].o + column.o) * features;
  for (let f = 0; f < features; f++) {
    const first = pixel + Math.floor(f / perGroupOut) * perGroup;
    for (let c = 0; c < perGroup; c++) {
      const weight = tap + c * features + f;
      if (role === "g") g[output + f] += x[first + c] * k[weight];
      else if (role === "x") x[first + c] += g[output + f] * k[weight];
      else k[weight] += x[first + c] * g[output + f];
    }
  }
}

/**
 * The meetings {o, t, q, i} that enter one pixel or tap `[row, column]` of the result in `role`,
 * each index with a row and a column. Taps on zero padding are among them, with `i` null.
 */
export function meetings(conv, role, at) {
  const index = indexOf(role);
  const [rows, columns] = conv.axes.map((axis, dimension) =>
    visits(axis).filter((visit) => visit[index] === at[dimension]),
  );
  return rows.flatMap((row) => columns.map((column) => meeting(row, column)));
}

function meeting(row, column) {
  const outside = row.i === null || column.i === null;
  return {
    o: [row.o, column.o],
    t: [row.t, column.t],
    q: [row.q, column.q],
    i: outside ? null : [row.i, column.i],
  };
}
