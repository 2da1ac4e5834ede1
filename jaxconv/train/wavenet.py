"""WaveNet on eleven minutes of a recorded pulse wave, predicted sample by sample."""

from __future__ import annotations

import importlib.util
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ..models.wavenet import WaveNet
from . import plots, tables
from .errors import BadInputError
from .recipe import Batch, Data, Recipe, Score
from .run import Run

RATE = 100  # samples per second
LEVELS = 256  # of a 10-bit recording: four neighboring values are one level
FIELD = 1024  # samples in the network's receptive field
HELD_OUT = 10 * FIELD  # samples at the end
CONTINUED = 10 * RATE  # samples to generate
ORDER = 2  # context of the largest Markov model, in samples


def levels() -> np.ndarray:
    """The photoplethysmogram that HeartPy ships as ``data3.csv``: 68,476 levels, at about 100 Hz.

    Read from the package's files without importing the package.
    """
    found = importlib.util.find_spec("heartpy")
    if found is None or found.origin is None:
        raise BadInputError('heartpy is not installed; pip install "jaxconv[demo]"')
    path = Path(found.origin).parent / "data" / "data3.csv"
    recorded = np.loadtxt(path, delimiter=",", skiprows=1, usecols=1, dtype=np.int32)
    return recorded * LEVELS // 1024


def data() -> Data:
    """Overlapping windows of the recording, whose end is held out.

    Training windows are longer than a training example; ``augment`` crops them. Held-out windows
    overlap by a receptive field, so that every sample that is ``counted`` is predicted from a full
    receptive field.
    """
    wave = levels()
    split = len(wave) - HELD_OUT
    train = _windows(wave, np.arange(0, split - 3 * FIELD, FIELD), 3 * FIELD)
    held_out = _windows(wave, np.arange(split - FIELD - 1, len(wave) - 2 * FIELD, FIELD))
    counted = np.ones((len(train), 2 * FIELD), np.float32)
    late = np.float32(np.arange(2 * FIELD) >= FIELD) * np.ones((len(held_out), 1), np.float32)
    return Data({"wave": train, "counted": counted}, {"wave": held_out, "counted": late})


def _windows(wave: np.ndarray, starts: np.ndarray, length: int = 2 * FIELD + 1) -> np.ndarray:
    return wave[starts[:, None] + np.arange(length)]


def augment(key: jax.Array, batch: Batch) -> Batch:
    """Crops each window to two receptive fields at a random position."""
    starts = jax.random.randint(key, (len(batch["wave"]),), 0, FIELD)
    crop = jax.vmap(lambda wave, start: jax.lax.dynamic_slice(wave, (start,), (2 * FIELD + 1,)))
    return {**batch, "wave": crop(batch["wave"], starts)}


def loss(logits: jax.Array, batch: Batch) -> jax.Array:
    """Mean cross-entropy, in nats, of the samples that are ``counted``."""
    following = batch["wave"][:, 1:]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, following)
    return (losses * batch["counted"]).sum() / batch["counted"].sum()


def bits(logits: jax.Array, batch: Batch) -> jax.Array:
    return loss(logits, batch) / math.log(2)


def markov_bits(wave: np.ndarray, split: int, order: int) -> float:
    """Bits per sample, from ``split`` on, of a Markov model fitted to the samples before ``split``.

    The probabilities after each context of ``order`` samples are interpolated with those after the
    next shorter context, down to the uniform distribution, weighted by the number of different
    levels that have followed the context.

    Source: I. Witten and T. Bell, "The zero-frequency problem" (1991).
    """
    followers: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    samples = wave.tolist()
    for length in range(order + 1):
        for end in range(length, split):
            followers[tuple(samples[end - length : end])][samples[end]] += 1
    total = 0.0
    for end in range(split, len(samples)):
        probability = 1 / LEVELS
        for length in range(order + 1):
            seen = followers.get(tuple(samples[end - length : end]), Counter())
            if seen:
                novel = len(seen)
                probability = (seen[samples[end]] + novel * probability) / (seen.total() + novel)
        total -= math.log2(probability)
    return total / (len(samples) - split)


