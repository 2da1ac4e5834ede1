// The settings of the page, and the link that holds them, such as
// #kind=depthwise&n=7x7&c=3&m=1&k=3x3&s=1&d=1&p=SAME&view=forward&at=2,3
//
// A value that is no number stays the text that it is, for `resolve` to name in its sentence.

import { KINDS, PER_AXIS } from "./kinds.js";
import { closest, repr } from "../arithmetic/words.js";

export const VIEWS = ["forward", "input_grad", "filter_grad"];
export const STAGES = ["depthwise", "pointwise"];
const PLACE = { view: "forward", at: null, ch: 0, ft: 0, stage: "depthwise", seed: 0 };
const KEYS = ["kind", "n", "c", "f", "m", "k", "s", "d", "p", "op", "g", ...Object.keys(PLACE)];

export const uses = (state, name) => KINDS[state.kind].fields.includes(name);

/** The case that a kind starts with, with one or two axes. */
export function start(kind = "standard", rank = KINDS[kind].start.n.length) {
  const settings = { ...KINDS[kind].start };
  for (const name of PER_AXIS) settings[name] = settings[name].slice(0, 1);
  if (rank === 2) for (const name of PER_AXIS) settings[name] = Array(2).fill(settings[name][0]);
  if (rank === 1 && kind !== "causal") settings.n = [settings.n[0] + 5];
  if (rank === 2 && kind === "causal") Object.assign(settings, { n: [8, 8], d: [1, 1] });
  return { kind, ...settings, ...PLACE };
}

/** The state of a link, and the sentences about those of its parts that mean nothing. */
export function read(hash) {
  const text = decode(hash.replace(/^#/, ""));
  const faults = [];
  const given = {};
  for (const part of text.split("&").filter(Boolean).map(shortened)) {
    const [key, ...rest] = part.split("=");
    if (KEYS.includes(key) && rest.length === 1 && rest[0]) given[key] = rest[0];
    else faults.push(unknownPart(part, key, rest));
  }
  const kind = choice(given, "kind", Object.keys(KINDS), "standard", faults);
  const rank = rankOf(given) ?? KINDS[kind].start.n.length;
  const state = start(kind, Math.min(rank, 2));
  for (const name of KEYS) if (name in given && name !== "kind") parse(state, name, given[name]);
  for (const name of PER_AXIS) spread(state, name, rank);
  state.view = choice(given, "view", VIEWS, "forward", faults);
  state.stage = choice(given, "stage", STAGES, "depthwise", faults);
  return { state, faults };
}

/** The number of axes: that of the extents, or else of a kernel with more than one. */
function rankOf({ n, k }) {
  if (n) return n.split("x").length;
  return k?.includes("x") ? k.split("x").length : undefined;
}

/** Parts that mean something are short; sentences quote the others. */
const shortened = (part) => (part.length > 60 ? `${part.slice(0, 60)}…` : part);

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a stray %
  }
}

function unknownPart(part, key, rest) {
  if (KEYS.includes(key)) return `the link's ${key} must have a value, but got ${repr(part)}`;
  const close = rest.length && closest(key, KEYS);
  const hint = close ? `; did you mean "${close}"?` : "";
  return `the link must have parts KEY=VALUE joined by "&", with KEY one of ${KEYS.join(", ")}, but got ${repr(part)}${hint}`;
}

function choice(given, key, names, otherwise, faults) {
  const name = given[key];
  if (name === undefined || names.includes(name)) return name ?? otherwise;
  const close = closest(name, names);
  const hint = close ? `; did you mean "${close}"?` : "";
  faults.push(`${key} must be one of ${names.join(", ")}, but got ${repr(name)}${hint}`);
  return otherwise;
}

function parse(state, name, text) {
  if (PER_AXIS.includes(name)) state[name] = text.split("x").map(number);
  else if (name === "p") state.p = parsePadding(text);
  else if (name === "at") state.at = text.split(",").map(number);
  else state[name] = number(text);
}

const number = (text) => (/^[+-]?\d{1,15}$/.test(text) ? Number(text) + 0 : text);

/** SAME, 1, 1:2 for all axes; or one of these for each axis, joined by "x". */
export function parsePadding(text) {
  const entries = text.split("x").map((entry) => {
    const pair = entry.split(":").map(number);
    return pair.length === 2 ? pair : pair[0];
  });
  return entries.length === 1 ? entries[0] : { axes: entries };
}

function spread(state, name, rank) {
  if (state[name].length === 1) state[name] = Array(rank).fill(state[name][0]);
}

const formatPadding = (p) =>
  p?.axes ? p.axes.map(formatPadding).join("x") : Array.isArray(p) ? p.join(":") : String(p);

/** One value for all axes where they agree; `whole` extents are written out. */
const formatAxes = (values, rank, whole) =>
  !whole && values.length === rank && values.every((value) => value === values[0])
    ? String(values[0])
    : values.join("x");

/** The link to this state; it has every setting that its kind takes. */
export function write(state) {
  const parts = [`kind=${state.kind}`];
  for (const name of KINDS[state.kind].fields)
    if (name === "p") parts.push(`p=${formatPadding(state.p)}`);
    else if (PER_AXIS.includes(name))
      parts.push(
        `${name}=${formatAxes(state[name], state.n.length, name === "n" || name === "k")}`,
      );
    else parts.push(`${name}=${state[name]}`);
  parts.push(`view=${state.view}`);
  if (state.at) parts.push(`at=${state.at.join(",")}`);
  for (const name of ["ch", "ft", "seed"]) if (state[name]) parts.push(`${name}=${state[name]}`);
  if (state.kind === "separable") parts.push(`stage=${state.stage}`);
  return `#${parts.join("&")}`;
}
