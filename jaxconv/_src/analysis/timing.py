"""Times several calls in alternating blocks, so that drift and noise affect all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)

# Alternating call by call would bias short calls by up to half: each finds the other's data in the
# cache. So the calls alternate in blocks, and the first runs of a block, which refill the cache,
# are dropped.
BLOCKS = 4
DROPPED_RUNS = 2
MAX_BLOCK_RUNS = 200


def seconds_of(call: Callable[[], object]) -> float:
    """The time of one call, which must block until its result is available."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(
    calls: Mapping[Name, Callable[[], object]],
    seconds: float,
    blocks: int = BLOCKS,
    settling: float = 0.0,
) -> dict[Name, list[float]]:
    """The seconds of every kept run of each call; about ``seconds`` are spent on each.

    Args:
        calls: Calls that block until their result is available, and were called before.
        seconds: The time to spend on each call.
        blocks: The number of blocks of each call.
        settling: The first runs of a block are dropped for at least this many seconds.
    """
    # The first run after another call may take twice as long, so the faster of two is the estimate.
    estimates = {name: min(seconds_of(call), seconds_of(call)) for name, call in calls.items()}
    samples: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(blocks):
        for name, call in calls.items():
            fitting = int(seconds / blocks / max(estimates[name], 1e-7))
            # A run as long as a whole block leaves nothing in the cache for the next one.
            if estimates[name] < max(settling, seconds / blocks):
                _drop_runs(call, settling)
            runs = max(1, min(MAX_BLOCK_RUNS, fitting))
            samples[name] += [seconds_of(call) for _ in range(runs)]
    return samples


def _drop_runs(call: Callable[[], object], settling: float) -> None:
    start = time.perf_counter()
    runs = 0
    while runs < DROPPED_RUNS or time.perf_counter() - start < settling:
        call()
        runs += 1


def median_ms(samples: list[float]) -> float:
    return 1e3 * statistics.median(samples)
