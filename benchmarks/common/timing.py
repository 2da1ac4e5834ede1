"""Times peers in alternating blocks, so that drift and noise affect all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from jaxconv._src.analysis import timing
from jaxconv._src.analysis.timing import BLOCKS
from jaxconv._src.analysis.timing import median_ms as median_ms

# PyTorch's threads wait for more work on their processors and take them from the next peer for that
# long: 3x3 8x14x14x256 took jaxconv 9.7 ms in that time, 7.5 after it.
SETTLING = 0.05  # seconds


def interleaved(
    calls: Mapping[str, Callable[[], object]], seconds: float, blocks: int = BLOCKS
) -> dict[str, list[float]]:
    """The seconds of every kept run of each call; about ``seconds`` are spent on each.

    The calls must block until their result is available, and have been called before.
    """
    return timing.interleaved(calls, seconds, blocks, SETTLING)


def geometric_mean(values: list[float]) -> float:
    return statistics.geometric_mean(values) if values else float("nan")
