// Colors after Okabe and Ito, which people with any color vision can tell apart. The pictures of
// jaxconv.viz use the same. Cells are tints of these, so that numbers keep a contrast of 4.5.

const HUES = { input: "#56b4e9", kernel: "#e69f00", output: "#009e73", products: "#cc79a7" };

export const THEMES = {
  light: {
    ...HUES,
    card: "#ffffff", ink: "#1c2733", faint: "#5a6775", edge: "#c3cad2", pad: "#eceff2",
    frame: "#b34700", tint: [0.1, 0.5],
  },
  dark: {
    ...HUES,
    card: "#18212b", ink: "#eef3f7", faint: "#a3b1bf", edge: "#3b4754", pad: "#232e39",
    frame: "#ff9d57", tint: [0.12, 0.42],
  },
}; // prettier-ignore

const channels = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));

/** `amount` of `over` on `under`, as an opaque color. */
export function mix(under, over, amount) {
  const [a, b] = [channels(under), channels(over)];
  const mixed = a.map((value, at) => Math.round(value + (b[at] - value) * amount));
  return `#${mixed.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}

/** The fill of a cell whose value lies at `share` (0 to 1) of the range of its array. */
export function tint(theme, hue, share) {
  const [least, most] = theme.tint;
  return mix(theme.card, theme[hue], least + (most - least) * share);
}

/** The contrast ratio of two colors, from 1 to 21 (WCAG 2). */
export function contrast(a, b) {
  const [light, dark] = [luminance(a), luminance(b)].sort((p, q) => q - p);
  return (light + 0.05) / (dark + 0.05);
}

function luminance(color) {
  const [r, g, b] = channels(color).map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
