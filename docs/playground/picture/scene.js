// What a picture shows: which arrays, which pixel or tap of the result, and the products behind it.

import {
  channelsOf,
  compute,
  featuresOf,
  indexOf,
  meetings,
  offset,
  operandsOf,
  shapeOf,
  sizeOf,
} from "../arithmetic/operators.js";
import { numbers } from "../settings/values.js";

// The result of each view, as an argument of the trilinear form.
const RESULT = { forward: "g", input_grad: "x", filter_grad: "k" };
const RESULT_TRANSPOSED = { forward: "x", input_grad: "g", filter_grad: "k" };

/** All arrays of a state: per stage {x, k, g}, and the same with those that the view computes. */
export function arraysOf({ stages }, { view, seed }) {
  const inputs = forwardArrays(stages, seed);
  if (view === "forward") return inputs;
  return gradientArrays(stages, inputs, seed);
}

function forwardArrays(stages, seed) {
  let input = null;
  return stages.map(({ conv, transposed }, at) => {
    const [from, to] = transposed ? ["g", "x"] : ["x", "g"];
    const arrays = {
      [from]: input ?? numbers("x", sizeOf(conv, from), seed),
      k: numbers(at === 0 ? "k" : "w", sizeOf(conv, "k"), seed),
    };
    arrays[to] = input = compute(conv, to, arrays);
    return arrays;
  });
}

/** Backwards through the stages: `result` has both gradients of each, beside its operands. */
function gradientArrays(stages, inputs, seed) {
  const last = stages.at(-1);
  let cotangent = numbers("g", sizeOf(last.conv, last.transposed ? "x" : "g"), seed);
  return stages
    .map((stage, at) => [stage, inputs[at]])
    .reverse()
    .map(([{ conv, transposed }, arrays]) => {
      const [from, to] = transposed ? ["g", "x"] : ["x", "g"];
      const known = { ...arrays, [to]: cotangent };
      const result = { [from]: compute(conv, from, known), k: compute(conv, "k", known) };
      cotangent = result[from];
      return { ...known, result };
    })
    .reverse();
}

/** The scene of a state that has a picture. */
export function sceneOf(state, resolved) {
  const at = state.kind === "separable" && state.stage === "pointwise" ? 1 : 0;
  const stage = resolved.stages[at];
  const arrays = arraysOf(resolved, state)[at];
  const { conv, transposed } = stage;
  const role = (transposed ? RESULT_TRANSPOSED : RESULT)[state.view];
  const values = state.view === "forward" ? arrays : { ...arrays, ...resultOnly(arrays, role) };
  const scene = { conv, transposed, role, values, view: state.view, rank: conv.rank };
  scene.kernelValues = arrays.k;
  Object.assign(scene, selected(scene, state));
  scene.operands = operandsOf(role);
  scene.names = namesOf(scene, state, at);
  return { ...scene, ...productsOf(scene) };
}

const resultOnly = (arrays, role) => ({ [role]: arrays.result[role] });

/** The channel, feature and place of the result, each within what there is. */
function selected({ conv, transposed, role }, { at, ch, ft, view }) {
  const [rows, columns] = shapeOf(conv, role);
  const middle = [Math.floor((rows - 1) / 2), Math.floor((columns - 1) / 2)];
  const wanted = at?.every(Number.isInteger) ? (at.length === 1 ? [0, at[0]] : at) : middle;
  const within = (value, count) =>
    Math.min(Math.max(Number.isInteger(value) ? value : 0, 0), count - 1);
  const place = [within(wanted[0], rows), within(wanted[1], columns)];
  let channel = within(transposed ? ft : ch, conv.channels);
  let feature = within(transposed ? ch : ft, conv.features);
  // The result's own index decides which group is shown; the other one follows it.
  const leads = transposed ? view !== "input_grad" : view === "input_grad";
  if (leads) feature = nearestOf(featuresOf(conv, channel), feature);
  else channel = nearestOf(channelsOf(conv, feature), channel);
  return { at: place, channel, feature };
}

const nearestOf = (group, index) => Math.min(Math.max(index, group[0]), group.at(-1));

/** What each array is called. */
function namesOf({ transposed, view }, { kind }, stage) {
  const separable = kind === "separable";
  const input = separable && stage === 1 ? "depthwise output" : "input";
  const output = separable && stage === 0 ? "depthwise output" : "output";
  const kernel = separable ? (stage ? "pointwise kernel" : "depthwise kernel") : "kernel";
  const gradient = (name, when) => (view === when ? `${name} gradient` : name);
  const [x, g] = transposed ? ["g", "x"] : ["x", "g"];
  return {
    [x]: gradient(input, "input_grad"),
    k: gradient(kernel, "filter_grad"),
    [g]: view === "forward" ? output : `${output} gradient`,
  };
}

/** The products of the channel and feature shown, and the sums over all that are summed. */
function productsOf(scene) {
  const { conv, role, at, channel, feature, values } = scene;
  const all = meetings(conv, role, at);
  const [first, second] = scene.operands;
  const products = all.map((meeting) => {
    const read = (name, c, f) => entry(conv, values, name, meeting, c, f);
    const a = read(first, channel, feature);
    const b = read(second, channel, feature);
    return { ...meeting, a, b, value: a * b };
  });
  const summed =
    role === "g" ? channelsOf(conv, feature) : role === "x" ? featuresOf(conv, channel) : [null];
  const partial = (index) => {
    const c = role === "g" ? index : channel;
    const f = role === "x" ? index : feature;
    return all.reduce(
      (sum, each) =>
        sum + entry(conv, values, first, each, c, f) * entry(conv, values, second, each, c, f),
      0,
    );
  };
  const partials = summed.map((index) => ({ index, value: partial(index) }));
  return { products, partials, total: partials.reduce((sum, { value }) => sum + value, 0) };
}

function entry(conv, values, role, meeting, c, f) {
  const place = meeting[indexOf(role)];
  return place === null ? 0 : values[role][offset(conv, role, place, c, f)];
}
