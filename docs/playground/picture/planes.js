// The grids of a picture: for each array the cells that are drawn, with their numbers.

import { source } from "../arithmetic/geometry.js";
import { indexOf, offset, shapeOf } from "../arithmetic/operators.js";

/**
 * `cells` of `rows` by `columns`, each {at, value, kind}, from the position `origin` on. `kind` is
 * "own", "border" or "zero" for padding, or "cropped" for what negative padding cuts off.
 */
export function planeOf(scene, role) {
  const padded = role === "x" && scene.role !== "x";
  const axes = scene.conv.axes.map((axis, dimension) => {
    const extent = shapeOf(scene.conv, role)[dimension];
    return padded ? paddedPositions(axis) : ownPositions(extent);
  });
  const cells = axes[0].flatMap((row) => axes[1].map((column) => cellOf(scene, role, row, column)));
  return {
    role,
    rows: axes[0].length,
    columns: axes[1].length,
    origin: [axes[0][0].q, axes[1][0].q],
    cells,
    most: mostOf(scene, role),
  };
}

const ownPositions = (extent) =>
  Array.from({ length: extent }, (_, q) => ({ q, i: q, kind: "own" }));

function paddedPositions(axis) {
  const { n, low, high } = axis;
  const first = Math.min(-low, 0);
  const last = n + Math.max(high, 0);
  return Array.from({ length: last - first }, (_, at) => {
    const q = first + at;
    const i = source(q, axis);
    const outside = q < 0 || q >= n;
    const cropped = q < -low || q >= n + high;
    return { q, i, kind: outside ? (i === null ? "zero" : "border") : cropped ? "cropped" : "own" };
  });
}

const ORDER = ["zero", "cropped", "border", "own"];

function cellOf({ conv, values, channel, feature }, role, row, column) {
  const kind = ORDER.find((each) => row.kind === each || column.kind === each);
  const value =
    kind === "zero" ? 0 : values[role][offset(conv, role, [row.i, column.i], channel, feature)];
  return { at: [row.q, column.q], pixel: [row.i, column.i], value, kind };
}

/** The greatest magnitude of an array, which has the strongest color. */
function mostOf({ values }, role) {
  let most = 1;
  for (const value of values[role]) most = Math.max(most, Math.abs(value));
  return most;
}

/** Where a meeting lies on the plane of this array: the position of a pixel, output or tap. */
export const positionOf = (role, meeting) => (role === "x" ? meeting.q : meeting[indexOf(role)]);

/** The products as a grid: by tap, or, for the filter gradient, by output. */
export function productPlane(scene) {
  const by = scene.role === "k" ? "o" : "t";
  const shape = shapeOf(scene.conv, scene.role === "k" ? "g" : "k");
  const sums = new Map();
  for (const product of scene.products) {
    const key = product[by].join();
    const before = sums.get(key);
    sums.set(key, {
      value: (before?.value ?? 0) + product.value,
      zero: (before?.zero ?? true) && product.i === null,
    });
  }
  const cells = [];
  for (let row = 0; row < shape[0]; row++)
    for (let column = 0; column < shape[1]; column++) {
      const sum = sums.get([row, column].join());
      cells.push({
        at: [row, column],
        value: sum?.value ?? null,
        kind: sum ? (sum.zero ? "zero" : "own") : "none",
      });
    }
  const most = cells.reduce((greatest, { value }) => Math.max(greatest, Math.abs(value ?? 0)), 1);
  return { role: "products", rows: shape[0], columns: shape[1], origin: [0, 0], cells, most };
}

/** One channel or feature of an array in small, without numbers. */
export function thumbnail(scene, role, index) {
  const channel = role === "x" ? index : scene.channel;
  const feature = role === "g" ? index : scene.feature;
  const [rows, columns] = shapeOf(scene.conv, role);
  const cells = [];
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      cells.push(scene.values[role][offset(scene.conv, role, [row, column], channel, feature)]);
  return { rows, columns, cells };
}
