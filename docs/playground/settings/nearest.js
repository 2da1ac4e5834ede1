// The nearest possible setting to an impossible one: numbers within their limits, then the smallest
// change of one setting, then of two, that jaxconv accepts.

import { KINDS, limits, PER_AXIS } from "./kinds.js";
import { NAMES as PADDINGS } from "../arithmetic/padding.js";
import { possible } from "./resolve.js";
import { start } from "./state.js";

// How much a change by one weighs: kernels and groups give way before extents and channels.
const WEIGHTS = { k: 1, op: 1, g: 1.2, d: 1.4, f: 1.6, c: 1.8, s: 2, n: 2.5, m: 3, seed: 9 };
const PADDING_WEIGHT = 3.5;

export function nearest(state) {
  const clamped = withinLimits(state);
  if (possible(clamped)) return clamped;
  const changes = singleChanges(clamped);
  const single = changes.find(({ change }) => possible({ ...clamped, ...change }));
  if (single) return { ...clamped, ...single.change };
  return nearestByTwo(clamped, changes) ?? { ...start(state.kind, clamped.n.length) };
}

function nearestByTwo(state, changes) {
  let best = null;
  for (const [at, first] of changes.entries())
    for (const second of changes.slice(at + 1)) {
      const weight = first.weight + second.weight;
      if (best && weight >= best.weight) break; // those that follow weigh more
      const changed = { ...state, ...first.change, ...second.change };
      if (possible(changed)) best = { weight, changed };
    }
  return best?.changed;
}

function withinLimits(state) {
  const rank = Math.min(state.n.length, 2);
  const begin = start(state.kind, rank);
  const fixed = { ...state };
  for (const name of Object.keys(WEIGHTS)) {
    const [least, greatest] = limits(name, rank);
    const clamp = (value, otherwise) =>
      typeof value === "number"
        ? Math.min(Math.max(Math.trunc(value), least), greatest)
        : otherwise;
    fixed[name] = PER_AXIS.includes(name)
      ? begin[name].map((value, at) => clamp(state[name][at] ?? state[name][0], value))
      : clamp(state[name], begin[name]);
  }
  fixed.p = paddingWithinLimits(state.p, rank, begin.p);
  return fixed;
}

function paddingWithinLimits(p, rank, otherwise) {
  const entry = (value) => {
    if (typeof value === "string" && PADDINGS.includes(value.toUpperCase()))
      return value.toUpperCase();
    if (Array.isArray(value) && value.length === 2 && value.every(Number.isInteger))
      return value.map(side);
    return Number.isInteger(value) ? side(value) : otherwise;
  };
  const side = (value) => Math.min(Math.max(value, -24), 24);
  if (!p?.axes) {
    const one = entry(p);
    return one === "CAUSAL" && rank === 2 ? { axes: ["CAUSAL", "SAME"] } : one;
  }
  const axes = Array.from({ length: rank }, (_, at) => entry(p.axes[at] ?? p.axes[0]));
  const same = typeof axes[0] === "string" && axes[0] !== "CAUSAL" && axes[0] === axes[1];
  return rank === 1 || same ? axes[0] : { axes };
}

/** Every change of one setting, the lightest first. */
function singleChanges(state) {
  const { fields } = KINDS[state.kind];
  const changes = fields.flatMap((name) =>
    name === "p" ? paddingChanges(state) : sizeChanges(state, name),
  );
  return changes.sort((a, b) => a.weight - b.weight);
}

function sizeChanges(state, name) {
  const rank = state.n.length;
  const [least, greatest] = limits(name, rank);
  const values = Array.from({ length: greatest - least + 1 }, (_, at) => least + at);
  const weigh = (from, to) => Math.abs(from - to) * WEIGHTS[name] + (to > from ? 0.1 : 0);
  if (!PER_AXIS.includes(name))
    return values.map((value) => ({
      change: { [name]: value },
      weight: weigh(state[name], value),
    }));
  const targets = state[name].map(
    (_, axis) => (value) => state[name].map((old, at) => (at === axis ? value : old)),
  );
  if (rank === 2) targets.push((value) => [value, value]);
  return targets.flatMap((target) =>
    values.map((value) => {
      const changed = target(value);
      const weight = changed.reduce((sum, to, at) => sum + weigh(state[name][at], to), 0);
      return { change: { [name]: changed }, weight };
    }),
  );
}

const paddingChanges = (state) =>
  ["SAME", "VALID"].map((name, at) => ({ change: { p: name }, weight: PADDING_WEIGHT + at }));
