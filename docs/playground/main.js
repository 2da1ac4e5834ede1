// The page: draws what follows from the state, and changes the state when the reader acts.

import * as arithmetic from "./arithmetic/index.js";
import { view } from "./app.js";
import { kindChoices, settingsFields, stepper } from "./controls.js";
import { byId, choices, h } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { cards, copyText, equation, shapesOf } from "./explanation.js";
import { gifOf, saveGif, saveSvg, svgOf } from "./export.js";
import { keyed, pointed, stepped } from "./move.js";
import { describe, draw } from "./picture/draw.js";
import { contrast, THEMES } from "./picture/palette.js";
import { sceneOf, arraysOf } from "./picture/scene.js";
import { KINDS } from "./settings/kinds.js";
import { complaint, possible } from "./settings/resolve.js";
import { nearest } from "./settings/nearest.js";
import { program } from "./settings/python.js";
import { read, STAGES, VIEWS, write } from "./settings/state.js";

const VIEW_NAMES = {
  forward: "Forward",
  input_grad: "Input gradient",
  filter_grad: "Filter gradient",
};
const STAGE_NAMES = { depthwise: "1 · Depthwise", pointwise: "2 · 1×1" };
const SPEEDS = [["1200", "slow"], ["600", "medium"], ["200", "fast"]]; // prettier-ignore

let state;
let faults = [];
let current; // what `view` returned for the state
let spots = [];
let themeName = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
let playing = null;
let speed = 600;

const theme = () => THEMES[themeName];

// Changes

/** Changes the state; a `fresh` one starts in the middle of its own result. */
function update(changes, { fresh = false } = {}) {
  state = { ...state, ...changes };
  if (fresh) Object.assign(state, { at: null, ch: 0, ft: 0, stage: "depthwise" });
  faults = [];
  render();
}

/** A move within the picture; what was impossible before is then replaced by what is shown. */
function move(changes) {
  state = {
    ...current.shown,
    at: current.scene.rank === 1 ? current.scene.at.slice(1) : current.scene.at,
    ...changes,
  };
  if (changes.at && current.scene.rank === 1) state.at = changes.at.slice(1);
  faults = [];
  const onlyPlace = Object.keys(changes).join() === "at" && !current.faults.length;
  if (onlyPlace) renderMove();
  else render();
}

/** The channel or feature of the picture, in the function's own words. */
function moveIndex({ channel, feature }) {
  const { transposed } = current.scene;
  const changes = {};
  if (channel !== undefined) changes[transposed ? "ft" : "ch"] = channel;
  if (feature !== undefined) changes[transposed ? "ch" : "ft"] = feature;
  move({ ...changes, ...otherOfGroup(channel, feature) });
}

/** Choosing a channel of another group also chooses a feature of that group, and the other way. */
function otherOfGroup(channel, feature) {
  const { conv, transposed } = current.scene;
  if (channel !== undefined) {
    const group = arithmetic.featuresOf(conv, channel);
    return group.includes(current.scene.feature) ? {} : { [transposed ? "ch" : "ft"]: group[0] };
  }
  const group = arithmetic.channelsOf(conv, feature);
  return group.includes(current.scene.channel) ? {} : { [transposed ? "ft" : "ch"]: group[0] };
}

function load(hash) {
  ({ state, faults } = read(hash));
  stop();
  render();
}

// Drawing

function render() {
  current = view(state, faults);
  keepingFocus(() => {
    renderForm();
    renderFault();
    renderBars();
    renderPicture();
    renderCards();
  });
  remember();
}

/** After a move the form and the cards are the same; a field that is being filled in stays. */
function renderMove() {
  current = view(state);
  renderPicture();
  remember();
}

function renderCards() {
  const { shown, resolved } = current;
  byId("summary").textContent = KINDS[shown.kind].summary;
  const open = document.querySelector("#python details")?.open;
  byId("cards").replaceChildren(...cards(shown, resolved, EXAMPLES));
  document.querySelector("#python details").open = open;
}

/** The link follows the state; a page inside a notebook has no address of its own. */
function remember() {
  const hash = write(current.faults.length ? state : settled());
  document.body.dataset.state = hash;
  try {
    if (location.protocol !== "about:" && location.hash !== hash)
      history.replaceState(null, "", hash);
  } catch {
    // Some frames do not allow it.
  }
}

/** The state shown, with the place that is shown. */
function settled() {
  const { shown, scene } = current;
  const [ch, ft] = scene.transposed
    ? [scene.feature, scene.channel]
    : [scene.channel, scene.feature];
  return { ...shown, at: scene.rank === 1 ? scene.at.slice(1) : scene.at, ch, ft };
}

