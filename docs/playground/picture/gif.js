// GIF files with frames: one palette of 256 colors for all of them, compressed by LZW.

const COLORS = 256;

/** The bytes of an animation; `frames` are RGBA pixels of one size, each shown for so many ms. */
export function encode(frames, width, height, milliseconds) {
  const palette = paletteOf(frames);
  const bytes = new Bytes();
  bytes.text("GIF89a").short(width).short(height).push(0xf7, 0, 0);
  for (const color of palette.colors) bytes.push(color >> 16, (color >> 8) & 255, color & 255);
  bytes.push(0x21, 0xff, 11).text("NETSCAPE2.0").push(3, 1).short(0).push(0); // repeats forever
  for (const frame of frames) {
    bytes
      .push(0x21, 0xf9, 4, 0)
      .short(Math.round(milliseconds / 10))
      .push(0, 0);
    bytes.push(0x2c).short(0).short(0).short(width).short(height).push(0, 8);
    compress(palette.indices(frame), bytes);
  }
  bytes.push(0x3b);
  return bytes.taken();
}

class Bytes {
  #bytes = new Uint8Array(1 << 16);
  #length = 0;

  push(...values) {
    if (this.#length + values.length > this.#bytes.length) {
      const larger = new Uint8Array(2 * this.#bytes.length);
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    for (const value of values) this.#bytes[this.#length++] = value;
    return this;
  }

  short(value) {
    return this.push(value & 255, value >> 8);
  }

  text(text) {
    return this.push(...[...text].map((letter) => letter.charCodeAt(0)));
  }

  taken() {
    return this.#bytes.slice(0, this.#length);
  }
}

/** The most frequent colors, of 15 bits; others take the nearest of them. */
function paletteOf(frames) {
  const counts = new Map();
  for (const frame of frames)
    for (let at = 0; at < frame.length; at += 4) {
      const color = coarse(frame, at);
      counts.set(color, (counts.get(color) ?? 0) + 1);
    }
  const frequent = [...counts]
    .sort((a, b) => b[1] - a[1])
    .slice(0, COLORS)
    .map(([color]) => color);
  const nearest = new Map(frequent.map((color, index) => [color, index]));
  const indices = (frame) => {
    const result = new Uint8Array(frame.length / 4);
    for (let at = 0; at < result.length; at++) {
      const color = coarse(frame, 4 * at);
      if (!nearest.has(color)) nearest.set(color, nearestIndex(color, frequent));
      result[at] = nearest.get(color);
    }
    return result;
  };
  const colors = Array.from({ length: COLORS }, (_, at) => fine(frequent[at] ?? 0));
  return { colors, indices };
}

const coarse = (frame, at) =>
  ((frame[at] >> 3) << 10) | ((frame[at + 1] >> 3) << 5) | (frame[at + 2] >> 3);

/** 15 bits as 24; white stays white. */
function fine(color) {
  const [r, g, b] = parts(color).map((value) => (value << 3) | (value >> 2));
  return (r << 16) | (g << 8) | b;
}

const parts = (color) => [color >> 10, (color >> 5) & 31, color & 31];

function nearestIndex(color, colors) {
  const [r, g, b] = parts(color);
  let best = 0;
  let least = Infinity;
  colors.forEach((other, index) => {
    const [p, q, s] = parts(other);
    const distance = (r - p) ** 2 + (g - q) ** 2 + (b - s) ** 2;
    if (distance < least) [best, least] = [index, distance];
  });
  return best;
}

const CLEAR = 256;
const END = 257;
const MAX_CODES = 4096;

/** Variable-length LZW codes, in blocks of up to 255 bytes. */
function compress(indices, bytes) {
  let block = [];
  let bits = 0;
  let held = 0;
  let width = 9;
  const flush = () => {
    if (block.length) bytes.push(block.length, ...block);
    block = [];
  };
  const write = (code) => {
    bits |= code << held;
    held += width;
    while (held >= 8) {
      block.push(bits & 255);
      if (block.length === 255) flush();
      bits >>>= 8;
      held -= 8;
    }
  };
  let table = new Map();
  let next = END + 1;
  write(CLEAR);
  let prefix = indices[0];
  for (let at = 1; at < indices.length; at++) {
    const key = (prefix << 8) | indices[at];
    if (table.has(key)) {
      prefix = table.get(key);
      continue;
    }
    write(prefix);
    if (next === MAX_CODES) {
      write(CLEAR);
      [table, next, width] = [new Map(), END + 1, 9];
    } else {
      if (next === 1 << width) width++;
      table.set(key, next++);
    }
    prefix = indices[at];
  }
  write(prefix);
  write(END);
  if (held > 0) block.push(bits & 255);
  flush();
  bytes.push(0);
}
