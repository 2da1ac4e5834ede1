// Copying texts.

import { h } from "./dom.js";

/** Copies, and says so on the button. */
export async function copyText(text, button) {
  const label = button.textContent;
  let done = "Copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    done = copyBySelection(text) ? "Copied" : "Not allowed here";
  }
  button.textContent = done;
  setTimeout(() => (button.textContent = label), 1200);
}

/** Where the clipboard is not granted, as in pages from files and frames. */
function copyBySelection(text) {
  const area = h("textarea", { value: text, style: "position:fixed;opacity:0" });
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}
