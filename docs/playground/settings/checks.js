// What jaxconv checks, in its order and its words; tests compare the sentences.

import { effectiveExtent, transposedAxis } from "../arithmetic/geometry.js";
import { BORDERS, paddingName } from "../arithmetic/padding.js";
import { repr, thousands } from "../arithmetic/words.js";
import { SettingError } from "./call.js";
import { KINDS, limits, MAX_DRAWN, MAX_PAD, NAMES, PER_AXIS } from "./kinds.js";

// Sizes of arrays: without them there is no call to check.

export function checkSizes(state, names) {
  const used = names.filter((name) => KINDS[state.kind].fields.includes(name));
  const rank = state.n.length;
  if (rank > 2)
    throw new SettingError(
      `the playground draws one or two spatial axes, but got ${rank}: ${repr(state.n)}`,
    );
  integer("seed", state.seed, limits("seed", rank));
  for (const name of used) {
    const values = PER_AXIS.includes(name) ? perAxis(name, state[name], rank) : [state[name]];
    for (const value of values) integer(name, value, limits(name, rank));
  }
}

function perAxis(name, values, rank, fail = plain) {
  if (values.length !== rank)
    throw fail(
      `${NAMES[name]} must be an int or have one int per spatial axis (${rank}), but got ${values.length}: ${repr(values)}`,
    );
  return values;
}

const plain = (message) => new SettingError(message);

function integer(name, value, [least, greatest], fail = plain) {
  if (!Number.isInteger(value) || value < least) {
    const kind = least === 1 ? "a positive int" : `an int of at least ${least}`;
    throw fail(`${NAMES[name]} must be ${kind}, but got ${repr(value)}`);
  }
  if (value > greatest)
    throw fail(
      `${NAMES[name]} must be at most ${thousands(greatest)}, but got ${thousands(value)}`,
    );
}

// The relations that jaxconv checks.

export function checkSteps(state, call) {
  const fail = (message) => call.error(message);
  const { fields } = KINDS[state.kind];
  const rank = state.n.length;
  for (const name of ["s", "d", "op"])
    if (fields.includes(name))
      for (const value of perAxis(name, state[name], rank, fail))
        integer(name, value, limits(name, rank), fail);
  if (!fields.includes("g")) return;
  integer("g", state.g, limits("g", rank), fail);
  const last = state.kind === "transposed" ? state.c : state.f;
  if (last % state.g)
    throw call.error(
      `the number of features must be a multiple of groups, but F % groups = ${last} % ${state.g} = ${last % state.g}`,
    );
}

export function checkFeatures(state, call) {
  if (KINDS[state.kind].fields.includes("g") && state.kind !== "transposed" && state.c % state.g)
    throw call.error(unequalGroups(state, call));
}

function unequalGroups({ c, f, g }, call) {
  const perGroup = call.shape("kernel").at(-2);
  const count = c / perGroup;
  const fix =
    Number.isInteger(count) && f % count === 0
      ? `groups=${count} would make them equal`
      : "kernels are laid out as [*K, C/G, F] and arrays are channels-last";
  return `x's channels must equal the kernel's C/G * groups, but ${c} != ${perGroup} * ${g} = ${perGroup * g}; ${fix}`;
}

/** One name, int or [low, high] pair per axis. */
export function paddingEntries(state, call) {
  const rank = state.n.length;
  if (state.kind === "pointwise") return Array(rank).fill("VALID");
  if (state.kind === "causal") return rank === 1 ? ["CAUSAL"] : ["CAUSAL", "SAME"];
  const entries = state.p?.axes ?? Array(rank).fill(state.p);
  if (entries.length !== rank)
    throw call.error(
      `padding must have one entry per spatial axis (${rank}), but got ${entries.length}: ${repr(entries)}`,
    );
  if (
    !state.p?.axes &&
    typeof state.p === "string" &&
    state.p.toUpperCase() === "CAUSAL" &&
    rank > 1
  )
    throw call.error(
      `padding "CAUSAL" is ambiguous for 2 spatial axes; give one entry per axis, such as ('CAUSAL', 'SAME')`,
    );
  return entries.map((entry) => paddingEntry(entry, call));
}

