// Where the planes of a picture lie: side by side, one below the other on narrow screens, and in one
// dimension as rows, with the products below the pixels that they come from.

import { positionOf } from "./planes.js";

const HEADING = 30;
const SIGN = 52; // the space of a sign between two planes
const ROW_GAP = 26;
const MARGIN = 8;
const MAX_CELL = 46;
const NARROW = 600;

export function arrange(scene, planes, width, thumbnails) {
  if (scene.rank === 1) return rows(scene, planes, width, thumbnails);
  return width < NARROW ? stacked(planes, width, thumbnails) : beside(planes, width, thumbnails);
}

/** Operand | kernel over products | result. */
function beside(planes, width, thumbnails) {
  const { a, b, products, result } = planes;
  const middle = Math.max(b.columns, products.columns);
  const columns = a.columns + middle + result.columns;
  const tallest = Math.max(a.rows, result.rows, b.rows + products.rows + 2);
  const space = width - 2 * MARGIN - 2 * SIGN;
  // Columns are wide enough for the headings of small planes.
  const headings = [a.heading, Math.max(b.heading, products.heading), result.heading];
  const widths = (cell) =>
    [a.columns, middle, result.columns].map((count, at) => Math.max(count * cell, headings[at]));
  const total = (cell) => widths(cell).reduce((sum, each) => sum + each, 0);
  let cell = Math.max(Math.min(space / columns, 660 / tallest, MAX_CELL), 4);
  while (total(cell) > space && cell > 4) cell -= 0.25;
  const wide = widths(cell);
  const spare = Math.max(space - total(cell), 0) / 2;
  const sign = SIGN + Math.min(spare, 40);
  const used = wide[0] + wide[1] + wide[2] + 2 * sign;
  const first = Math.max((width - used) / 2, MARGIN);
  const xs = [first, first + wide[0] + sign, first + wide[0] + wide[1] + 2 * sign];
  const heightOf = (plane) => plane.rows * cell;
  const middleHeight = heightOf(b) + heightOf(products) + HEADING + SIGN - 10;
  const inner = Math.max(heightOf(a), middleHeight, heightOf(result));
  const top = (height) => MARGIN + HEADING + (inner - height) / 2;
  const bTop = top(middleHeight);
  const pTop = bTop + heightOf(b) + HEADING + SIGN - 10;
  const items = [
    plane("a", a, xs[0], top(heightOf(a)), cell),
    plane("b", b, xs[1], bTop, cell),
    plane("products", products, xs[1], pTop, cell),
    plane("result", result, xs[2], top(heightOf(result)), cell),
  ];
  const center = MARGIN + HEADING + inner / 2;
  const signs = [
    { x: xs[0] + a.columns * cell + (xs[1] - xs[0] - a.columns * cell) / 2, y: bTop + heightOf(b) / 2, sign: "×" },
    { x: xs[1] + (b.columns * cell) / 2, y: bTop + heightOf(b) + 20, sign: "=" },
    { x: xs[1] + products.columns * cell + (xs[2] - xs[1] - products.columns * cell) / 2, y: Math.max(pTop + heightOf(products) / 2, center), sign: "Σ →" },
  ]; // prettier-ignore
  let bottom = MARGIN + HEADING + inner + 14;
  bottom = strips(
    items,
    thumbnails,
    { a: xs[0], result: xs[2] },
    { a: xs[1] - xs[0] - 12, result: width - xs[2] - MARGIN },
    bottom,
  );
  return { items, signs, links: [], width, height: bottom + MARGIN };
}

