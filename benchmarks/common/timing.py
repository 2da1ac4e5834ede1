"""Times peers in alternating blocks, and means of the ratios between their times."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from jaxconv._src.analysis import timing
from jaxconv._src.analysis.timing import median_ms as median_ms

# PyTorch's threads spin for a while after a call, which slows the next peer down by up to 30 %: see
# docs/design/measurements.md.
SETTLING_SECONDS = 0.05


def interleaved(
    calls: Mapping[str, Callable[[], object]], seconds: float, blocks: int = timing.BLOCKS
) -> dict[str, list[float]]:
    """The package's timer, which drops the runs of each block's first ``SETTLING_SECONDS``."""
    return timing.interleaved(calls, seconds, blocks, settling=SETTLING_SECONDS)


def geometric_mean(values: list[float]) -> float:
    return statistics.geometric_mean(values) if values else float("nan")
