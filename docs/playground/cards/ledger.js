// What other convolutions with the same extents would cost: dense beside separable.

import { ledger } from "../arithmetic/costs.js";
import { thousands } from "../arithmetic/words.js";
import { h } from "../page/dom.js";

export function ledgerCard({ stages }) {
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
  const kernel = first.axes
    .slice(2 - first.rank)
    .map(({ k }) => k)
    .join("×");
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
