"""Staging: copies the window of the source under a tile to float32 scratch, surrounded by zeros.

From there each tap is a load at another offset: a register of 8 pixels by 128 channels may start at
any pixel, which it could not in bfloat16, where two pixels share a sublane.

If lanes hold pixels, they are shifted here too: there is a plane for every tap along them.

With a multiplier M, feature ``f`` reads channel ``f // M``, and for every lane tile of 128 features
the channels are repeated accordingly.
"""

from __future__ import annotations

import itertools
import math

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from .job import Job, each3, first_image, row_of
from .tile_config import grid_of
from .tiling import LANES, SUBLANES, Line

# Registers staged, or set to zero, in one straight line of code.
MAX_STAGED_REGISTERS = 56


def stage(job: Job, source, staged) -> None:
    places = [w.place(pl.program_id(1 + axis), jnp.clip) for axis, w in enumerate(job.leading)]
    side = job.side

    fixed, moving = _borders(job, staged.shape[1:5])

    @pl.when(job.first_step)
    def _():
        for box in (*fixed, *moving):
            _zero(job, staged, *box)

    if not job.whole_axes and job.one_core:

        @pl.when(first_image())
        def _():
            for box in moving:
                _zero(job, staged, *box)

    if side.stored <= 0:
        return
    columns = pl.ds(side.first, side.stored)
    to = pl.ds(side.at, side.stored)

    def rows(i, j, k, size):
        for n in range(size):
            place = [p + x for p, x in zip(places, (i, j, k + n), strict=True)]
            pixels = source.at[row_of(source, i, j, k + n, columns)]
            for lane_tile, plane, at, values in _staged(job, pixels, staged.at[0, *place, to]):
                there = (place[0], place[1] + plane, place[2], to, pl.ds(at, values.shape[-1]))
                staged[lane_tile, *there] = values

    extents = [w.extent for w in job.leading]
    size, turns = _straight(extents[2], side.stored * len(job.lane_tiles))
    each3(extents, size, rows, turns)


def _straight(rows: int, sublanes: int) -> tuple[int, int]:
    """How many of ``rows``, and how many times these, are in one straight line of code."""
    high = max(1, MAX_STAGED_REGISTERS * SUBLANES // max(sublanes, SUBLANES))
    return high, max(1, high // rows)


def _borders(job: Job, whole) -> tuple[list, list]:
    """The boxes of the staged source, as starts and extents, that some window does not cover.

    The first list is the same for all tiles, the second depends on the position of the tile.
    """
    planes = job.plan.lanes is not None  # all are written, each with other lanes outside
    fixed = [((0, 0, 0, start), (*whole[:3], extent)) for start, extent in job.side.outside]
    if planes:
        fixed = [((0, 0, 0, 0), tuple(whole))]
    moving = []
    grid = grid_of(job.plan, job.tile)[1:4]
    for axis, (w, tiles) in enumerate(zip(job.leading, grid, strict=True)):
        for start, extent in w.outside(tiles) if not (planes and axis == 1) else ():
            starts, extents = [0] * 4, list(whole)
            starts[axis], extents[axis] = start, extent
            moving.append((tuple(starts), tuple(extents)))
    if sum(math.prod(extents) for _, extents in moving) > math.prod(whole):
        moving = [((0, 0, 0, 0), tuple(whole))]
    return fixed, moving


def _zero(job: Job, staged, starts, extents) -> None:
    columns = pl.ds(starts[3], extents[3])

    def some(i, j, k, n):
        for lane_tile in job.lane_tiles:
            rows = pl.ds(starts[2] + k, n)
            shape = (n, extents[3], LANES)
            staged[lane_tile, starts[0] + i, starts[1] + j, rows, columns] = jnp.zeros(
                shape, staged.dtype
            )

    size, turns = _straight(extents[2], extents[3] * len(job.lane_tiles))
    each3(extents[:3], size, some, turns)


def _staged(job: Job, pixels, room):
    """A row of pixels in float32 per lane tile and plane, with the lane at which it starts."""
    if job.plan.lanes is None:
        return [(lane_tile, 0, 0, values) for lane_tile, values in _spread(job, pixels, room)]
    return _shifted(job, pixels[...].astype(jnp.float32), job.plan.lanes)


def _shifted(job: Job, values, line: Line):
    for lane_tile, tap in itertools.product(job.lane_tiles, range(line.kernel)):
        at = lane_tile * LANES + line.phases[0].at(tap)
        first, last = max(at, 0), min(at + job.width(lane_tile), line.source)
        if first < last:
            yield lane_tile, tap, first - at, values[:, first:last]


def _spread(job: Job, pixels, room):
    """A row of pixels for every lane tile of features."""
    if job.gathers:
        return [(t, pixels[:, job.lanes(t)].astype(jnp.float32)) for t in job.lane_tiles]
    values = pixels[...].astype(jnp.float32)
    if job.plan.multiplier == 1:
        return [(0, values)]
    if values.shape[-1] < LANES:
        room[:, : values.shape[-1]] = values
        values = room[...]
    lane = lax.broadcasted_iota(jnp.int32, values.shape, 1)
    channels = [(t * LANES + lane) // job.plan.multiplier for t in job.lane_tiles]
    return [(t, take(values, channel)) for t, channel in zip(job.lane_tiles, channels, strict=True)]


def take(values, lanes):
    return jnp.take_along_axis(values, lanes, axis=1, mode="promise_in_bounds")