function renderForm() {
  byId("kinds").replaceChildren(kindChoices(state, update));
  const [row, chosen] = [
    byId("kinds").firstChild,
    document.querySelector("#kinds input:checked").parentNode,
  ];
  row.scrollLeft = chosen.offsetLeft - (row.clientWidth - chosen.offsetWidth) / 2; // on narrow screens
  const drawable = state.n.length <= 2 ? state : current.shown;
  byId("settings").replaceChildren(...settingsFields(drawable, update));
}

/** Draws again without taking the focus from who uses the keyboard. */
function keepingFocus(draws) {
  const { id, name } = document.activeElement ?? {};
  draws();
  const same = id
    ? byId(id)
    : name
      ? document.querySelector(`input[name="${name}"]:checked`)
      : null;
  if (same && document.activeElement !== same) same.focus({ preventScroll: true });
}

function renderFault() {
  const box = byId("fault");
  box.hidden = !current.faults.length;
  if (box.hidden) return box.replaceChildren();
  const use = h("button", { type: "button", onclick: () => move({}) }, "Use it");
  box.replaceChildren(
    ...current.faults.map((sentence) => h("p", { class: "sentence" }, sentence)),
    h("p", {}, "Shown is the nearest possible setting: ", h("code", {}, differences()), " ", use),
  );
}

/** The settings of the picture that differ from those asked for. */
function differences() {
  const parts = (hash) =>
    hash
      .slice(1)
      .split("&")
      .filter((part) => !/^(at|ch|ft)=/.test(part));
  const asked = parts(write(state));
  const changed = parts(write(current.shown)).filter((part) => !asked.includes(part));
  return changed.length ? changed.join(" ") : write(current.shown).slice(1);
}

function renderBars() {
  const { shown, scene } = current;
  byId("views").replaceChildren(
    choices(
      "view",
      "View",
      VIEWS.map((name) => [name, VIEW_NAMES[name]]),
      shown.view,
      (name) => update({ view: name, at: null }),
    ),
  );
  const stages =
    shown.kind === "separable"
      ? [
          choices(
            "stage",
            "Stage",
            STAGES.map((name) => [name, STAGE_NAMES[name]]),
            shown.stage,
            (name) => update({ stage: name, at: null, ch: 0, ft: 0 }),
          ),
        ]
      : [];
  byId("stages").replaceChildren(...stages);
  byId("transport").replaceChildren(...transport(scene));
}

function transport(scene) {
  const button = (id, label, sign, act) =>
    h("button", { type: "button", id, "aria-label": label, title: label, onclick: act }, sign);
  const { conv, transposed, channel, feature } = scene;
  const index = (id, label, value, count, change) =>
    count > 1 &&
    h("label", { class: "index", for: id }, label, stepper(id, label, value, 0, count - 1, change));
  return [
    h("span", { class: "group" },
      button("previous", "Step back", "‹", () => move({ at: stepped(scene, -1) })),
      button("play", playing ? "Pause" : "Play", playing ? "Pause" : "Play", toggle),
      button("next", "Step forward", "›", () => move({ at: stepped(scene, 1) })),
      h("select", { "aria-label": "Speed", id: "speed", onchange: (event) => setSpeed(Number(event.target.value)) },
        SPEEDS.map(([value, label]) => h("option", { value, selected: Number(value) === speed && "" }, label))),
    ),
    h("span", { class: "group" },
      index("channel", transposed ? "feature" : "channel", channel, conv.channels, (value) => moveIndex({ channel: value })),
      index("feature", transposed ? "channel" : "feature", feature, conv.features, (value) => moveIndex({ feature: value })),
    ),
    h("span", { class: "group end" },
      h("button", { type: "button", id: "save-svg", onclick: () => saveSvg(current.shown, current.scene, theme(), pictureWidth()) }, "SVG"),
      h("button", { type: "button", id: "save-gif", onclick: exportGif }, "GIF"),
    ),
  ]; // prettier-ignore
}

const pictureWidth = () => Math.max(byId("picture").clientWidth, 280);

function renderPicture() {
  const { scene } = current;
  const drawn = draw(scene, theme(), pictureWidth());
  spots = drawn.spots;
  byId("picture").innerHTML = drawn.svg;
  byId("caption").setAttribute("aria-live", playing ? "off" : "polite");
  const sentence = describe(scene);
  if (byId("caption").textContent !== sentence) byId("caption").textContent = sentence;
  byId("equation").replaceChildren(...equation(scene));
}

