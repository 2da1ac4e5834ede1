"""The kernel in VMEM: unpacked to float32 for its products, or summed up from them.

Where channels are on lanes, a weight is a row that every pixel of a register shares. Where they are
on sublanes, it is a register that holds each channel's weight in all of its lanes.
"""

from __future__ import annotations

import functools
import itertools

import jax.numpy as jnp
from jax.experimental import pallas as pl

from .job import Job, each
from .tiling import LANES, SUBLANES

# Rows unpacked, or written, in one straight line of code.
ROWS = 16

# Registers set to zero so.
ZEROS = 56


def unpack(job: Job, kernel, weights) -> None:
    """From rows of taps ``[taps/row, row, features]``."""
    rows, size, features = kernel.shape

    def turned(first, n):
        for i, m in itertools.product(range(n), range(size)):
            values = kernel[first + i, m : m + 1].astype(jnp.float32)
            values = jnp.broadcast_to(values, (LANES, features)).T
            weights[0, (first + i) * size + m, :features] = values

    def straight(first, n):
        for i, tile in itertools.product(range(n), job.tiles):
            values = kernel[first + i, :, job.lanes(tile)].astype(jnp.float32)
            weights[tile, pl.ds((first + i) * size, size), : job.width(tile)] = values

    each(rows, max(1, ROWS // size), straight if job.plan.lanes is None else turned)


def weight(job: Job, weights, tile: int, tap, column, width: int):
    """What multiplies ``width`` sublanes from ``column`` on."""
    if job.plan.lanes is not None:
        return weights[0, tap, pl.ds(column, width)]
    return weights[tile, pl.ds(tap, 1)]


def clear(sums) -> None:
    taps, sublanes, _ = sums.shape

    def some(first, n):
        sums[pl.ds(first, n)] = jnp.zeros((n, *sums.shape[1:]), sums.dtype)

    each(taps, max(1, ZEROS * SUBLANES // sublanes), some)


def write(job: Job, sums, result) -> None:
    """The filter gradient: the sums ``[tiles, taps, sublanes, lanes]`` over all pixels."""
    rows, size, features = result.shape

    def turned(first, n):
        for i in range(n):
            taps = pl.ds((first + i) * size, size)
            totals = functools.reduce(jnp.add, [sums[tile, taps] for tile in job.tiles])
            values = [totals[m].T.sum(0, keepdims=True) for m in range(size)]
            values = jnp.concatenate(values)[:, :features]
            result[first + i] = values.astype(result.dtype)

    def straight(first, n):
        for i, tile in itertools.product(range(n), job.tiles):
            values = sums[tile, pl.ds((first + i) * size, size)].sum(1)
            values = values[:, : job.width(tile)].astype(result.dtype)
            result[first + i, :, job.lanes(tile)] = values

    each(rows, max(1, ROWS // size), straight if job.plan.lanes is None else turned)
