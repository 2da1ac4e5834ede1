// Why the picture is not that of the setting asked for, and which one it is.

import { h } from "./dom.js";
import { write } from "../settings/state.js";

export function faultBox(state, { shown, faults }, use) {
  const button = h("button", { type: "button", onclick: use }, "Use it");
  return [
    ...faults.map((sentence) => h("p", { class: "sentence" }, sentence)),
    h(
      "p",
      {},
      "Shown is the nearest possible setting: ",
      h("code", {}, differences(state, shown)),
      " ",
      button,
    ),
  ];
}

/** The settings of the picture that differ from those asked for. */
function differences(state, shown) {
  const parts = (hash) => hash.slice(1).split("&");
  const settings = (hash) => parts(hash).filter((part) => !/^(at|ch|ft)=/.test(part));
  const asked = settings(write(state));
  const changed = settings(write(shown)).filter((part) => !asked.includes(part));
  return changed.length ? changed.join(" ") : write(shown).slice(1);
}