function paddingEntry(entry, call) {
  if (typeof entry === "string") {
    try {
      return paddingName(entry);
    } catch (error) {
      throw call.error(error.message);
    }
  }
  const pair = Array.isArray(entry) ? entry : [entry, entry];
  if (!pair.every(Number.isInteger))
    throw call.error(
      `padding entries must be names, ints or (low, high) pairs of ints, but got ${repr(entry)}`,
    );
  for (const side of pair)
    if (Math.abs(side) > MAX_PAD)
      throw call.error(`padding must be at most ${MAX_PAD} per side, but got ${thousands(side)}`);
  return entry;
}

export function checkBorder(call, { n, high, border }, at) {
  const limit = { CIRCULAR: n, REFLECT: n - 1 }[border];
  if (limit !== undefined && high > limit)
    throw call.error(
      `padding "${border}" of spatial axis ${at} needs ${high} pixels, but an extent of ${n} provides at most ${limit}; use a smaller kernel or dilation`,
    );
}

export function checkFit(call, { n, k, d, low, high }, at) {
  const extent = effectiveExtent(k, d);
  const padded = n + low + high;
  if (padded < extent)
    throw call.error(
      `the kernel must fit into the padded input, but on spatial axis ${at} it spans d*(k-1) + 1 = ${extent} pixels and the input has ${n} + ${low} + ${high} = ${padded}; use a smaller kernel or dilation, or more padding`,
    );
}

export function checkTransposed(call, { n, k, s, d, entry, extra }, at) {
  if (BORDERS.includes(entry))
    throw call.error(
      `padding "${entry}" is not supported, because its adjoint adds the border back onto the input; use conv_input_grad, which does that, or zero padding`,
    );
  if (extra >= Math.max(s, d))
    throw call.error(
      `output_padding must be less than the stride or the dilation, but on spatial axis ${at} it is ${extra}, with stride ${s} and dilation ${d}`,
    );
  const same = entry === "SAME" || entry === "SAME_LOWER";
  if (same && extra)
    throw call.error(
      `padding "${entry}" fixes the output extent at n*s and allows no output_padding, but got ${extra} on spatial axis ${at}; give the padding as (low, high) pairs`,
    );
  const { n: extent, low, high } = transposedAxis(n, k, s, d, entry, extra);
  if (!same && extent < 1)
    throw call.error(
      `padding leaves no output on spatial axis ${at}: (n-1)*s + d*(k-1) + 1 - low - high + output_padding = ${(n - 1) * s} + ${effectiveExtent(k, d)} - ${low} - ${high + extra} + ${extra} = ${extent}; use less padding`,
    );
}

/** jaxconv learns the features from the kernel, which has F/G of them, and need not ask. */
export function checkTransposedFeatures(call, { f, g }) {
  if (f % g)
    throw call.error(
      `the number of features must be a multiple of groups, but F % groups = ${f} % ${g} = ${f % g}`,
    );
}

/** Pictures have a limit that jaxconv does not have. */
export function checkDrawable(stages, rank) {
  for (const { conv, transposed } of stages)
    conv.axes.forEach(({ n, low, high }, at) => {
      const what = transposed ? "output" : "padded input";
      const drawn = transposed ? n : n + Math.max(low, 0) + Math.max(high, 0);
      if (drawn > MAX_DRAWN[rank])
        throw new SettingError(
          `the playground draws at most ${MAX_DRAWN[rank]} pixels per spatial axis, but the ${what} has ${drawn} on axis ${rank === 1 ? 0 : at}; use a smaller input, kernel or dilation, or less padding`,
        );
    });
}
