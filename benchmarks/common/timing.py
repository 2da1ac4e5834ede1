"""Times peers in alternating blocks, so that drift and noise fall on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

# Alternating call by call biases short calls by up to half: each finds the other's data in cache.
# So each peer runs in blocks, and the first runs of a block, which pay for that, are dropped.
BLOCKS = 4
DROPPED = 2
# PyTorch's threads wait for more work on their processors, and for so long take those from the next
# peer: 3x3 8x14x14x256 took jaxconv 9.7 ms in that time, 7.5 after it.
SETTLING = 0.05  # seconds


def _once(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(
    calls: Mapping[str, Callable[[], object]], seconds: float, blocks: int = BLOCKS
) -> dict[str, list[float]]:
    """Seconds of every kept run of each call; about ``seconds`` are spent on each.

    The calls must block until their result is there, and have been called before.
    """
    # The first run after another peer's may take twice as long, and then a block would be one such.
    estimates = {name: min(_once(call), _once(call)) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(blocks):
        for name, call in calls.items():
            runs = max(1, min(200, int(seconds / blocks / max(estimates[name], 1e-7))))
            # A run that takes as long as a whole block warms the cache for nobody.
            if estimates[name] < max(SETTLING, seconds / blocks):
                _settle(call)
            samples[name] += [_once(call) for _ in range(runs)]
    return samples


def _settle(call: Callable[[], object]) -> None:
    """Runs that are not kept."""
    start = time.perf_counter()
    done = 0
    while done < DROPPED or time.perf_counter() - start < SETTLING:
        call()
        done += 1


def median_ms(samples: list[float]) -> float:
    return 1e3 * statistics.median(samples)


def geometric_mean(values: list[float]) -> float:
    return statistics.geometric_mean(values) if values else float("nan")
