// Playing: one step after another, at a pace that can change.

export class Player {
  pace = 600; // milliseconds per step
  #timer = null;
  #step;
  #changed;

  /** `step` moves on; `changed` is called after starting and stopping. */
  constructor(step, changed) {
    this.#step = step;
    this.#changed = changed;
  }

  get playing() {
    return this.#timer !== null;
  }

  toggle = () => {
    if (this.playing) this.stop();
    else this.#timer = setInterval(this.#step, this.pace);
    this.#changed();
  };

  stop() {
    clearInterval(this.#timer);
    this.#timer = null;
  }

  setPace(milliseconds) {
    this.pace = milliseconds;
    if (!this.playing) return;
    this.stop();
    this.toggle();
  }
}
