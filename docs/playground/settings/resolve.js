// From a state to its convolutions, or to the sentence that says why there are none.

import { axis, convolution, transposedAxis } from "../arithmetic/geometry.js";
import { callOf, SettingError } from "./call.js";
import {
  checkBorder,
  checkDrawable,
  checkFeatures,
  checkFit,
  checkSizes,
  checkSteps,
  checkTransposed,
  checkTransposedFeatures,
  paddingEntries,
} from "./checks.js";

/**
 * `stages`: the convolutions that run one after the other, each {conv, transposed, title}. For a
 * transposed one, `conv` is the convolution whose adjoint it is.
 */
export function resolve(state) {
  checkSizes(state, ["n", "c", "f", "m", "k"]);
  const rank = state.n.length;
  const call = callOf(state);
  checkSteps(state, call);
  const entries = paddingEntries(state, call);
  checkFeatures(state, call);
  const stages =
    state.kind === "transposed"
      ? [transposedStage(state, call, entries)]
      : forwardStages(state, call, entries);
  checkDrawable(stages, rank);
  return { call, entries, rank, stages };
}

/** Whether a state has a picture. */
export function possible(state) {
  try {
    resolve(state);
    return true;
  } catch (error) {
    if (error instanceof SettingError) return false;
    throw error;
  }
}

function forwardStages(state, call, entries) {
  const { kind, n, c, f, m, s, g } = state;
  const k = kind === "pointwise" ? n.map(() => 1) : state.k;
  const d = kind === "pointwise" ? n.map(() => 1) : state.d;
  const axes = n.map((extent, at) => axis(extent, k[at], s[at], d[at], entries[at]));
  axes.forEach((each, at) => checkBorder(call, each, at));
  axes.forEach((each, at) => checkFit(call, each, at));
  if (kind === "depthwise")
    return [{ conv: convolution(axes, c, c * m, c), transposed: false, title: "" }];
  if (kind !== "separable")
    return [
      { conv: convolution(axes, c, f, kind === "pointwise" ? 1 : g), transposed: false, title: "" },
    ];
  const mixing = axes.map(({ o }) => axis(o, 1, 1, 1, "VALID"));
  return [
    { conv: convolution(axes, c, c * m, c), transposed: false, title: "depthwise" },
    { conv: convolution(mixing, c * m, f, 1), transposed: false, title: "1×1" },
  ];
}

function transposedStage(state, call, entries) {
  const { n, c, f, k, s, d, op, g } = state;
  const axes = n.map((extent, at) => {
    checkTransposed(
      call,
      { n: extent, k: k[at], s: s[at], d: d[at], entry: entries[at], extra: op[at] },
      at,
    );
    return transposedAxis(extent, k[at], s[at], d[at], entries[at], op[at]);
  });
  checkTransposedFeatures(call, state);
  return { conv: convolution(axes, f, c, g), transposed: true, title: "" };
}
