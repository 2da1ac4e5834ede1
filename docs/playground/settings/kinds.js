// The kinds of convolution: jaxconv's function, the settings it takes, and a case to start with.

const plane = (extent) => [extent, extent];
const START = {
  n: plane(7), c: 1, f: 1, m: 1, k: plane(3), s: plane(1), d: plane(1), p: "SAME", g: 1, op: plane(0),
}; // prettier-ignore

/** `fields` are the settings that have an effect; the order is that of the link and the page. */
export const KINDS = {
  standard: {
    label: "Standard",
    summary: "Every feature reads every channel in a small window.",
    fields: ["n", "c", "f", "k", "s", "d", "p", "g"],
    start: { ...START, c: 2, f: 3 },
  },
  strided: {
    label: "Strided",
    summary: "The window moves by more than one pixel, so the output is smaller.",
    fields: ["n", "c", "f", "k", "s", "d", "p", "g"],
    start: { ...START, n: plane(8), f: 2, s: plane(2) },
  },
  dilated: {
    label: "Dilated",
    summary: "Gaps between the taps: a wide view for the weights of a small kernel.",
    fields: ["n", "c", "f", "k", "s", "d", "p", "g"],
    start: { ...START, n: plane(9), d: plane(2) },
  },
  grouped: {
    label: "Grouped",
    summary: "Channels and features are split into groups that do not see each other.",
    fields: ["n", "c", "f", "k", "s", "d", "p", "g"],
    start: { ...START, n: plane(6), c: 4, f: 4, g: 2 },
  },
  depthwise: {
    label: "Depthwise",
    summary: "One filter per channel: channels are not mixed.",
    fields: ["n", "c", "m", "k", "s", "d", "p"],
    start: { ...START, c: 3 },
  },
  separable: {
    label: "Separable",
    summary: "A depthwise convolution looks around, then a 1×1 convolution mixes the channels.",
    fields: ["n", "c", "m", "f", "k", "s", "d", "p"],
    start: { ...START, c: 3, f: 4 },
  },
  pointwise: {
    label: "1×1",
    summary: "A matrix product at every pixel: it mixes channels and looks at no neighbor.",
    fields: ["n", "c", "f", "s"],
    start: { ...START, n: plane(6), c: 3, f: 4, k: plane(1), p: "VALID" },
  },
  transposed: {
    label: "Transposed",
    summary: "The adjoint of a convolution: every input pixel adds a window to a larger output.",
    fields: ["n", "c", "f", "k", "s", "d", "p", "op", "g"],
    start: { ...START, n: plane(4), f: 2, s: plane(2) },
  },
  causal: {
    label: "Causal",
    summary: "In time: no output reads a later input.",
    fields: ["n", "c", "f", "k", "s", "d", "g"],
    start: { ...START, n: [14], k: [3], s: [1], d: [2], p: "CAUSAL", op: [0] },
  },
};

export const PER_AXIS = ["n", "k", "s", "d", "op"];

/** jaxconv's names, for sentences. */
export const NAMES = {
  n: "input_spatial", c: "in_features", f: "out_features", m: "multiplier", k: "kernel_spatial",
  s: "strides", d: "dilation", p: "padding", g: "groups", op: "output_padding", seed: "seed",
}; // prettier-ignore

/** What can be drawn: the least and the greatest value of each setting, by the number of axes. */
export function limits(name, rank) {
  const greatest = { c: 32, f: 32, m: 8, g: 32, s: 8, d: rank === 1 ? 16 : 8, op: 7, seed: 49 };
  if (name === "n") return [1, rank === 1 ? 48 : 24];
  if (name === "k") return [1, rank === 1 ? 24 : 11];
  return [name === "op" || name === "seed" ? 0 : 1, greatest[name]];
}

export const MAX_PAD = 24;
export const MAX_DRAWN = { 1: 64, 2: 36 };
