// The page: draws what follows from the state, and changes the state when the reader acts.

import * as arithmetic from "./arithmetic/index.js";
import { cards } from "./cards/index.js";
import { shapesOf } from "./cards/shape.js";
import { stageChoices, transport, viewChoices } from "./page/bars.js";
import { copyText } from "./page/copy.js";
import { byId } from "./page/dom.js";
import { faultBox } from "./page/fault.js";
import { kindChoices, settingsFields } from "./page/form.js";
import { keyed, otherIndex, stepped } from "./page/move.js";
import { Player } from "./page/player.js";
import { listenToPointer } from "./page/pointer.js";
import { equation } from "./page/sum.js";
import { view } from "./page/view.js";
import { describe, draw } from "./picture/draw.js";
import { gifOf, saveGif, saveSvg, svgOf } from "./picture/export.js";
import { contrast, THEMES } from "./picture/palette.js";
import { arraysOf, sceneOf } from "./picture/scene.js";
import { KINDS } from "./settings/kinds.js";
import { program } from "./settings/python.js";
import { possible } from "./settings/resolve.js";
import { read, write } from "./settings/state.js";

let state;
let faults = []; // of the link
let current; // what `view` returned for the state
let spots = []; // where the picture's planes lie
let themeName = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
const player = new Player(
  () => move({ at: stepped(current.scene, 1) }),
  () => keepingFocus(renderBars),
);

const theme = () => THEMES[themeName];
const placeOf = ({ rank, at }) => (rank === 1 ? at.slice(1) : at);

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
  const { scene, shown } = current;
  const at = placeOf({ ...scene, at: changes.at ?? scene.at });
  const onlyPlace = Object.keys(changes).join() === "at" && !current.faults.length;
  state = { ...shown, ...changes, at };
  faults = [];
  if (onlyPlace) renderMove();
  else render();
}

/** The channel or feature of the picture, and what it is summed with. */
function moveIndex(chosen) {
  const { channel, feature } = {
    ...current.scene,
    ...otherIndex(current.scene, chosen),
    ...chosen,
  };
  move(current.scene.transposed ? { ft: channel, ch: feature } : { ch: channel, ft: feature });
}

function load(hash) {
  ({ state, faults } = read(hash));
  player.stop();
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

function renderForm() {
  byId("kinds").replaceChildren(kindChoices(state, update));
  const row = byId("kinds").firstChild;
  const chosen = row.querySelector("input:checked").parentNode;
  row.scrollLeft = chosen.offsetLeft - (row.clientWidth - chosen.offsetWidth) / 2; // narrow screens
  const drawable = state.n.length <= 2 ? state : current.shown;
  byId("settings").replaceChildren(...settingsFields(drawable, update));
}

function renderFault() {
  const box = byId("fault");
  box.hidden = !current.faults.length;
  box.replaceChildren(...(box.hidden ? [] : faultBox(state, current, () => move({}))));
}

function renderBars() {
  const { shown } = current;
  byId("views").replaceChildren(viewChoices(shown, update));
  const stages = shown.kind === "separable" ? [stageChoices(shown, update)] : [];
  byId("stages").replaceChildren(...stages);
  const acts = { move, moveIndex, saveSvg: exportSvg, saveGif: exportGif };
  byId("transport").replaceChildren(
    ...transport({ scene: current.scene, now: () => current }, player, acts),
  );
}

const pictureWidth = () => Math.max(byId("picture").clientWidth, 280);

function renderPicture() {
  const { scene } = current;
  const drawn = draw(scene, theme(), pictureWidth());
  spots = drawn.spots;
  byId("picture").innerHTML = drawn.svg;
  const caption = byId("caption");
  caption.setAttribute("aria-live", player.playing ? "off" : "polite");
  const sentence = describe(scene);
  if (caption.textContent !== sentence) caption.textContent = sentence;
  byId("equation").replaceChildren(...equation(scene));
}

function renderCards() {
  const { shown, resolved } = current;
  byId("summary").textContent = KINDS[shown.kind].summary;
  const open = document.querySelector("#python details")?.open;
  byId("cards").replaceChildren(...cards(shown, resolved));
  document.querySelector("#python details").open = open;
}

/** Draws again without taking the focus from who uses the keyboard. */
function keepingFocus(draws) {
  const { id, name } = document.activeElement ?? {};
  draws();
  const chosen = name && document.querySelector(`input[name="${name}"]:checked`);
  const same = id ? byId(id) : chosen;
  if (same && document.activeElement !== same) same.focus({ preventScroll: true });
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
  const { transposed, channel, feature } = scene;
  const [ch, ft] = transposed ? [feature, channel] : [channel, feature];
  return { ...shown, at: placeOf(scene), ch, ft };
}

function setTheme(name) {
  themeName = name;
  document.documentElement.dataset.theme = name;
  byId("theme").setAttribute("aria-pressed", String(name === "dark"));
  renderPicture();
}

// Files

function exportSvg() {
  saveSvg(current.shown, current.scene, theme(), pictureWidth());
}

async function exportGif({ currentTarget: button }) {
  const { shown, resolved, scene } = current;
  const sceneAt = (at) => sceneOf({ ...shown, at }, resolved);
  const progress = (frame, of) => (button.textContent = `GIF ${frame}/${of}`);
  button.disabled = true;
  await saveGif(shown, scene, sceneAt, theme(), player.pace, progress);
  renderBars();
}

// Acting

/** Keys act anywhere but in fields and on what has keys of its own. */
function onKey(event) {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.closest?.("input, select, textarea, summary, a, pre")) return;
  if (key === " " && target.closest?.("button")) return;
  const at = keyed(current.scene, key);
  if (at) move({ at });
  else if (key === " ") player.toggle();
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

/** Examples work without an address too. */
function followExample(event) {
  const link = event.target.closest("a");
  if (!link) return;
  event.preventDefault();
  load(link.getAttribute("href"));
  byId("picture").focus({ preventScroll: true });
  scrollTo({ top: 0 });
}

function followPointer({ at, channel, feature }) {
  if (!at) moveIndex(channel === undefined ? { feature } : { channel });
  else if (at.join() !== current.scene.at.join()) move({ at });
}

function listen() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const link = () => (location.protocol === "about:" ? document.body.dataset.state : location.href);
  addEventListener("hashchange", () => load(location.hash));
  addEventListener("keydown", onKey);
  addEventListener("resize", renderPicture);
  dark.addEventListener("change", ({ matches }) => setTheme(matches ? "dark" : "light"));
  byId("settings").addEventListener("submit", (event) => event.preventDefault());
  byId("cards").addEventListener("click", followExample);
  byId("theme").addEventListener("click", () => setTheme(themeName === "dark" ? "light" : "dark"));
  byId("copy-link").addEventListener("click", (event) => copyText(link(), event.currentTarget));
  listenToPointer(
    byId("picture"),
    () => ({ scene: current.scene, spots }),
    () => player.playing && player.toggle(),
    followPointer,
  );
}

const initial = document.body.dataset.state;
listen();
load(location.hash || initial || write(read("").state));
setTheme(themeName);

/** For tests and for the curious: the arithmetic, and what the page makes of a link. */
globalThis.jaxconvPlayground = {
  ...arithmetic, THEMES, arraysOf, contrast, gifOf, possible, program, read, sceneOf, shapesOf, svgOf, view, write,
}; // prettier-ignore
