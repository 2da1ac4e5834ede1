"""Times peers in alternating rounds, so that drift and noise affect all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

# Alternating call by call biases short calls by up to half: each finds the other's data in the
# cache. So each peer runs several times per round, and the first runs are dropped.
ROUNDS = 4
MIN_DROPPED_RUNS = 2
# PyTorch's threads spin for a while after a call, which slows the next peer down by up to 30 %: see
# docs/design/measurements.md.
SETTLING_SECONDS = 0.05
MAX_RUNS_PER_ROUND = 200


def _once(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(
    calls: Mapping[str, Callable[[], object]], seconds: float, rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Seconds of every kept run of each call; about ``seconds`` are spent on each call.

    The calls must return only when their result is there, and must have run before.
    """
    # The first run after another peer's can take twice as long and must not decide alone.
    estimates = {name: min(_once(call), _once(call)) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            runs = int(seconds / rounds / max(estimates[name], 1e-7))
            # A run that fills a whole round needs no warming up.
            if estimates[name] < max(SETTLING_SECONDS, seconds / rounds):
                _warm_up(call)
            samples[name] += [_once(call) for _ in range(max(1, min(MAX_RUNS_PER_ROUND, runs)))]
    return samples


def _warm_up(call: Callable[[], object]) -> None:
    start = time.perf_counter()
    runs = 0
    while runs < MIN_DROPPED_RUNS or time.perf_counter() - start < SETTLING_SECONDS:
        call()
        runs += 1


def median_ms(samples: list[float]) -> float:
    return 1e3 * statistics.median(samples)


def geometric_mean(values: list[float]) -> float:
    return statistics.geometric_mean(values) if values else float("nan")
