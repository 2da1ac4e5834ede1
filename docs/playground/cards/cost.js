// Parameters, multiply-accumulates and the receptive field.

import { receptiveField, totalCost, transposedField } from "../arithmetic/costs.js";
import { thousands } from "../arithmetic/words.js";
import { h } from "../page/dom.js";
import { formatNumber } from "../picture/svg.js";

const times = (numbers) => numbers.join("×");

export function costCard(state, { stages, rank }) {
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
