// The current picture as an SVG file, and the run of the kernel over the result as a GIF.

import { shapeOf } from "../arithmetic/operators.js";
import { h } from "../page/dom.js";
import { encode } from "./gif.js";
import { draw } from "./draw.js";

const MAX_FRAMES = 120;
const GIF_WIDTH = 860;

const nameOf = (state, suffix) => `convolution-${state.kind}-${state.view}.${suffix}`;

export function saveSvg(state, scene, theme, width) {
  download(new Blob([svgOf(scene, theme, width)], { type: "image/svg+xml" }), nameOf(state, "svg"));
}

export const svgOf = (scene, theme, width) => draw(scene, theme, width).svg;

/** One frame per place of the result; of many, evenly spread ones. `sceneAt(at)` makes each. */
export async function gifOf(scene, sceneAt, theme, milliseconds, progress) {
  const [rows, columns] = shapeOf(scene.conv, scene.role);
  const every = Math.ceil((rows * columns) / MAX_FRAMES);
  const places = Array.from({ length: Math.ceil((rows * columns) / every) }, (_, at) => at * every);
  const frames = [];
  let size;
  for (const place of places) {
    progress(frames.length + 1, places.length);
    const { svg } = draw(sceneAt([Math.floor(place / columns), place % columns]), theme, GIF_WIDTH);
    const frame = await pixelsOf(svg, size);
    size = frame.size;
    frames.push(frame.pixels);
  }
  return encode(frames, size.width, size.height, milliseconds);
}

export async function saveGif(state, scene, sceneAt, theme, milliseconds, progress) {
  const bytes = await gifOf(scene, sceneAt, theme, milliseconds, progress);
  download(new Blob([bytes], { type: "image/gif" }), nameOf(state, "gif"));
}

/** The pixels of an SVG, drawn by the browser; later frames take the size of the first. */
async function pixelsOf(svg, size) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const { width, height } = size ?? { width: image.naturalWidth, height: image.naturalHeight };
  const canvas = h("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return { pixels: context.getImageData(0, 0, width, height).data, size: { width, height } };
}

function download(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
