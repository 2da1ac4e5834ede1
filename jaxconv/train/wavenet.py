"""A pulse wave, sample by sample: WaveNet on eleven minutes of a real heart's beating."""

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
from . import plots, report
from .errors import BadInputError
from .recipe import Batch, Data, Recipe, Run, Score

RATE = 100  # samples a second
LEVELS = 256  # of a 10-bit recording: four neighbouring values are one level
FIELD = 1024  # samples that the network sees
HELD_OUT = 10 * FIELD  # samples at the end
CONTINUED = 10 * RATE  # samples to generate
ORDER = 2  # samples that the Markov model sees


def levels() -> np.ndarray:
    """The photoplethysmogram that HeartPy ships as ``data3.csv``: 68,476 levels, at about 100 Hz.

    It is read from the package's files; the package is not imported.
    """
    found = importlib.util.find_spec("heartpy")
    if found is None or found.origin is None:
        raise BadInputError('heartpy is not installed; pip install "jaxconv[demo]"')
    path = Path(found.origin).parent / "data" / "data3.csv"
    recorded = np.loadtxt(path, delimiter=",", skiprows=1, usecols=1, dtype=np.int32)
    return recorded * LEVELS // 1024


def data() -> Data:
    """Overlapping windows of the recording, whose end is held out.

    Training windows leave ``augment`` room to cut from. Held-out windows overlap by a receptive
    field: what is ``counted`` is predicted from as much as the network can see.
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
    """Windows of two receptive fields, from anywhere in those given."""
    starts = jax.random.randint(key, (len(batch["wave"]),), 0, FIELD)
    cut = jax.vmap(lambda wave, start: jax.lax.dynamic_slice(wave, (start,), (2 * FIELD + 1,)))
    return {**batch, "wave": cut(batch["wave"], starts)}


def loss(logits: jax.Array, batch: Batch) -> jax.Array:
    """Mean surprise, in nats, at the samples that count."""
    following = batch["wave"][:, 1:]
    surprise = optax.softmax_cross_entropy_with_integer_labels(logits, following)
    return (surprise * batch["counted"]).sum() / batch["counted"].sum()


def bits(logits: jax.Array, batch: Batch) -> jax.Array:
    return loss(logits, batch) / math.log(2)


def markov_bits(wave: np.ndarray, split: int, order: int) -> float:
    """Bits a sample from ``split`` on, by a Markov model of the samples before ``split``.

    Counts of each context of ``order`` samples are interpolated with those of the next shorter
    context, down to all levels alike, each weighted by how many levels have followed it: I. Witten
    and T. Bell, "The zero-frequency problem" (1991).
    """
    followers: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    samples = wave.tolist()
    for length in range(order + 1):
        for end in range(length, split):
            followers[tuple(samples[end - length : end])][samples[end]] += 1
    surprise = 0.0
    for end in range(split, len(samples)):
        chance = 1 / LEVELS
        for length in range(order + 1):
            seen = followers.get(tuple(samples[end - length : end]), Counter())
            if seen:
                novel = len(seen)
                chance = (seen[samples[end]] + novel * chance) / (seen.total() + novel)
        surprise -= math.log2(chance)
    return surprise / (len(samples) - split)


def finish(run: Run) -> None:
    """Prints the bits a sample beside the Markov models'; continues the wave; draws the picture."""
    wave, network = levels(), cast(WaveNet, run.training.network)
    split = len(wave) - HELD_OUT
    reached = {f"Markov, order {n}": markov_bits(wave, split, n) for n in range(ORDER + 1)}
    reached["WaveNet"] = float(bits(jnp.asarray(run.outputs), run.training.data.held_out))
    table = report.empty_table("Held-out samples", "", "bits a sample")
    for name, value in reached.items():
        table.add_row(name, f"{value:.3f}")
    saved = 1 - reached["WaveNet"] / reached[f"Markov, order {ORDER}"]
    run.console.print(table, "", report.kernels(run.training), "")
    run.console.print(
        f"[bold]{abs(saved):.0%}[/bold] {'fewer' if saved >= 0 else 'more'} bits a sample than "
        f"the order-{ORDER} Markov model, on {HELD_OUT:,} held-out samples"
    )
    heard = wave[None, split - 2 * FIELD : split]
    continued = generated(network, heard, run.training.seed)
    run.console.print(f"Continued the wave by {CONTINUED:,} samples, streamed one at a time")
    plots.save(picture(run, reached, heard[0], np.asarray(continued)), run.folder / "wavenet.png")


def generated(network: WaveNet, heard: np.ndarray, seed: int) -> jax.Array:
    """Three continuations of a wave."""
    stream = nnx.jit(lambda network, heard, key: network.generate(heard, CONTINUED, key))
    return stream(network, jnp.repeat(heard, 3, axis=0), jax.random.key(seed))


def picture(run: Run, reached: dict[str, float], heard: np.ndarray, continued: np.ndarray):
    """The training curve, the bits, what is expected of each sample, and the continuations."""
    drawn = plots.figure("A pulse wave, predicted sample by sample by WaveNet", 12, 10)
    upper, middle, lower = plots.rows(drawn, 1.1, 1, 1.3)
    curve, compared = upper.subplots(1, 2)
    plots.training_curve(curve, run.training, run.history)
    title = f"Bits a sample, {HELD_OUT:,} samples held out"
    plots.bars(compared, list(reached), list(reached.values()), title, "{:.2f}")
    expected(middle.subplots(), run)
    each = lower.subplots(len(continued), 1, sharex=True, sharey=True)
    for axes, wave in zip(each, continued, strict=True):
        past, future = np.arange(-5 * RATE, 0) / RATE, np.arange(CONTINUED) / RATE
        axes.plot(past, heard[-5 * RATE :], color=plots.INK, linewidth=1)
        axes.plot(future, wave, color=plots.ACCENT, linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_yticks([])
    each[0].margins(x=0)
    each[-1].set_xlabel("seconds")
    plots.caption(each[0], "Five seconds heard, and three continuations streamed from them")
    return drawn


def expected(axes, run: Run) -> None:
    """The chance of each level at each sample of a held-out stretch, and what came."""
    stretch = slice(FIELD, FIELD + 3 * RATE)
    chances = np.asarray(jax.nn.softmax(run.outputs[0, stretch]))
    came = run.training.data.held_out["wave"][0, 1:][stretch]
    axes.imshow(chances.T**0.5, cmap="Blues", origin="lower", aspect="auto")
    axes.plot(came, color=plots.ACCENT, linewidth=0.8)
    axes.set_ylim(came.min() - 20, came.max() + 20)
    axes.set(xlabel="samples of a hundredth of a second", ylabel="level")
    plots.caption(axes, "The chance of each level one sample ahead (blue), and what came (red)")


RECIPE = Recipe(
    name="wavenet",
    unit="windows",
    data=data,
    network=lambda rngs: WaveNet(LEVELS, features=32, skip=64, rngs=rngs),
    outputs=lambda network, batch: network(batch["wave"][:, :-1]),
    loss=loss,
    loss_label="nats a sample (0.69 are a bit)",
    score=Score("bits a sample", bits, "{:.3f}"),
    report=finish,
    batch_size=4,
    epochs=60,
    learning_rate=6e-3,
    short_epochs=1,
    augment=augment,
)
