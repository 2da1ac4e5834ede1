// The numbers in the pictures: small ints from a formula that one line of Python repeats.

/**
 * `(a*i*i + b*i + shift*seed) % prime % count * scale + least` for each index i. Weights and
 * gradients are never 0, so that a 0 in a result means something.
 */
export const FORMULAS = {
  x: { a: 31, b: 17, shift: 13, prime: 97, count: 10, scale: 1, least: 0 },
  k: { a: 23, b: 19, shift: 11, prime: 89, count: 4, scale: 2, least: -3 },
  w: { a: 29, b: 37, shift: 5, prime: 79, count: 4, scale: 2, least: -3 },
  g: { a: 41, b: 7, shift: 3, prime: 83, count: 4, scale: 2, least: -3 },
};

export function numbers(name, size, seed) {
  const { a, b, shift, prime, count, scale, least } = FORMULAS[name];
  const value = (i) => ((a * i * i + b * i + shift * seed) % prime) % count;
  return Float64Array.from({ length: size }, (_, i) => value(i) * scale + least);
}
