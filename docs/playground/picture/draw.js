// The picture of a scene: two arrays, the products of their entries, and the sum that they become.

import { channelsOf, featuresOf, shapeOf } from "../arithmetic/operators.js";
import { arrange } from "./arrange.js";
import { planeOf, positionOf, productPlane, thumbnail } from "./planes.js";
import { mix, tint } from "./palette.js";
import { formatNumber, path, picture, rect, text, textWithNote } from "./svg.js";

export const MAX_THUMBNAILS = 12;
const MIN_NUMBER = 6.5; // the smallest font size that can be read

/** `{svg, spots}`: the picture, and where the cells of its planes lie. */
export function draw(scene, theme, width) {
  const [a, b] = scene.operands;
  const planes = {
    a: planeOf(scene, a),
    b: planeOf(scene, b),
    products: productPlane(scene),
    result: planeOf(scene, scene.role),
  };
  for (const [slot, plane] of Object.entries(planes))
    plane.heading = headingWidth(scene, plane.role, slot);
  const layout = arrange(scene, planes, width, {
    a: thumbnailsOf(scene, a),
    result: thumbnailsOf(scene, scene.role),
  });
  const parts = layout.items.map((item) => drawItem(scene, theme, planes, item));
  const links = layout.links.map((link) => drawLink(theme, link));
  const signs = layout.signs.map(({ x, y, sign }) =>
    text(x, y, sign, {
      fill: theme.faint,
      "font-size": 22,
      "text-anchor": "middle",
      "dominant-baseline": "central",
    }),
  );
  const label = describe(scene);
  const svg = picture(
    layout.width,
    layout.height,
    label,
    theme.card,
    [...links, ...parts, ...signs].join(""),
  );
  const spots = layout.items.filter(({ what }) => what === "plane" || what === "thumbnails");
  return {
    svg,
    spots: spots.map((item) => ({
      ...item,
      role: planes[item.slot].role,
      origin: planes[item.slot].origin,
    })),
  };
}

/** One sentence about the result shown, for people who do not see the picture. */
export function describe(scene) {
  const place =
    scene.rank === 1 ? `position ${scene.at[1]}` : `row ${scene.at[0]}, column ${scene.at[1]}`;
  const what = scene.names[scene.role];
  const count = scene.products.length * scene.partials.length;
  const sum = formatNumber(scene.total);
  if (!count) return `${what} at ${place}: nothing reads it, so it is 0.`;
  return `${what} at ${place}: the sum of ${count} ${count === 1 ? "product" : "products"} is ${sum}.`;
}

/** The channels or features of an array, or none where there is one, or for a kernel. */
function thumbnailsOf(scene, role) {
  if (role === "k") return null;
  const [rows, columns, count] = shapeOf(scene.conv, role);
  if (count === 1) return null;
  const chosen = role === "x" ? scene.channel : scene.feature;
  const start = Math.min(
    Math.max(chosen - MAX_THUMBNAILS + 1, 0),
    Math.max(count - MAX_THUMBNAILS, 0),
  );
  const indices = Array.from({ length: Math.min(count, MAX_THUMBNAILS) }, (_, at) => start + at);
  const group =
    role === scene.role
      ? [chosen]
      : role === "x" ? channelsOf(scene.conv, scene.feature) : featuresOf(scene.conv, scene.channel); // prettier-ignore
  return { role, rows, columns, indices, chosen, group };
}

/** Whether an array is the function's input, its output or the kernel: this decides its color. */
export function hueOf(scene, role) {
  if (role === "k") return "kernel";
  if (role === "products") return "products";
  return (role === "x") !== scene.transposed ? "input" : "output";
}

function drawItem(scene, theme, planes, item) {
  if (item.what === "thumbnails") return drawThumbnails(scene, theme, item);
  const plane = planes[item.slot];
  const heading = drawHeading(scene, theme, plane, item);
  if (item.what === "aligned") return heading + drawAligned(scene, theme, plane, item);
  return heading + drawPlane(scene, theme, plane, item);
}

const nameOf = (scene, role, slot) => (slot === "products" ? "products" : scene.names[role]);

/** About how wide a heading is, in any of the fonts that it may have. */
const headingWidth = (scene, role, slot) =>
  8.2 * nameOf(scene, role, slot).length + 6.6 * indexLabel(scene, role).length + 14;