// Playing

function toggle() {
  if (playing) stop();
  else playing = setInterval(() => move({ at: stepped(current.scene, 1) }), speed);
  keepingFocus(renderBars);
}

function stop() {
  clearInterval(playing);
  playing = null;
}

function setSpeed(milliseconds) {
  speed = milliseconds;
  if (!playing) return;
  stop();
  toggle();
}

async function exportGif({ currentTarget: button }) {
  const { shown, resolved, scene } = current;
  const sceneAt = (at) => sceneOf({ ...shown, at }, resolved);
  button.disabled = true;
  await saveGif(
    shown,
    scene,
    sceneAt,
    theme(),
    speed,
    (frame, of) => (button.textContent = `GIF ${frame}/${of}`),
  );
  renderBars();
}

// Acting

function listen() {
  addEventListener("hashchange", () => load(location.hash));
  addEventListener("keydown", onKey);
  addEventListener("resize", () => renderPicture());
  byId("settings").addEventListener("submit", (event) => event.preventDefault());
  byId("cards").addEventListener("click", followExample);
  byId("theme").addEventListener("click", () => setTheme(themeName === "dark" ? "light" : "dark"));
  byId("copy-link").addEventListener("click", ({ currentTarget }) =>
    copyText(linkToHere(), currentTarget),
  );
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ({ matches }) =>
    setTheme(matches ? "dark" : "light"),
  );
  listenToPointer(byId("picture"));
}

const linkToHere = () =>
  location.protocol === "about:" ? document.body.dataset.state : location.href;

/** Examples work without an address too. */
function followExample(event) {
  const link = event.target.closest("a");
  if (!link) return;
  event.preventDefault();
  load(link.getAttribute("href"));
  byId("picture").focus({ preventScroll: true });
  scrollTo({ top: 0 });
}

function setTheme(name) {
  themeName = name;
  document.documentElement.dataset.theme = name;
  byId("theme").setAttribute("aria-pressed", String(name === "dark"));
  renderPicture();
}

/** Keys act anywhere but in fields and on what has keys of its own. */
function onKey(event) {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (
    target.closest?.("input, select, textarea, summary, a, pre") ||
    (key === " " && target.closest?.("button"))
  )
    return;
  const at = keyed(current.scene, key);
  if (at) move({ at });
  else if (key === " ") toggle();
  else if (/^[cf]$/i.test(key)) nextIndex(key.toLowerCase(), event.shiftKey ? -1 : 1);
  else return;
  event.preventDefault();
}

function nextIndex(key, by) {
  const { conv, channel, feature, transposed } = current.scene;
  const channels = (key === "c") !== transposed;
  const [value, count] = channels ? [channel, conv.channels] : [feature, conv.features];
  moveIndex({ [channels ? "channel" : "feature"]: (value + by + count) % count });
}

function listenToPointer(box) {
  let held = null;
  const locate = (event) => {
    const svg = box.querySelector("svg");
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(
      svg.getScreenCTM().inverse(),
    );
    return pointed(current.scene, spots, point.x, point.y, held);
  };
  const follow = (found) => {
    if (found.at) {
      if (found.at.join() !== current.scene.at.join()) move({ at: found.at });
    } else moveIndex(found);
  };
  box.addEventListener("pointerdown", (event) => {
    const found = locate(event);
    if (!found) return;
    if (playing) toggle();
    box.setPointerCapture(event.pointerId);
    box.focus({ preventScroll: true });
    event.preventDefault();
    follow(found);
    held = found.at
      ? spots.find(({ slot, what }) => slot === found.spot.slot && what === "plane")
      : null;
  });
  box.addEventListener("pointermove", (event) => {
    if (!held) {
      box.classList.toggle("movable", Boolean(locate(event)));
      return;
    }
    const found = locate(event);
    if (found) follow(found);
  });
  for (const name of ["pointerup", "pointercancel"])
    box.addEventListener(name, () => (held = null));
}

const initial = document.body.dataset.state;
listen();
load(location.hash || initial || write(read("").state));
setTheme(themeName);

/** For tests and for the curious: the arithmetic, and what the page makes of a link. */
globalThis.jaxconvPlayground = {
  ...arithmetic, KINDS, THEMES, complaint, contrast, gifOf, nearest, possible, program, read, sceneOf, shapesOf, svgOf, view, write, arraysOf,
}; // prettier-ignore
