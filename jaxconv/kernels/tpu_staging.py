"""The window of the source under a block, staged in float32 amid zeros.

There a tap is a load at another offset: a register of 8 pixels by 128 channels may start at any
pixel. In bfloat16 two pixels share a sublane, so that loads could not start anywhere.

Lanes are shifted here too: where they hold pixels, there is a plane for every tap along them.

With a multiplier M, feature ``f`` has channel ``f // M``, and every tile of 128 features is staged
with its channels spread over it.
"""

from __future__ import annotations

import itertools

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from .tpu_job import Job, each3, first_image, row_of
from .tpu_tiling import LANES, SUBLANES, Line

# Registers staged, or set to zero, in one straight line of code.
STAGED = 56


def stage(job: Job, source, staged) -> None:
    places = [w.place(pl.program_id(1 + axis), jnp.clip) for axis, w in enumerate(job.leading)]
    side = job.side

    @pl.when(first_image(0) if job.zeros_once else first_image())
    def _():
        rows = max(1, STAGED * SUBLANES // (staged.shape[4] * len(job.tiles)))

        def some(i, j, k, n):
            for tile in job.tiles:
                zero(staged.at[tile, i, j], k, n)

        each3(staged.shape[1:4], rows, some)

    if side.stored <= 0:
        return
    columns = pl.ds(side.first, side.stored)
    to = pl.ds(side.at, side.stored)

    def rows(i, j, k, size):
        for n in range(size):
            place = [p + x for p, x in zip(places, (i, j, k + n), strict=True)]
            pixels = source.at[row_of(source, i, j, k + n, columns)]
            for tile, plane, at, values in _staged(job, pixels, staged.at[0, *place, to]):
                there = (place[0], place[1] + plane, place[2], to, pl.ds(at, values.shape[-1]))
                staged[tile, *there] = values

    high = max(1, side.stored // SUBLANES) * len(job.tiles)
    each3([w.extent for w in job.leading], max(1, STAGED // high), rows)


def zero(rows, start, size) -> None:
    rows[pl.ds(start, size)] = jnp.zeros((size, *rows.shape[1:]), rows.dtype)


def _staged(job: Job, pixels, room):
    """A row of pixels in float32, for every tile of features and every plane of shifted lanes; and
    the lane where it starts."""
    if job.plan.lanes is None:
        return [(tile, 0, 0, values) for tile, values in _spread(job, pixels, room)]
    return _shifted(job, pixels[...].astype(jnp.float32), job.plan.lanes)


def _shifted(job: Job, values, line: Line):
    for tile, tap in itertools.product(job.tiles, range(line.kernel)):
        at = tile * LANES + line.phases[0].at(tap)
        first, last = max(at, 0), min(at + job.width(tile), line.source)
        if first < last:
            yield tile, tap, first - at, values[:, first:last]


def _spread(job: Job, pixels, room):
    """A row of pixels for every tile of features."""
    if job.gathers:
        return [(t, pixels[:, job.lanes(t)].astype(jnp.float32)) for t in job.tiles]
    values = pixels[...].astype(jnp.float32)
    if job.plan.multiplier == 1:
        return [(0, values)]
    if values.shape[-1] < LANES:
        room[:, : values.shape[-1]] = values
        values = room[...]
    lane = lax.broadcasted_iota(jnp.int32, values.shape, 1)
    channels = [(t * LANES + lane) // job.plan.multiplier for t in job.tiles]
    return [(t, take(values, channel)) for t, channel in zip(job.tiles, channels, strict=True)]


def take(values, lanes):
    return jnp.take_along_axis(values, lanes, axis=1, mode="promise_in_bounds")
