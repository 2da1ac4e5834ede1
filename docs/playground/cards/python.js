// The line of Python, and the program with the page's numbers.

import { copyText } from "../page/copy.js";
import { h } from "../page/dom.js";
import { line, program } from "../settings/python.js";
import { shapesOf } from "./shape.js";

export function pythonCard(state, resolved) {
  const whole = program(state, resolved, shapesOf(resolved).output);
  const copy = (what, label) => {
    const button = h("button", { type: "button", onclick: () => copyText(what, button) }, label);
    return button;
  };
  return [
    "Python", "python",
    h("pre", { tabindex: "0", "aria-label": "Line of Python" }, h("code", { id: "line" }, line(state, resolved))),
    h("div", { class: "bar" }, copy(line(state, resolved), "Copy line"), copy(whole, "Copy program")),
    h("details", {}, h("summary", {}, "The program with these numbers"), h("pre", { tabindex: "0", "aria-label": "Program" }, h("code", { id: "program" }, whole))),
  ]; // prettier-ignore
}
