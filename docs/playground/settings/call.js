// jaxconv's call for a state: its name, the shapes of its arrays, and the form of its errors.

import { repr } from "../arithmetic/words.js";

const SPATIAL = { 1: ["W"], 2: ["H", "W"] };

/** An impossible setting, in the sentence that jaxconv raises. */
export class SettingError extends Error {}

export class Call {
  /** `arrays` are [name, axes, shape], with axes as in `"*K C/G F"`. */
  constructor(name, arrays, rank) {
    Object.assign(this, { name, arrays, rank });
  }

  error(message) {
    const got = this.arrays.map(
      ([name, axes, shape]) => `${name} [${this.#written(axes)}] = ${repr(shape)}`,
    );
    return new SettingError(`${this.name}: ${message}. Got ${got.join(", ")}.`);
  }

  /** The shape of the array with this name. */
  shape(name) {
    return this.arrays.find(([each]) => each === name)[2];
  }

  #written(axes) {
    const spatial = SPATIAL[this.rank];
    const expand = { "*S": spatial, "*K": spatial.map((axis) => `K${axis}`) };
    return axes
      .split(" ")
      .flatMap((axis) => expand[axis] ?? [axis])
      .join(", ");
  }
}

/** The call of a state whose sizes are ints. */
export function callOf(state) {
  const { kind, n, c, f, m, k, g } = state;
  const rank = n.length;
  const x = ["x", "N *S C", [1, ...n, c]];
  // Of impossible numbers of groups, as if there were one.
  const share = (features) => Math.max(Math.floor(features / (g >= 1 ? g : 1)), 1);
  switch (kind) {
    case "depthwise":
      return new Call("depthwise_conv", [x, ["kernel", "*K 1 C*M", [...k, 1, c * m]]], rank);
    case "separable":
      return new Call(
        "separable_conv",
        [
          x,
          ["depthwise_kernel", "*K 1 C*M", [...k, 1, c * m]],
          ["pointwise_kernel", "C*M F", [c * m, f]],
        ],
        rank,
      );
    case "pointwise":
      return new Call("pointwise_conv", [x, ["kernel", "*K C F", [...n.map(() => 1), c, f]]], rank);
    case "transposed":
      return new Call("conv_transpose", [x, ["kernel", "*K F/G C", [...k, share(f), c]]], rank);
    case "causal":
      if (rank === 1)
        return new Call(
          "causal_conv",
          [
            ["x", "N L C", x[2]],
            ["kernel", "K C/G F", [...k, share(c), f]],
          ],
          rank,
        );
    // falls through: in two dimensions it is conv with one causal axis
    default:
      return new Call("conv", [x, ["kernel", "*K C/G F", [...k, share(c), f]]], rank);
  }
}
