// Parameters, multiply-accumulates (those on padding included) and receptive fields.

import { effectiveExtent } from "./geometry.js";

const product = (numbers) => numbers.reduce((a, b) => a * b, 1);

/** Of one convolution; a transposed one and both gradients cost what the convolution costs. */
export function costOf(conv) {
  const taps = product(conv.axes.map(({ k }) => k));
  const perGroup = conv.channels / conv.groups;
  const outputs = product(conv.axes.map(({ o }) => o));
  const parameters = taps * perGroup * conv.features;
  return { parameters, macs: outputs * parameters };
}

/** The sum over convolutions that run one after the other. */
export function totalCost(convs) {
  return convs.map(costOf).reduce((a, b) => ({
    parameters: a.parameters + b.parameters,
    macs: a.macs + b.macs,
  }));
}

/** Per axis: pixels that one output depends on, input pixels per output, and the first pixel. */
export function receptiveField({ n, k, s, d, low, high }) {
  const padded = n + low + high;
  return { size: effectiveExtent(k, d), stride: Math.min(s, padded), offset: 0 - low };
}

/** The same for the adjoint, whose stride is the fraction 1/s of an input pixel per output. */
export function transposedField({ n, k, s, d, low, high }) {
  const stride = Math.min(s, n + low + high);
  const fields = [];
  for (let at = 0; at < stride; at++) {
    const taps = Array.from({ length: k }, (_, t) => at + low - d * t);
    const reads = taps
      .filter((position) => position % stride === 0)
      .map((position) => position / stride);
    // Between the taps of a dilated kernel or a long stride there are outputs that read nothing.
    if (reads.length) fields.push({ at, first: Math.min(...reads), last: Math.max(...reads) });
  }
  const size = Math.max(...fields.map(({ first, last }) => last - first + 1));
  const offset = Math.min(...fields.map(({ first, at }) => Math.floor(first - at / stride)));
  return { size, stride: stride === 1 ? 1 : `1/${stride}`, offset };
}

/**
 * What other convolutions with the same input, kernel and output extents would cost: the ledger.
 * `axes` are those of the convolution shown.
 */
export function ledger(axes, channels, features, groups) {
  const conv = (of, c, f, g) => ({ axes: of, channels: c, features: f, groups: g });
  const single = axes.map((axis) => ({ ...axis, k: 1 }));
  const rows = [
    { name: "dense", convs: [conv(axes, channels, features, 1)] },
    { name: "grouped", convs: [conv(axes, channels, features, groups)], note: `G = ${groups}` },
    {
      name: "separable",
      convs: [conv(axes, channels, channels, channels), conv(single, channels, features, 1)],
      note: "depthwise + 1×1",
    },
    { name: "depthwise", convs: [conv(axes, channels, channels, channels)], note: "does not mix" },
    { name: "1×1", convs: [conv(single, channels, features, 1)], note: "does not look around" },
  ];
  return rows
    .filter(({ name }) => name !== "grouped" || groups > 1)
    .map((row) => ({ ...row, ...totalCost(row.convs) }));
}