def report(run: Run) -> None:
    """Compares with Markov models, generates continuations and saves the figure."""
    wave, network = levels(), cast(WaveNet, run.training.network)
    split = len(wave) - HELD_OUT
    scores = {f"Markov, order {n}": markov_bits(wave, split, n) for n in range(ORDER + 1)}
    scores["WaveNet"] = float(bits(jnp.asarray(run.outputs), run.training.data.held_out))
    table = tables.empty_table("Held-out samples", "", "bits per sample")
    for name, value in scores.items():
        table.add_row(name, f"{value:.3f}")
    saved = 1 - scores["WaveNet"] / scores[f"Markov, order {ORDER}"]
    run.console.print(table, "", tables.implementations(run.training), "")
    run.console.print(
        f"WaveNet needs [bold]{abs(saved):.0%}[/bold] {'fewer' if saved >= 0 else 'more'} bits per "
        f"sample than the Markov model of order {ORDER}, on {HELD_OUT:,} held-out samples"
    )
    prompt = wave[None, split - 2 * FIELD : split]
    continuations = np.asarray(generate(network, prompt, run.training.seed))
    run.console.print(f"Generated {len(continuations)} continuations of {CONTINUED:,} samples")
    plots.save(figure(run, scores, prompt[0], continuations), run.folder / "wavenet.png")


def generate(network: WaveNet, prompt: np.ndarray, seed: int) -> jax.Array:
    """Three continuations of a wave."""
    stream = nnx.jit(lambda network, prompt, key: network.generate(prompt, CONTINUED, key))
    return stream(network, jnp.repeat(prompt, 3, axis=0), jax.random.key(seed))


def figure(run: Run, scores: dict[str, float], prompt: np.ndarray, continuations: np.ndarray):
    """The training curve, the scores, the predicted distributions and the continuations."""
    drawn = plots.figure("A pulse wave, predicted sample by sample by WaveNet", 12, 10)
    upper, middle, lower = plots.rows(drawn, 1.1, 1, 1.3)
    curve, bars = upper.subplots(1, 2)
    plots.training_curve(curve, run.training, run.history)
    title = f"Bits per sample, on {HELD_OUT:,} held-out samples"
    plots.bars(bars, list(scores), list(scores.values()), title, "{:.2f}")
    _distributions(middle.subplots(), run)
    panels = lower.subplots(len(continuations), 1, sharex=True, sharey=True)
    for axes, wave in zip(panels, continuations, strict=True):
        past, future = np.arange(-5 * RATE, 0) / RATE, np.arange(CONTINUED) / RATE
        axes.plot(past, prompt[-5 * RATE :], color=plots.INK, linewidth=1)
        axes.plot(future, wave, color=plots.ACCENT, linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_yticks([])
    panels[0].margins(x=0)
    panels[-1].set_xlabel("seconds")
    plots.caption(panels[0], "Five recorded seconds, and three generated continuations (red)")
    return drawn


def _distributions(axes, run: Run) -> None:
    """The predicted probability of each level at three held-out seconds, and the true levels."""
    shown = slice(FIELD, FIELD + 3 * RATE)
    probabilities = np.asarray(jax.nn.softmax(run.outputs[0, shown]))
    true = run.training.data.held_out["wave"][0, 1:][shown]
    axes.imshow(probabilities.T**0.5, cmap="Blues", origin="lower", aspect="auto")
    axes.plot(true, color=plots.ACCENT, linewidth=0.8)
    axes.set_ylim(true.min() - 20, true.max() + 20)
    axes.set(xlabel="samples (100 per second)", ylabel="level")
    plots.caption(axes, "Predicted probability of each next level (blue), and the true level (red)")


RECIPE = Recipe(
    name="wavenet",
    unit="windows",
    data=data,
    network=lambda rngs: WaveNet(LEVELS, features=32, skip=64, rngs=rngs),
    outputs=lambda network, batch: network(batch["wave"][:, :-1]),
    loss=loss,
    loss_label="nats per sample (0.69 nats are one bit)",
    score=Score("bits per sample", bits, "{:.3f}"),
    batch_size=4,
    epochs=60,
    learning_rate=6e-3,
    short_epochs=1,
    augment=augment,
)