/** For narrow screens: operand, then kernel and products side by side, then the result. */
function stacked(planes, width, thumbnails) {
  const { a, b, products, result } = planes;
  const space = width - 2 * MARGIN;
  const cellOf = (columns, share) => Math.max(Math.min(share / columns, 40), 4);
  const items = [];
  const signs = [];
  let y = MARGIN;
  const add = (slot, each, x, cell) => items.push(plane(slot, each, x, y + HEADING, cell));
  const aCell = cellOf(a.columns, space);
  const center = (columns, cell) => MARGIN + (space - columns * cell) / 2;
  const aLeft = center(a.columns, aCell);
  add("a", a, aLeft, aCell);
  y += HEADING + a.rows * aCell + 8;
  y = strips(items, thumbnails, { a: aLeft }, { a: width - aLeft }, y, ["a"]);
  const half = (space - SIGN) / 2;
  const cells = [cellOf(b.columns, half), cellOf(products.columns, half)];
  add("b", b, MARGIN, cells[0]);
  add("products", products, MARGIN + half + SIGN, cells[1]);
  signs.push({ x: MARGIN + half + SIGN / 2, y: y + HEADING + (b.rows * cells[0]) / 2, sign: "→" });
  y += HEADING + Math.max(b.rows * cells[0], products.rows * cells[1]) + 8;
  const rCell = cellOf(result.columns, space);
  const rLeft = center(result.columns, rCell);
  add("result", result, rLeft, rCell);
  y += HEADING + result.rows * rCell + 8;
  y = strips(items, thumbnails, { result: rLeft }, { result: width - rLeft }, y, ["result"]);
  return { items, signs, links: [], width, height: y + MARGIN };
}

/** One dimension: everything in rows. */
function rows(scene, planes, width, thumbnails) {
  const { a, b, products, result } = planes;
  const space = width - 2 * MARGIN;
  const [first] = scene.operands;
  const places = scene.products.map((product) => positionOf(first, product)[1]);
  const cell = Math.max(Math.min(space / Math.max(a.columns, result.columns), MAX_CELL), 5);
  const aligned = places.length > 0 && new Set(places).size === places.length && cell >= 21;
  const items = [];
  const links = [];
  let y = MARGIN;
  const left = MARGIN + Math.max((space - Math.max(a.columns, result.columns) * cell) / 2, 0);
  const row = (item) => {
    items.push({ ...item, y: y + HEADING });
    y += HEADING + item.cell + 12;
  };
  row(plane("a", a, left, 0, cell));
  y = strips(items, thumbnails, { a: left }, { a: space }, y, ["a"]);
  if (aligned) {
    for (const slot of ["b", "products"])
      row({ what: "aligned", slot, x: left, y: 0, cell, origin: a.origin[1] });
  } else {
    const small = (each) => Math.max(Math.min(space / each.columns, MAX_CELL), 5);
    row(plane("b", b, left, 0, small(b)));
    row(plane("products", products, left, 0, small(products)));
  }
  const from = y - 12;
  // Where outputs and pixels have the same distance, output 0 stands below pixel 0.
  const shift = Math.min(
    Math.max(-a.origin[1], 0) * cell,
    Math.max(width - MARGIN - left - result.columns * cell, 0),
  );
  y += aligned ? ROW_GAP : 0;
  row(plane("result", result, left + shift, 0, cell));
  if (aligned) {
    const target = { x: left + shift + (scene.at[1] + 0.5) * cell, y: y - 12 - cell };
    for (const place of places)
      links.push({
        x1: left + (place - a.origin[1] + 0.5) * cell,
        y1: from,
        x2: target.x,
        y2: target.y,
      });
  }
  y = strips(items, thumbnails, { result: left + shift }, { result: space }, y, ["result"]);
  return { items, signs: [], links, width, height: y + MARGIN };
}

const plane = (slot, { rows, columns }, x, y, cell) => ({
  what: "plane",
  slot,
  rows,
  columns,
  x,
  y,
  cell,
});

/** Channels and features in small, from `y` on; returns where they end. */
function strips(items, thumbnails, xs, widths, y, slots = ["a", "result"]) {
  let bottom = y;
  for (const slot of slots) {
    const list = thumbnails[slot];
    if (!list) continue;
    const { rows, columns } = list;
    const count = list.indices.length;
    const room = widths[slot] / count - 6;
    const cell = Math.max(
      Math.min(room / columns, 44 / Math.max(rows, 1), rows === 1 ? 6 : 8),
      0.6,
    );
    const height = rows * cell;
    items.push({
      what: "thumbnails",
      slot,
      list,
      x: xs[slot],
      y: y + 4,
      cell,
      rows,
      columns,
      step: columns * cell + 6,
    });
    bottom = Math.max(bottom, y + 4 + height + 22);
  }
  return bottom;
}
