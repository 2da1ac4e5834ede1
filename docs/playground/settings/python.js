// The Python that computes what the page shows: the line, and with it a whole program.

import { repr } from "../arithmetic/words.js";
import { FORMULAS } from "./values.js";

const SYMBOL = { x: "x", kernel: "k", depthwise_kernel: "k", pointwise_kernel: "w" };

/** The call without its arrays, such as `strides=2, padding="SAME"`. */
export function keywords(state, entries) {
  const { kind, s, d, g, op } = state;
  const all = (values) =>
    values.every((value) => value === values[0]) ? String(values[0]) : repr(values);
  const given = [];
  if (s.some((value) => value !== 1)) given.push(`strides=${all(s)}`);
  if (kind !== "pointwise" && !(kind === "causal" && s.length === 1))
    given.push(`padding=${formatPadding(entries)}`);
  if (kind === "transposed" && op.some(Boolean)) given.push(`output_padding=${all(op)}`);
  if (kind !== "pointwise" && d.some((value) => value !== 1)) given.push(`dilation=${all(d)}`);
  if (
    ["standard", "strided", "dilated", "grouped", "transposed", "causal"].includes(kind) &&
    g !== 1
  )
    given.push(`groups=${g}`);
  return given.join(", ");
}

function formatPadding(entries) {
  const quoted = (entry) => (typeof entry === "string" ? `"${entry}"` : repr(entry));
  const first = quoted(entries[0]);
  const same = entries.every((entry) => quoted(entry) === first);
  if (same && !Array.isArray(entries[0]) && !(entries[0] === "CAUSAL" && entries.length > 1))
    return first;
  return entries.length === 1 ? `[${first}]` : `(${entries.map(quoted).join(", ")})`;
}

/** The one line that calls jaxconv. */
export function line(state, { call, entries }) {
  const names = call.arrays.map(([name]) => name);
  const tail = keywords(state, entries);
  const head = (inside) => `jaxconv.${call.name}(${inside.join(", ")}${tail && `, ${tail}`})`;
  if (state.view === "forward") return `y = ${head(names)}`;
  return `y, pullback = jax.vjp(lambda ${names.join(", ")}: ${head(names)}, ${names.join(", ")})`;
}

/** A program that computes the numbers of the picture. */
export function program(state, resolved, outputShape) {
  const { call } = resolved;
  const gradient = state.view !== "forward";
  const arrays = call.arrays.map(([name, , shape]) => array(name, SYMBOL[name], shape, state.seed));
  const lines = [
    ...(gradient ? ["import jax"] : []),
    "import jaxconv",
    "import numpy as np",
    "",
    ...arrays,
    ...(gradient ? [array("g", "g", outputShape, state.seed)] : []),
    "",
    line(state, resolved),
  ];
  if (gradient) {
    const results = call.arrays.map(([name]) => (name === "x" ? "dx" : `d_${name}`));
    lines.push(`${results.join(", ")} = pullback(g)`);
  }
  return `${lines.join("\n")}\n`;
}

function array(name, symbol, shape, seed) {
  const { a, b, shift, prime, count, scale, least } = FORMULAS[symbol];
  const size = shape.reduce((product, extent) => product * extent, 1);
  const scaled = scale === 1 ? "" : ` * ${scale} - ${-least}`;
  const shifted = seed ? ` + ${shift * seed}` : "";
  return `i = np.arange(${size}); ${name} = np.float32((${a}*i*i + ${b}*i${shifted}) % ${prime} % ${count}${scaled}).reshape(${shape.join(", ")})`;
}
