// Moving through the result: by keys, by dragging, step by step, by channel and by feature.

import { channelsOf, featuresOf, shapeOf } from "../arithmetic/operators.js";

/** The place `by` steps further in reading order, around the end. */
export function stepped({ conv, role, at }, by) {
  const [rows, columns] = shapeOf(conv, role);
  const count = rows * columns;
  const next = (((at[0] * columns + at[1] + by) % count) + count) % count;
  return [Math.floor(next / columns), next % columns];
}

/** The place after an arrow key or another that moves; null for other keys. */
export function keyed({ conv, role, at: [row, column] }, key) {
  const [rows, columns] = shapeOf(conv, role);
  const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
  switch (key) {
    case "ArrowUp":
      return [within(row - 1, rows), column];
    case "ArrowDown":
      return [within(row + 1, rows), column];
    case "ArrowLeft":
      return [row, within(column - 1, columns)];
    case "ArrowRight":
      return [row, within(column + 1, columns)];
    case "Home":
      return [0, 0];
    case "End":
      return [rows - 1, columns - 1];
    default:
      return null;
  }
}

/** Choosing a channel of another group chooses a feature of that group, and the other way. */
export function otherIndex({ conv, ...scene }, { channel, feature }) {
  const [other, group] =
    channel === undefined
      ? ["channel", channelsOf(conv, feature)]
      : ["feature", featuresOf(conv, channel)];
  return group.includes(scene[other]) ? {} : { [other]: group[0] };
}

/** Which spot of a picture lies at this point, and where in it. */
function spotAt(spots, x, y) {
  return spots.find((spot) => {
    const width =
      spot.what === "thumbnails" ? spot.step * spot.list.indices.length : spot.columns * spot.cell;
    return x >= spot.x && x < spot.x + width && y >= spot.y && y < spot.y + spot.rows * spot.cell;
  });
}

/**
 * What a point of the picture asks for: `{at}`, the result there or the one whose window is nearest
 * to it, or `{channel}` or `{feature}`; null where there is nothing to move to.
 */
export function pointed(scene, spots, x, y, held) {
  const spot = held ?? spotAt(spots, x, y);
  if (!spot) return null;
  if (spot.what === "thumbnails") {
    const index = spot.list.indices[Math.floor((x - spot.x) / spot.step)];
    if (index === undefined) return null;
    return spot.list.role === "x" ? { channel: index, spot } : { feature: index, spot };
  }
  const position = [
    (y - spot.y) / spot.cell + spot.origin[0],
    (x - spot.x) / spot.cell + spot.origin[1],
  ];
  if (spot.role === scene.role) return { at: inside(scene, position.map(Math.floor)), spot };
  if (spot.slot === "products") return null;
  const at = nearestResult(scene, spot.role, position);
  return at && { at, spot };
}

function inside({ conv, role }, place) {
  const shape = shapeOf(conv, role);
  return place.map((value, axis) => Math.min(Math.max(value, 0), shape[axis] - 1));
}

/** The result for which the middle of what it reads from this operand is nearest. */
function nearestResult({ conv, role }, operand, position) {
  if (role === "k" || operand === "k") return null;
  const place = conv.axes.map(({ s, d, k, low }, axis) => {
    const middle = (d * (k - 1)) / 2;
    const center = position[axis] - 0.5;
    return Math.round(operand === "x" ? (center + low - middle) / s : center * s + middle - low);
  });
  return inside({ conv, role }, place);
}
