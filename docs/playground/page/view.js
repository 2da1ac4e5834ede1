// The page's one state and what follows from it: the setting shown, its convolutions, the picture.

import { SettingError } from "../settings/call.js";
import { nearest } from "../settings/nearest.js";
import { resolve } from "../settings/resolve.js";
import { sceneOf } from "../picture/scene.js";

/**
 * What the page shows for a state: `shown` is the state itself, or the nearest possible one, and
 * `faults` are the sentences that say why it is another.
 */
export function view(state, faults = []) {
  let resolved;
  let shown = state;
  try {
    resolved = resolve(state);
  } catch (error) {
    if (!(error instanceof SettingError)) throw error;
    faults = [...faults, error.message];
    shown = nearest(state);
    resolved = resolve(shown);
  }
  return { shown, resolved, faults, scene: sceneOf(shown, resolved) };
}
