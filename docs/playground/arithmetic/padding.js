// The padding names, resolved to what one axis gets: (low, high) pixels, of zeros or of a border.

import { closest } from "./words.js";

export const BORDERS = ["CIRCULAR", "REFLECT", "REPLICATE"];
export const NAMES = ["SAME", "SAME_LOWER", "VALID", "FULL", "CAUSAL", ...BORDERS];

/** The name in upper case, or an error in jaxconv's words. */
export function paddingName(name) {
  const upper = name.toUpperCase();
  if (NAMES.includes(upper)) return upper;
  const close = closest(upper, NAMES);
  const hint = close ? `; did you mean "${close}"?` : "";
  throw new Error(`padding must be one of ${NAMES.join(", ")}, but got '${name}'${hint}`);
}

/** `{low, high, border}` of an axis; `border` is the name of what is not zeros, or null. */
export function resolvePadding(entry, n, k, s, d) {
  if (typeof entry === "number") return { low: entry, high: entry, border: null };
  if (Array.isArray(entry)) return { low: entry[0], high: entry[1], border: null };
  const reach = d * (k - 1);
  const zeros = (low, high) => ({ low, high, border: null });
  switch (entry) {
    case "VALID":
      return zeros(0, 0);
    case "FULL":
      return zeros(reach, reach);
    case "CAUSAL":
      return zeros(reach, 0);
    case "SAME":
    case "SAME_LOWER": {
      const total = Math.max((Math.ceil(n / s) - 1) * s + reach + 1 - n, 0);
      const small = Math.floor(total / 2);
      return entry === "SAME" ? zeros(small, total - small) : zeros(total - small, small);
    }
    default: {
      const low = Math.floor(reach / 2);
      return { low, high: reach - low, border: entry };
    }
  }
}
