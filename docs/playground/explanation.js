// The cards beside the picture: the output's shape, the sum, costs, the ledger, the Python.

import { ledger, receptiveField, totalCost, transposedField } from "./arithmetic/costs.js";
import { shapeOf } from "./arithmetic/operators.js";
import { thousands } from "./arithmetic/words.js";
import { h } from "./dom.js";
import { formatNumber } from "./picture/svg.js";
import { line, program } from "./settings/python.js";

const AXES = { 1: ["length"], 2: ["rows", "columns"] };
const MAX_TERMS = 25;

/** The shapes of input, kernels and output, with the batch axis. */
export function shapesOf({ call, rank, stages }) {
  const last = stages.at(-1);
  const [rows, columns, features] = shapeOf(last.conv, last.transposed ? "x" : "g");
  const spatial = rank === 1 ? [columns] : [rows, columns];
  return {
    arrays: call.arrays.map(([name, , shape]) => [name, shape]),
    output: [1, ...spatial, features],
  };
}

const times = (numbers) => numbers.join("×");
const signed = (value) => (value < 0 ? `(${formatNumber(value)})` : formatNumber(value));

export function cards(state, resolved, examples) {
  return [
    shapeCard(state, resolved),
    pythonCard(state, resolved),
    costCard(state, resolved),
    ledgerCard(resolved),
    examplesCard(examples),
  ].filter(Boolean).map(([title, id, ...inside]) => card(title, id, inside)); // prettier-ignore
}

const card = (title, id, inside) =>
  h(
    "section",
    { class: "card", id, "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title` }, title),
    inside,
  );

// The sum

const INDEX = {
  g: "y[o, f] = Σ x[s·o + d·t − low, c] · k[t, c, f]",
  x: "dx[s·o + d·t − low, c] = Σ g[o, f] · k[t, c, f]",
  k: "dk[t, c, f] = Σ x[s·o + d·t − low, c] · g[o, f]",
};
const INDEX_TRANSPOSED = {
  x: "y[s·i + d·t − low, f] = Σ x[i, c] · k[t, f, c]",
  g: "dx[i, c] = Σ g[s·i + d·t − low, f] · k[t, f, c]",
  k: "dk[t, f, c] = Σ g[s·i + d·t − low, f] · x[i, c]",
};

/** The products of the channel shown as a sum, and the sum over channels. */
export function equation(scene) {
  const { products, partials, total, role, transposed } = scene;
  const summedRole = role === "g" ? "x" : "g";
  const what = (summedRole === "x") !== transposed ? "channel" : "feature";
  const formula = h("p", { class: "formula" }, (transposed ? INDEX_TRANSPOSED : INDEX)[role]);
  if (!products.length)
    return [
      formula,
      h(
        "p",
        { class: "note" },
        `No product: the ${transposed ? "input" : "output"} never meets this pixel, so the value is exactly 0.`,
      ),
    ];
  const shown = products.slice(0, MAX_TERMS).map(({ a, b }) => `${signed(a)}·${signed(b)}`);
  const more = products.length > MAX_TERMS ? ` + … (${products.length} products)` : "";
  const index = role === "g" ? scene.channel : role === "x" ? scene.feature : null;
  const own = partials.find((each) => each.index === index) ?? partials[0];
  const several = partials.length > 1;
  const label = several ? `${what} ${own.index}: ` : "";
  const terms = h(
    "p",
    { class: "terms" },
    `${label}${shown.join(" + ")}${more} = `,
    h("b", {}, formatNumber(own.value)),
  );
  if (!several) return [formula, terms];
  const sums = partials
    .slice(0, MAX_TERMS)
    .map(({ index: each, value }) =>
      h("span", { class: each === own.index ? "own" : "" }, signed(value)),
    );
  const joined = sums.flatMap((sum, at) => (at ? [" + ", sum] : [sum]));
  const rest = partials.length > MAX_TERMS ? " + …" : "";
  return [
    formula,
    terms,
    h(
      "p",
      { class: "terms" },
      `all ${partials.length} ${what}s: `,
      joined,
      rest,
      " = ",
      h("b", {}, formatNumber(total)),
    ),
  ];
}

// The output's shape

function shapeCard(state, resolved) {
  const { arrays, output } = shapesOf(resolved);
  const { conv, transposed } = resolved.stages[0];
  const { rank } = resolved;
  const shown = rank === 1 ? conv.axes.slice(1) : conv.axes;
  const filled = shown.map((axis, at) =>
    filledIn(axis, transposed, state, resolved.entries[at], at),
  );
  const once = filled.every((each) => each === filled[0]);
  const rows = (once ? filled.slice(0, 1) : filled).map((each, at) =>
    h(
      "p",
      { class: "formula filled" },
      !once && h("span", { class: "axis-name" }, AXES[rank][at]),
      each,
    ),
  );
  const list = [...arrays, ["y", output]].map(([name, shape]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, `[${shape.join(", ")}]`)),
  );
  return [
    "Output shape",
    "shape",
    h("dl", { class: "shapes" }, list),
    h("p", { class: "formula" }, formulaOf(transposed, resolved.entries)),
    rows,
    paddingNote(shown, resolved),
  ];
}

