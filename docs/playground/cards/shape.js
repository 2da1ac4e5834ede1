// The output's shape, with its formula filled in.

import { shapeOf } from "../arithmetic/operators.js";
import { h } from "../page/dom.js";
import { formatNumber } from "../picture/svg.js";

const AXES = { 1: ["length"], 2: ["rows", "columns"] };

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

export function shapeCard(state, resolved) {
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
