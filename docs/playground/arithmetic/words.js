// What jaxconv's sentences need: values as Python writes them, and the name that was probably meant.

/** A value as Python's `repr` writes it. */
export function repr(value) {
  if (Array.isArray(value)) {
    const inside = value.map(repr).join(", ");
    return value.length === 1 ? `(${inside},)` : `(${inside})`;
  }
  return typeof value === "string" ? `'${value}'` : String(value);
}

export const thousands = (number) => String(number).replace(/\B(?=(\d{3})+(?!\d))/g, ",");

/** The name most like `word`, if at least half of their letters agree: Python's `difflib`. */
export function closest(word, names) {
  const scored = names.map((name) => ({ name, score: similarity(name, word) }));
  const best = scored.reduce((a, b) =>
    b.score > a.score || (b.score === a.score && b.name > a.name) ? b : a,
  );
  return best.score >= 0.5 ? best.name : null;
}

function similarity(a, b) {
  return a.length + b.length ? (2 * matches(a, b)) / (a.length + b.length) : 1;
}

/** Letters in common: the longest common part, and the same on both sides of it. */
function matches(a, b) {
  let best = { size: 0, i: 0, j: 0 };
  for (let i = 0; i < a.length; i++)
    for (let j = 0; j < b.length; j++) {
      let size = 0;
      while (i + size < a.length && a[i + size] === b[j + size] && j + size < b.length) size++;
      if (size > best.size) best = { size, i, j };
    }
  if (!best.size) return 0;
  const { size, i, j } = best;
  return (
    size + matches(a.slice(0, i), b.slice(0, j)) + matches(a.slice(i + size), b.slice(j + size))
  );
}
