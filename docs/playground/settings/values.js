// The numbers in the pictures: small ints from a formula that one line of Python repeats.

/** `(a*i*i + b*i + shift*seed) % prime % count + least` for each index i. */
export const FORMULAS = {
  x: { a: 31, b: 17, shift: 13, prime: 97, count: 10, least: 0 },
  k: { a: 23, b: 19, shift: 11, prime: 89, count: 5, least: -2 },
  w: { a: 29, b: 37, shift: 5, prime: 79, count: 5, least: -2 },
  g: { a: 41, b: 7, shift: 3, prime: 83, count: 5, least: -2 },
};

export function numbers(name, size, seed) {
  const { a, b, shift, prime, count, least } = FORMULAS[name];
  return Float64Array.from(
    { length: size },
    (_, i) => (((a * i * i + b * i + shift * seed) % prime) % count) + least,
  );
}
