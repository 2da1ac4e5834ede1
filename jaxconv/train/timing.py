"""The time of a training step, with the implementations chosen and with ``lax`` throughout."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import jax

from .._src.dispatch.implementation import use_implementation
from .training import Training

# Each round discards a call's first repetitions, which warm the caches.
ROUNDS, DISCARDED, KEPT = 3, 2, 4


def speed(training: Training) -> str:
    """A sentence that compares a training step with the same step on ``lax`` throughout."""
    ours, lax = step_seconds(training)
    ratio = (
        f"[bold]{max(lax / ours, ours / lax):.1f}×[/bold] {'faster' if lax >= ours else 'slower'}"
    )
    return (
        f"A training step of {training.recipe.batch_size} {training.recipe.unit} takes "
        f"{1e3 * ours:.1f} ms, {ratio} than on lax alone ({1e3 * lax:.1f} ms)."
    )


def step_seconds(training: Training) -> tuple[float, float]:
    """Median seconds of a training step: with the implementations chosen, and with ``lax``."""

    def on(implementation: str | None) -> Callable[[], object]:
        def step() -> object:
            with use_implementation(implementation):
                return training.step(*training.arguments(0))

        return step

    ours, lax = medians({"ours": on(None), "lax": on("lax")}).values()
    return ours, lax


def medians(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each call, including the computation that it starts.

    The calls alternate in rounds, so that a slow moment of the machine affects all of them.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            samples[name] += [_seconds(call) for _ in range(DISCARDED + KEPT)][DISCARDED:]
    return {name: statistics.median(seconds) for name, seconds in samples.items()}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start
