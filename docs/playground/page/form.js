// The settings: which kind, and the sizes that its function takes.

import { NAMES as PADDINGS } from "../arithmetic/padding.js";
import { choices, h } from "./dom.js";
import { KINDS, limits, MAX_PAD, PER_AXIS } from "../settings/kinds.js";
import { start } from "../settings/state.js";

const LABELS = {
  n: "Input", c: "Channels", f: "Features", m: "Multiplier", k: "Kernel", s: "Stride", d: "Dilation",
  p: "Padding", g: "Groups", op: "Output padding",
}; // prettier-ignore
const AXIS = { 1: [""], 2: ["rows", "columns"] };
const PAIR = "low, high";

export function kindChoices(state, update) {
  const options = Object.entries(KINDS).map(([kind, { label }]) => [kind, label]);
  return choices("kind", "Kind", options, state.kind, (kind) =>
    update(switchKind(state, kind), { fresh: true }),
  );
}

/** The case that a kind starts with, in as many dimensions as before if that kind has no habit. */
function switchKind(state, kind) {
  const rank = kind === "causal" ? 1 : state.kind === "causal" ? 2 : state.n.length;
  return { ...start(kind, Math.min(rank, 2)), view: state.view };
}

/** The fields of the form; rebuilt when which fields there are has changed. */
export function settingsFields(state, update) {
  const rank = state.n.length;
  const dimensions = choices("rank", "Dimensions", [["1", "1-D"], ["2", "2-D"]], String(rank), (chosen) =>
    update({ ...start(state.kind, Number(chosen)), view: state.view }, { fresh: true }),
  ); // prettier-ignore
  const fields = KINDS[state.kind].fields.map((name) =>
    name === "p" ? paddingField(state, update) : sizeField(state, name, update),
  );
  const numbers = h(
    "button",
    {
      type: "button",
      class: "wide",
      onclick: () => update({ seed: (Math.trunc(Number(state.seed)) + 1 || 0) % 50 }),
    },
    "Other numbers",
  );
  return [dimensions, ...fields, numbers];
}

function sizeField(state, name, update) {
  const rank = state.n.length;
  const values = PER_AXIS.includes(name) ? state[name] : [state[name]];
  const [least, greatest] = limits(name, rank);
  const inputs = values.map((value, at) => {
    const axis = values.length > 1 ? (AXIS[rank][at] ?? at) : "";
    const change = (typed) =>
      update({ [name]: PER_AXIS.includes(name) ? values.with(at, typed) : typed });
    return stepper(
      `${name}${at}`,
      `${LABELS[name]} ${axis}`.trim(),
      value,
      least,
      greatest,
      change,
    );
  });
  return h(
    "div",
    { class: "field", role: "group", "aria-label": LABELS[name] },
    h("span", {}, LABELS[name]),
    h("div", { class: "inputs" }, inputs),
  );
}

/** A number with a button on each side; any number can be typed, for jaxconv to judge. */
export function stepper(id, label, value, least, greatest, change) {
  const input = h("input", {
    type: "number", id, value, "aria-label": label, min: least, max: greatest, step: 1, inputmode: "numeric",
    onchange: () => change(input.value === "" || !Number.isInteger(Number(input.value)) ? input.value || "nothing" : Number(input.value)),
  }); // prettier-ignore
  const step = (by) => () =>
    change(Math.min(Math.max((Number(input.value) || 0) + by, least), greatest));
  const button = (sign, by) =>
    h(
      "button",
      {
        type: "button",
        tabindex: "-1",
        "aria-label": `${label}: ${by < 0 ? "less" : "more"}`,
        onclick: step(by),
      },
      sign,
    );
  return h("span", { class: "stepper" }, button("−", -1), input, button("+", 1));
}

function paddingField(state, update) {
  const { p } = state;
  const rank = state.n.length;
  const chosen = p?.axes ? "axes" : typeof p === "string" ? p.toUpperCase() : "axes";
  const entries = p?.axes ?? Array(rank).fill(p);
  const options = PADDINGS.filter((name) => rank === 1 || name !== "CAUSAL").map((name) => [
    name,
    name,
  ]);
  const choose = (value) =>
    update({ p: value === "axes" ? { axes: entries.map(asPair(rank)) } : value });
  const select = selectOf(
    "p",
    "Padding",
    [...options, ["axes", rank === 1 ? PAIR : "per axis"]],
    chosen,
    choose,
  );
  return h(
    "div",
    { class: "field padding", role: "group", "aria-label": LABELS.p },
    h("span", {}, LABELS.p),
    h("div", { class: "inputs" }, select),
    chosen === "axes" &&
      h(
        "div",
        { class: "axes" },
        entries.map((entry, at) => axisPadding(entries, at, rank, update)),
      ),
  );
}

/** A pair stays; in two dimensions a name stays too, and can be chosen for one axis alone. */
const asPair = (rank) => (entry) =>
  Array.isArray(entry)
    ? entry
    : Number.isInteger(entry)
      ? [entry, entry]
      : rank === 1
        ? [1, 1]
        : entry;

function axisPadding(entries, at, rank, update) {
  const entry = entries[at];
  const pair = typeof entry === "string" ? null : Array.isArray(entry) ? entry : [entry, entry];
  const axis = AXIS[rank][at];
  const set = (value) => update({ p: { axes: entries.with(at, value) } });
  const names = selectOf(
    `p${at}`,
    `Padding ${axis}`,
    [...PADDINGS.map((name) => [name, name]), [PAIR, PAIR]],
    pair ? PAIR : entry.toUpperCase(),
    (value) => set(value === PAIR ? [1, 1] : value),
  );
  const sides = pair?.map((value, side) =>
    stepper(
      `p${at}${side}`,
      `Padding ${axis} ${side ? "high" : "low"}`.replace("  ", " "),
      value,
      -MAX_PAD,
      MAX_PAD,
      (typed) => set(pair.with(side, typed)),
    ),
  );
  return h("div", { class: "axis" }, rank > 1 && h("span", {}, axis), rank > 1 && names, sides);
}

function selectOf(id, label, options, chosen, choose) {
  const known = options.some(([value]) => value === chosen)
    ? options
    : [[chosen, chosen], ...options];
  return h(
    "select",
    { id, "aria-label": label, onchange: (event) => choose(event.target.value) },
    known.map(([value, text]) => h("option", { value, selected: value === chosen && "" }, text)),
  );
}
