// The bars around the picture: its views, a separable convolution's stages, and how to move.

import { choices, h } from "./dom.js";
import { stepper } from "./form.js";
import { stepped } from "./move.js";
import { STAGES, VIEWS } from "../settings/state.js";

const VIEW_NAMES = {
  forward: "Forward",
  input_grad: "Input gradient",
  filter_grad: "Filter gradient",
};
const STAGE_NAMES = { depthwise: "1 · Depthwise", pointwise: "2 · 1×1" };
const SPEEDS = { slow: 1200, medium: 600, fast: 200 }; // milliseconds

export function viewChoices(shown, update) {
  const options = VIEWS.map((name) => [name, VIEW_NAMES[name]]);
  return choices("view", "View", options, shown.view, (view) => update({ view, at: null }));
}

export function stageChoices(shown, update) {
  const options = STAGES.map((name) => [name, STAGE_NAMES[name]]);
  const choose = (stage) => update({ stage, at: null, ch: 0, ft: 0 });
  return choices("stage", "Stage", options, shown.stage, choose);
}

/** Buttons that step and play, the channel and feature shown, and the two files. */
export function transport(current, player, acts) {
  return [
    h("span", { class: "group" }, steps(current, player, acts)),
    h("span", { class: "group" }, indices(current.scene, acts)),
    h(
      "span",
      { class: "group end" },
      h("button", { type: "button", id: "save-svg", onclick: acts.saveSvg }, "SVG"),
      h("button", { type: "button", id: "save-gif", onclick: acts.saveGif }, "GIF"),
    ),
  ];
}

function steps(current, player, { move }) {
  const button = (id, label, sign, onclick) =>
    h("button", { type: "button", id, "aria-label": label, title: label, onclick }, sign);
  // The scene of the moment: the bar is not drawn again after each step.
  const step = (by) => () => move({ at: stepped(current.now().scene, by) });
  const label = player.playing ? "Pause" : "Play";
  return [
    button("previous", "Step back", "‹", step(-1)),
    button("play", label, label, player.toggle),
    button("next", "Step forward", "›", step(1)),
    h(
      "select",
      {
        "aria-label": "Speed",
        id: "speed",
        onchange: (event) => player.setPace(Number(event.target.value)),
      },
      Object.entries(SPEEDS).map(([name, value]) =>
        h("option", { value, selected: value === player.pace && "" }, name),
      ),
    ),
  ];
}

function indices({ conv, transposed, channel, feature }, { moveIndex }) {
  const index = (id, label, value, count) =>
    count > 1 &&
    h(
      "label",
      { class: "index", for: id },
      label,
      stepper(id, label, value, 0, count - 1, (chosen) => moveIndex({ [id]: chosen })),
    );
  const fields = [
    index("channel", transposed ? "feature" : "channel", channel, conv.channels),
    index("feature", transposed ? "channel" : "feature", feature, conv.features),
  ];
  return transposed ? fields.reverse() : fields;
}