function drawHeading(scene, theme, plane, { slot, x, y }) {
  const index = indexLabel(scene, plane.role);
  const name = nameOf(scene, plane.role, slot);
  const title = { fill: theme.ink, "font-size": 14, "font-weight": 650 };
  return textWithNote(x, y - 9, name, index, title, {
    fill: theme.faint,
    "font-size": 12,
    "font-weight": 400,
  });
}

/** Which channel and feature of an array is drawn. */
function indexLabel({ conv, channel, feature, transposed }, role) {
  const [inputs, outputs] = transposed ? ["feature", "channel"] : ["channel", "feature"];
  if (role === "x") return conv.channels > 1 ? `${inputs} ${channel}` : "";
  if (role === "g") return conv.features > 1 ? `${outputs} ${feature}` : "";
  if (role === "products" || conv.channels * conv.features === 1 || conv.channels === conv.groups)
    return "";
  return transposed ? `${feature} → ${channel}` : `${channel} → ${feature}`;
}

function drawPlane(scene, theme, plane, { x, y, cell }) {
  const hue = hueOf(scene, plane.role);
  const range = rangeOf(plane);
  const drawn = plane.cells.map((each) => {
    const left = x + (each.at[1] - plane.origin[1]) * cell;
    const top = y + (each.at[0] - plane.origin[0]) * cell;
    return drawCell(theme, each, left, top, cell, hue, range);
  });
  const marks = plane.role === scene.role ? resultMark(scene, theme, plane, x, y, cell) : "";
  const window = plane.role === "products" ? "" : windowMarks(scene, theme, plane, x, y, cell, hue);
  return drawn.join("") + window + marks;
}

function rangeOf({ cells }) {
  const values = cells.map(({ value }) => value ?? 0);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return most > least ? (value) => (value - least) / (most - least) : () => 0.5;
}

function drawCell(theme, { value, kind }, x, y, cell, hue, range) {
  const stroke = { stroke: theme.edge, "stroke-width": cell > 14 ? 1 : 0.5 };
  if (kind === "none")
    return rect(x, y, cell, cell, { fill: "none", ...stroke, "stroke-dasharray": "2 3" });
  const fills = {
    own: tint(theme, hue, range(value)),
    zero: theme.pad,
    border: mix(theme.pad, theme[hue], 0.1),
    cropped: theme.card,
  };
  const faded = kind === "own" ? theme.ink : theme.faint;
  const dashes = kind === "cropped" ? { "stroke-dasharray": "2 3" } : {};
  return (
    rect(x, y, cell, cell, { fill: fills[kind], ...stroke, ...dashes }) +
    numberIn(value, x, y, cell, faded)
  );
}

function numberIn(value, x, y, cell, fill, weight) {
  const written = formatNumber(value);
  const size = Math.min(cell * 0.42, 17, (cell * 0.92) / (0.6 * written.length));
  if (size < MIN_NUMBER) return "";
  return text(x + cell / 2, y + cell / 2, written, {
    fill, "font-size": size, "font-weight": weight, "text-anchor": "middle", "dominant-baseline": "central",
  }); // prettier-ignore
}

/** The cells of an operand that take part: in the kernel's color, with the weight in the corner. */
function windowMarks(scene, theme, plane, x, y, cell, hue) {
  const isOperand = scene.operands.includes(plane.role);
  if (!isOperand || !scene.products.length) return "";
  const [first] = scene.operands;
  const places = new Map();
  for (const product of scene.products) places.set(positionOf(plane.role, product).join(), product);
  const whole = plane.role !== first && plane.role === "k" && places.size === plane.cells.length;
  if (whole) return outline(theme, plane, [...places.values()], x, y, cell);
  const range = rangeOf(plane);
  const marks = [...places.values()].map((product) => {
    const [row, column] = positionOf(plane.role, product);
    const left = x + (column - plane.origin[1]) * cell;
    const top = y + (row - plane.origin[0]) * cell;
    const value = plane.role === first ? product.a : product.b;
    const mark = plane.role === first && scene.role !== "k" ? "kernel" : hue;
    const amount = 0.62 + 0.2 * range(value);
    const fill = mix(theme.card, theme[mark], theme.card === "#ffffff" ? amount : amount * 0.62);
    const corner = plane.role === first && cell >= 32 && scene.role !== "k"
      ? text(left + cell - 3, top + cell - 4, `×${formatNumber(product.b)}`, { fill: theme.ink, "font-size": cell * 0.23, "text-anchor": "end" })
      : ""; // prettier-ignore
    const raised = corner ? -cell * 0.07 : 0;
    return (
      rect(left, top, cell, cell, { fill, stroke: theme.frame, "stroke-width": 1.2, "data-tap": product.t.join() }) +
      numberIn(value, left, top + raised, cell, theme.ink, 600) + corner
    ); // prettier-ignore
  });
  return marks.join("") + outline(theme, plane, [...places.values()], x, y, cell);
}