const isSame = (entry) => entry === "SAME" || entry === "SAME_LOWER";

function formulaOf(transposed, entries) {
  if (!transposed) return "O = ⌊(S + low + high − d·(K − 1) − 1) / s⌋ + 1";
  if (entries.every(isSame)) return "O = S·s";
  return "O = (S − 1)·s + d·(K − 1) + 1 − low − high + output padding";
}

function filledIn({ n, k, s, d, low, high, o }, transposed, state, entry, at) {
  const term = (value) => (value < 0 ? `(${formatNumber(value)})` : String(value));
  if (!transposed)
    return `⌊(${n} + ${term(low)} + ${term(high)} − ${d}·(${k} − 1) − 1) / ${s}⌋ + 1 = ${o}`;
  if (isSame(entry)) return `${o}·${s} = ${n}`;
  const extra = state.op[at];
  return `(${o} − 1)·${s} + ${d}·(${k} − 1) + 1 − ${term(low)} − ${term(high + extra)} + ${extra} = ${n}`;
}

function paddingNote(axes, { entries, rank }) {
  const said = axes.map(({ low, high, border }, at) => {
    if (typeof entries[at] !== "string" || entries[at] === "VALID") return null;
    const what = border ? "pixel" : "zero";
    const count = low === 1 ? `1 ${what}` : `${low} ${what}s`;
    return `${entries[at]} adds ${count} before and ${high} after`;
  });
  const same = said.every((each) => each === said[0]);
  const where = same
    ? said.slice(0, 1)
    : said.map((each, at) => each && `on ${AXES[rank][at]} ${each}`);
  const sentences = where.filter(Boolean);
  return sentences.length ? h("p", { class: "note" }, `${sentences.join("; ")}.`) : null;
}

// Costs

function costCard(state, { stages, rank }) {
  const { parameters, macs } = totalCost(stages.map(({ conv }) => conv));
  const { conv, transposed } = stages[0];
  const shown = rank === 1 ? conv.axes.slice(1) : conv.axes;
  const fields = shown.map(transposed ? transposedField : receptiveField);
  const each = (name) => times(fields.map((field) => field[name]));
  const figures = [
    ["parameters", thousands(parameters), stages.map(({ conv: one }) => parameterFormula(one, rank)).join(" + ")],
    ["multiply-accumulates", thousands(macs), stages.map(({ conv: one }) => `${times(outputs(one, rank))} outputs × ${parameterFormula(one, rank)}`).join(" + ")],
    ["receptive field", each("size"), `stride ${each("stride")}, first pixel ${fields.map(({ offset }) => formatNumber(offset)).join(", ")}`],
  ]; // prettier-ignore
  const list = figures.map(([name, value, how]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, h("b", {}, value), h("small", {}, how))),
  );
  return [
    "Cost and receptive field",
    "cost",
    h("dl", { class: "figures" }, list),
    state.view !== "forward" &&
      h(
        "p",
        { class: "note" },
        "Each of the two gradients costs as many multiply-accumulates as the convolution.",
      ),
  ];
}

