// SVG as text, with every style in attributes, so that an exported picture looks the same anywhere.

const SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif";

const escape = (text) =>
  String(text).replace(
    /[&<>"]/g,
    (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign],
  );

function element(name, attributes, inside = "") {
  const written = Object.entries(attributes)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(
      ([key, value]) =>
        ` ${key}="${escape(typeof value === "number" ? +value.toFixed(2) : value)}"`,
    );
  return `<${name}${written.join("")}>${inside}</${name}>`;
}

export const rect = (x, y, width, height, attributes) =>
  element("rect", { x, y, width, height, ...attributes });

export const line = (x1, y1, x2, y2, attributes) =>
  element("line", { x1, y1, x2, y2, ...attributes });

export const path = (d, attributes) => element("path", { d, ...attributes });

export const text = (x, y, content, attributes) =>
  element("text", { x, y, ...attributes }, escape(content));

/** A text, and a smaller one after it. */
export const textWithNote = (x, y, content, note, attributes, noteAttributes) =>
  element(
    "text",
    { x, y, ...attributes },
    escape(content) + (note && element("tspan", { dx: 7, ...noteAttributes }, escape(note))),
  );

export function picture(width, height, label, background, inside) {
  const attributes = {
    xmlns: "http://www.w3.org/2000/svg",
    viewBox: `0 0 ${Math.round(width)} ${Math.round(height)}`,
    width: Math.round(width),
    height: Math.round(height),
    role: "img",
    "aria-label": label,
    "font-family": SANS,
  };
  return element("svg", attributes, rect(0, 0, width, height, { fill: background }) + inside);
}

/** A number with a real minus sign, shortened to what a cell can hold. */
export function formatNumber(value) {
  const rounded = Number.isInteger(value) ? String(value) : value.toPrecision(3);
  return rounded.replace("-", "−");
}
