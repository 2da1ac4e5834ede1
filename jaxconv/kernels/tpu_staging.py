"""The window of the source under a block, staged in float32 amid zeros.

There a tap is a load at another offset: a register of 8 pixels by 128 channels may start at any
pixel. In bfloat16 two pixels share a sublane, so that loads could not start anywhere.

With a multiplier M, feature ``f`` has channel ``f // M``, and every tile of 128 features is staged
with its channels spread over it.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from ..spec import Operator
from .tpu_job import Job, each3, first_image
from .tpu_tiling import LANES, SUBLANES

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
            for tile, values in _spread(
                job, source.at[i, j, k + n, columns], staged.at[0, *place, to]
            ):
                staged[tile, *place, to, : values.shape[-1]] = values

    high = max(1, side.stored // SUBLANES) * len(job.tiles)
    each3([w.extent for w in job.leading], max(1, STAGED // high), rows)


def zero(rows, start, size) -> None:
    rows[pl.ds(start, size)] = jnp.zeros((size, *rows.shape[1:]), rows.dtype)


def _spread(job: Job, pixels, room):
    """The pixels of a row for every tile of features, in float32."""
    if job.operator is Operator.INPUT_GRAD:
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
