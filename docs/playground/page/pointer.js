// Dragging over the picture: the kernel follows, or the result does.

import { pointed } from "./move.js";

/**
 * `now()` is `{scene, spots}` of the picture drawn; `begin` is called once a drag begins, and
 * `follow` with what each point asks for.
 */
export function listenToPointer(box, now, begin, follow) {
  let held = null; // the plane on which a drag began
  const locate = (event) => {
    const { scene, spots } = now();
    const toPicture = box.querySelector("svg").getScreenCTM().inverse();
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(toPicture);
    return pointed(scene, spots, x, y, held);
  };
  box.addEventListener("pointerdown", (event) => {
    const found = locate(event);
    if (!found) return;
    begin();
    box.setPointerCapture(event.pointerId);
    box.focus({ preventScroll: true });
    event.preventDefault();
    follow(found);
    const sameSlot = ({ slot, what }) => slot === found.spot.slot && what === "plane";
    held = found.at ? now().spots.find(sameSlot) : null;
  });
  box.addEventListener("pointermove", (event) => {
    const found = locate(event);
    if (!held) box.classList.toggle("movable", Boolean(found));
    else if (found) follow(found);
  });
  for (const name of ["pointerup", "pointercancel"])
    box.addEventListener(name, () => (held = null));
}
