// The cards below the picture.

import { h } from "../page/dom.js";
import { costCard } from "./cost.js";
import { EXAMPLES } from "./examples.js";
import { ledgerCard } from "./ledger.js";
import { pythonCard } from "./python.js";
import { shapeCard } from "./shape.js";

export function cards(state, resolved) {
  return [
    shapeCard(state, resolved),
    pythonCard(state, resolved),
    costCard(state, resolved),
    ledgerCard(resolved),
    examplesCard(),
  ].map(([title, id, ...inside]) => card(title, id, inside));
}

const card = (title, id, inside) =>
  h(
    "section",
    { class: "card", id, "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title` }, title),
    inside,
  );

function examplesCard() {
  return [
    "Cases to look at",
    "examples",
    h(
      "ul",
      {},
      EXAMPLES.map(([label, href]) => h("li", {}, h("a", { href }, label))),
    ),
  ];
}