/** A frame around all cells that take part. */
function outline(theme, plane, products, x, y, cell) {
  const places = products.map((product) => positionOf(plane.role, product));
  const bounds = [0, 1].map((axis) => {
    const along = places.map((place) => place[axis] - plane.origin[axis]);
    return [Math.min(...along), Math.max(...along) + 1];
  });
  const [[top, bottom], [left, right]] = bounds;
  return rect(x + left * cell, y + top * cell, (right - left) * cell, (bottom - top) * cell, {
    fill: "none", stroke: theme.frame, "stroke-width": 2.5, rx: 3,
  }); // prettier-ignore
}

function resultMark(scene, theme, plane, x, y, cell) {
  const [row, column] = scene.at;
  const left = x + column * cell;
  const top = y + row * cell;
  const fill = mix(
    theme.card,
    theme[hueOf(scene, plane.role)],
    theme.card === "#ffffff" ? 0.62 : 0.55,
  );
  return (
    rect(left, top, cell, cell, { fill, stroke: theme.frame, "stroke-width": 3, rx: 3, "data-result": scene.at.join() }) +
    numberIn(scene.total, left, top, cell, theme.ink, 700)
  ); // prettier-ignore
}

/** In one dimension, weights and products below the pixels that they belong to. */
function drawAligned(scene, theme, plane, { slot, x, y, cell, origin }) {
  const hue = hueOf(scene, plane.role);
  const first = scene.operands[0];
  const range = rangeOf(plane);
  return scene.products
    .map((product) => {
      const left = x + (positionOf(first, product)[1] - origin) * cell;
      const value = slot === "products" ? product.value : product.b;
      const kind = slot === "products" && product.i === null ? "zero" : "own";
      return drawCell(theme, { value, kind }, left, y, cell, hue, range);
    })
    .join("");
}

const drawLink = (theme, { x1, y1, x2, y2 }) => {
  const middle = (y1 + y2) / 2;
  return path(`M${x1.toFixed(1)} ${y1.toFixed(1)}C${x1.toFixed(1)} ${middle.toFixed(1)} ${x2.toFixed(1)} ${middle.toFixed(1)} ${x2.toFixed(1)} ${y2.toFixed(1)}`, {
    fill: "none", stroke: theme.frame, "stroke-width": 1.4, opacity: 0.75,
  }); // prettier-ignore
};

function drawThumbnails(scene, theme, { list, x, y, cell, step }) {
  const hue = hueOf(scene, list.role);
  return list.indices
    .map((index, at) => {
      const small = thumbnail(scene, list.role, index);
      const left = x + at * step;
      const values = [...small.cells];
      const [least, most] = [Math.min(...values), Math.max(...values)];
      const used = list.group.includes(index);
      const cells = values.map((value, n) => {
        const share = most > least ? (value - least) / (most - least) : 0.5;
        const fill = mix(theme.card, theme[hue], 0.1 + 0.8 * share);
        return rect(left + (n % small.columns) * cell, y + Math.floor(n / small.columns) * cell, cell, cell, {
          fill, opacity: used || list.role === scene.role ? undefined : 0.25,
        }); // prettier-ignore
      });
      const [width, height] = [small.columns * cell, small.rows * cell];
      const chosen = index === list.chosen;
      const border = rect(left, y, width, height, {
        fill: "none", rx: 1, stroke: chosen ? theme.frame : theme.edge, "stroke-width": chosen ? 2.5 : 1,
      }); // prettier-ignore
      const label = text(left + width / 2, y + height + 13, index, {
        fill: chosen ? theme.ink : theme.faint, "font-size": 11, "font-weight": chosen ? 650 : 400, "text-anchor": "middle",
      }); // prettier-ignore
      return cells.join("") + border + label;
    })
    .join("");
}