const extents = ({ axes }, rank, name) => axes.slice(2 - rank).map((axis) => axis[name]);
const outputs = (conv, rank) => extents(conv, rank, "o");
const parameterFormula = (conv, rank) =>
  times([...extents(conv, rank, "k"), conv.channels / conv.groups, conv.features]);

// Dense beside separable

function ledgerCard({ stages }) {
  const first = stages[0].conv;
  const last = stages.at(-1).conv;
  const rows = ledger(
    first.axes,
    first.channels,
    last.features,
    stages.length === 1 ? first.groups : 1,
  );
  const dense = rows[0];
  const most = Math.max(...rows.map(({ macs }) => macs));
  const bar = (macs) =>
    h(
      "span",
      { class: "bar-of", "aria-hidden": "true" },
      h("i", { style: `width:${Math.max((100 * macs) / most, 0.7)}%` }),
    );
  const share = ({ macs }) => compared(macs / dense.macs);
  const body = rows.map((row) =>
    h(
      "tr",
      { class: row.name },
      h("th", { scope: "row" }, row.name, row.note && h("small", {}, row.note)),
      h("td", {}, thousands(row.parameters)),
      h("td", {}, thousands(row.macs), bar(row.macs)),
      h("td", {}, row === dense ? "" : share(row)),
    ),
  );
  const head = ["", "parameters", "MACs", "work"].map((name) =>
    name ? h("th", { scope: "col" }, name) : h("td", {}),
  );
  const kernel = times(first.axes.slice(2 - first.rank).map(({ k }) => k));
  const dims = `${kernel} kernels, ${first.channels} → ${last.features}`;
  return [
    "Dense beside separable",
    "ledger",
    h("p", { class: "note" }, `What other convolutions with the same extents cost: ${dims}.`),
    h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)),
  ];
}

/** How much more or less work this is than another one. */
function compared(ratio) {
  if (ratio === 1) return "the same";
  const factor = Number((ratio < 1 ? 1 / ratio : ratio).toPrecision(3));
  return `${factor}× ${ratio < 1 ? "less" : "more"}`;
}

// Python

function pythonCard(state, resolved) {
  const whole = program(state, resolved, shapesOf(resolved).output);
  const copy = (what, label) => {
    const button = h("button", { type: "button", onclick: () => copyText(what, button) }, label);
    return button;
  };
  return [
    "Python", "python",
    h("pre", { tabindex: "0", "aria-label": "Line of Python" }, h("code", { id: "line" }, line(state, resolved))),
    h("div", { class: "bar" }, copy(line(state, resolved), "Copy line"), copy(whole, "Copy program")),
    h("details", {}, h("summary", {}, "The program with these numbers"), h("pre", { tabindex: "0", "aria-label": "Program" }, h("code", { id: "program" }, whole))),
  ]; // prettier-ignore
}

/** Copies, and says so on the button. */
export async function copyText(text, button) {
  const label = button.textContent;
  let done = "Copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    done = copyBySelection(text) ? "Copied" : "Not allowed here";
  }
  button.textContent = done;
  setTimeout(() => (button.textContent = label), 1200);
}

/** Where the clipboard is not granted, as in pages from files and frames. */
function copyBySelection(text) {
  const area = h("textarea", { value: text, style: "position:fixed;opacity:0" });
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

function examplesCard(examples) {
  return [
    "Cases to look at",
    "examples",
    h(
      "ul",
      {},
      examples.map(([label, href]) => h("li", {}, h("a", { href }, label))),
    ),
  ];
}
