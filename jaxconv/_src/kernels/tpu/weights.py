"""The kernel in VMEM: unpacked to float32, or written from the sums of a filter gradient.

With channels on lanes, a weight is a row that all pixels of a register share. With channels on
sublanes, it is a register that has each channel's weight in all lanes.
"""

from __future__ import annotations

import functools
import itertools

import jax.numpy as jnp
from jax.experimental import pallas as pl

from .job import Job, each
from .tiling import LANES, SUBLANES

# Rows unpacked or written, and registers set to zero, in one straight line of code.
MAX_ROWS = 16
MAX_ZEROED_REGISTERS = 56


def unpack(job: Job, kernel, weights) -> None:
    """Unpacks the kernel from rows of taps ``[taps/row, row, features]``."""
    rows, size, features = kernel.shape

    def turned(first, n):
        for i, m in itertools.product(range(n), range(size)):
            values = kernel[first + i, m : m + 1].astype(jnp.float32)
            values = jnp.broadcast_to(values, (LANES, features)).T
            weights[0, (first + i) * size + m, :features] = values

    def straight(first, n):
        for i, lane_tile in itertools.product(range(n), job.lane_tiles):
            values = kernel[first + i, :, job.lanes(lane_tile)].astype(jnp.float32)
            weights[lane_tile, pl.ds((first + i) * size, size), : job.width(lane_tile)] = values

    each(rows, max(1, MAX_ROWS // size), straight if job.plan.lanes is None else turned)


def weight(job: Job, weights, lane_tile: int, tap, column, width: int):
    """The weight that multiplies ``width`` sublanes from ``column`` on."""
    if job.plan.lanes is not None:
        return weights[0, tap, pl.ds(column, width)]
    return weights[lane_tile, pl.ds(tap, 1)]


def clear(sums) -> None:
    taps, sublanes, _ = sums.shape

    def some(first, n):
        sums[pl.ds(first, n)] = jnp.zeros((n, *sums.shape[1:]), sums.dtype)

    each(taps, max(1, MAX_ZEROED_REGISTERS * SUBLANES // sublanes), some)


def write(job: Job, sums, result) -> None:
    """Writes the filter gradient from ``sums [lane_tiles, taps, sublanes, lanes]``."""
    rows, size, features = result.shape

    def turned(first, n):
        for i in range(n):
            taps = pl.ds((first + i) * size, size)
            totals = functools.reduce(
                jnp.add, [sums[lane_tile, taps] for lane_tile in job.lane_tiles]
            )
            values = [totals[m].T.sum(0, keepdims=True) for m in range(size)]
            values = jnp.concatenate(values)[:, :features]
            result[first + i] = values.astype(result.dtype)

    def straight(first, n):
        for i, lane_tile in itertools.product(range(n), job.lane_tiles):
            values = sums[lane_tile, pl.ds((first + i) * size, size)].sum(1)
            values = values[:, : job.width(lane_tile)].astype(result.dtype)
            result[first + i, :, job.lanes(lane_tile)] = values

    each(rows, max(1, MAX_ROWS // size), straight if job.plan.lanes is None else turned)
