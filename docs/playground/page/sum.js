// The sum behind the result shown: its products, and what each channel or feature adds.

import { h } from "./dom.js";
import { formatNumber } from "../picture/svg.js";

const MAX_TERMS = 25;

const signed = (value) => (value < 0 ? `(${formatNumber(value)})` : formatNumber(value));

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
