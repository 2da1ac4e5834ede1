// The arithmetic of convolutions, which the page draws and tests compare with jaxconv.

export * from "./costs.js";
export * from "./geometry.js";
export * from "./operators.js";
export * from "./padding.js";
