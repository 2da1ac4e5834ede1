"""The bodies of the Mosaic-TPU kernels, for one tile of a depthwise convolution.

Once the window of the source is staged, each tap costs a load, a multiplication and an addition.
Sums are kept in registers, in float32; those of a filter gradient, while one tile is read.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from .job import Job, each, each3, fold, row_of
from .staging import stage, take
from .tile_config import MAX_UNROLLED_PRODUCTS
from .tiling import LANES, SUBLANES, Taps, round_up
from .weights import clear, unpack, weight, write

# The measurements behind these constants are in docs/design/measurements.md.

# If there are registers for it, a filter gradient has this many sums per tap and adds to them in
# turn, so that one addition need not wait for the previous one.
CHAINS = 2

# Several pieces of rows are in one straight line of code only if each has all columns and at most
# this many products per register of sums. With 25 taps v5e spilled registers.
MAX_PRODUCTS_PER_SUM = 9

# One straight line of a filter gradient may have this many times the generation's
# multiply-accumulates if its pieces have all columns and divide the rows evenly: on v5e a remainder
# spilled 103 registers, longer lines none.
MAX_STRETCH = 4


def correlate(job: Job, source, kernel, result, staged, weights, *merged) -> None:
    """The convolution and the input gradient."""

    @pl.when(job.first_of_channels)
    def _():
        unpack(job, kernel, weights)

    stage(job, source, staged)
    parts = [tuple(job.lane_tiles)] if job.gathers else [(one,) for one in job.lane_tiles]
    leading = job.plan.lines[:3]
    for phases in itertools.product(*[range(line.step) for line in leading]):
        for lane_tiles in parts:

            def rows(*at, phases=phases, lane_tiles=lane_tiles):
                out = _Rows(job, result, lane_tiles, phases, *at)
                _some_rows(job, staged, weights, out, *merged)

            each3(job.counts[:3], job.tile.rows, rows, _turns(job)[0])


def _turns(job: Job) -> tuple[int, int]:
    """The pieces of rows, and of columns, in one straight line of code."""
    products = job.plan.taps * job.tile.rows * job.tile.columns // SUBLANES
    narrow = job.counts[3] <= job.tile.columns
    one_part = not job.gathers or len(job.lane_tiles) == 1
    if products > MAX_PRODUCTS_PER_SUM * job.chip.sums or not one_part:
        return 1, 1
    if job.plan.lanes is not None:
        return 1, job.chip.turns
    return job.chip.turns if narrow else 1, 1


class _Rows(NamedTuple):
    """Pixels ``k … k+size`` of one phase, and where to write them in the result."""

    job: Job
    result: Any
    lane_tiles: tuple[int, ...]
    phases: tuple[int, ...]
    i: Any
    j: Any
    k: Any
    size: int

    def write(self, n: int, column, values) -> None:
        """Writes pixel number ``n``, from ``column`` on."""
        lines = zip((self.i, self.j, self.k + n), self.job.plan.lines, self.phases, strict=False)
        i, j, k = (x * line.step + phase for x, line, phase in lines)
        width, lanes = self.job.channels, pl.ds(0, self.job.channels)
        if not self.job.gathers:
            width, lanes = self.job.width(self.lane_tiles[0]), self.job.lanes(self.lane_tiles[0])
        values = values[:, :width].astype(self.result.dtype)
        to = row_of(self.result, i, j, k, pl.ds(column, values.shape[0]))
        self.result[*to, lanes] = values


def _some_rows(job: Job, staged, weights, out: _Rows, *merged) -> None:
    sublane = job.plan.lines[3]

    def columns(column, count):
        width = round_up(count, SUBLANES)
        for phase in range(sublane.step):
            at = (out.i, out.j, out.k, column)
            sums = [
                _sums(job, staged, weights, lane_tile, (*out.phases, phase), at, out.size, width)
                for lane_tile in out.lane_tiles
            ]
            for n, values in enumerate(_gathered(job, sums)):
                if sublane.step == 1:
                    out.write(n, column, values[:count])
                else:
                    to = pl.ds(column * sublane.step + phase, width, stride=sublane.step)
                    merged[0][n, to] = values

    each(job.side.pixels, job.tile.columns, columns, _turns(job)[1])
    if sublane.step > 1:
        for n in range(out.size):
            out.write(n, 0, merged[0][n, : job.tile.extents[3]])


def _sums(job: Job, staged, weights, lane_tile: int, phases, at, size: int, width: int) -> list:
    """The sums over all taps, for ``size`` pixels of the last leading axis, ``width`` long each."""
    lines = job.plan.lines
    taps = [line.phases[r] for line, r in zip(lines, phases, strict=True)]
    counts = [t.number for t in taps]
    sums = [jnp.zeros((width, LANES), jnp.float32)] * size
    if not all(counts):
        return sums
    unrolled = MAX_UNROLLED_PRODUCTS * job.chip.sums * SUBLANES // (size * width * job.phases)
    level = 3
    while level and math.prod(counts[level - 1 :]) <= unrolled:
        level -= 1
    origin = _origin(job, at)

    def add(fixed, sums):
        """Adds the taps whose first indices are ``fixed``.

        Pixels share the rows of the source that they read. The sublane axis is outermost, so
        that few weights are in registers at a time.
        """
        sums = list(sums)
        for rest in itertools.product(*[range(n) for n in counts[level:2]]):
            i, j = (*fixed, *rest)[:2]
            third = range(counts[2]) if level < 3 else (fixed[2],)
            rows = _shared_rows(size, lines[2].stride, taps[2].offset_step, len(third))
            for s, (row, users) in itertools.product(range(counts[3]), rows):
                us = (i, j, third[0], s)
                place = [b + t.at(u) for b, t, u in zip(origin, taps, us, strict=True)]
                place[2] += row
                x = staged[lane_tile, *place[:3], _ds(place[3], width, lines[3].stride)]
                for n, v in users:
                    index = _tap(job, taps, (i, j, third[v], s))
                    sums[n] += x * weight(job, weights, lane_tile, index, at[3], width)
        return sums

    if level == 0:
        return add((), sums)
    loop = counts[:level]
    return lax.fori_loop(0, math.prod(loop), lambda t, sums: add(_unflattened(t, loop), sums), sums)


def _shared_rows(size: int, stride: int, step: int, taps: int):
    """The rows of the source that ``size`` pixels read, each with its pixels and taps."""
    rows: dict[int, list[tuple[int, int]]] = {}
    for n, v in itertools.product(range(size), range(taps)):
        rows.setdefault(n * stride + v * step, []).append((n, v))
    return list(rows.items())


def filters(job: Job, source, cotangent, result, staged, sums) -> None:
    """The filter gradient: for every tap a sum in each of the 8 sublanes, over all tiles."""
    steps = [pl.program_id(axis) for axis in range(1, 6)]
    last = [pl.num_programs(axis) - 1 for axis in range(1, 6)]

    @pl.when(sum(steps) == 0)
    def _():
        for lane_tile in job.lane_tiles:
            clear(sums.at[lane_tile])

    stage(job, source, staged)
    for lane_tile in job.lane_tiles:
        _filter_sums(job, lane_tile, cotangent, staged, sums)

    @pl.when(sum(steps) == sum(last))
    def _():
        write(job, sums, result)


def _filter_sums(job: Job, lane_tile: int, cotangent, staged, sums) -> None:
    """Sums some taps at a time, in registers, while the tile is read."""
    counts = [line.kernel for line in job.plan.lines]
    level = 3
    while level and math.prod(counts[level - 1 :]) <= job.chip.sums:
        level -= 1
    together = list(itertools.product(*[range(n) for n in counts[level:]]))
    for first in range(0, len(together), job.chip.sums):

        def group(t, _, some=together[first : first + job.chip.sums]):
            fixed = _unflattened(t, counts[:level])
            _some_filter_sums(
                job, lane_tile, [(*fixed, *rest) for rest in some], cotangent, staged, sums
            )

        each(math.prod(counts[:level]), 1, group)


def _some_filter_sums(job: Job, lane_tile: int, us, cotangent, staged, sums) -> None:
    """Adds to the sums of the taps ``us``."""
    lines, lanes = job.plan.lines, job.width(lane_tile)
    taps = [line.phases[0] for line in lines]
    columns, number = job.tile.columns, job.counts[3]
    if job.plan.lanes is not None:
        columns = number = SUBLANES
    # Two pieces of columns are in one straight line too.
    across = min(round_up(number, SUBLANES), 2 * columns)
    room = max(1, job.chip.filters * SUBLANES // (len(us) * across))
    size = max(n for n in range(1, min(room, job.tile.rows) + 1) if job.tile.rows % n == 0)
    # With half of each register unused, v5e spilled registers.
    turns = 1
    if number >= SUBLANES:
        turns = _filter_turns(job, size, room // size, number <= columns)
    copies = max(1, job.chip.sums // CHAINS // len(us))

    def products(i, j, k, size, column, count, carry):
        carry = list(carry)
        for n, start in itertools.product(range(size), range(0, count, SUBLANES)):
            chain = len(us) * ((n * count + start) // SUBLANES % copies)
            valid = min(SUBLANES, count - start)
            pixels = row_of(cotangent, i, j, k + n, pl.ds(column + start, valid))
            g = cotangent[*pixels, job.lanes(lane_tile)]
            origin = _origin(job, (i, j, k + n, column + start))
            for t, u in enumerate(us):
                *row, at = [b + tap.at(v) for b, tap, v in zip(origin, taps, u, strict=True)]
                x = staged[lane_tile, *row, _ds(at, valid, lines[3].stride), :lanes]
                product = x * g.astype(jnp.float32)
                if valid < SUBLANES:
                    product = jnp.pad(product, ((0, SUBLANES - valid), (0, 0)))
                carry[chain + t] += product
        return carry

    def add(first, count, to) -> None:
        zeros = [jnp.zeros((SUBLANES, lanes), jnp.float32)] * (len(us) * copies)
        across = (first, count, columns)
        totals = _fold_pixels(job, size, across, turns, products, zeros)
        for t, u in enumerate(us):
            tap = _tap(job, taps, u)
            sums[lane_tile, tap, to, :lanes] += sum(totals[t :: len(us)])

    if job.plan.lanes is None:
        add(0, job.counts[3], slice(None))
    else:  # every channel has its own sums
        each(job.counts[3], SUBLANES, lambda c, n: add(c, n, pl.ds(c, SUBLANES)))


def _filter_turns(job: Job, size: int, usual: int, whole: bool) -> int:
    """Pieces in one straight line: ``usual``, or if ``whole`` more that divide them evenly."""
    pieces = job.counts[2] // size if job.counts[2] > size else job.counts[1]
    longer = range(usual + 1, min(MAX_STRETCH * usual, pieces // 2) + 1) if whole else ()
    return max([usual, *[n for n in longer if pieces % n == 0]])


def _fold_pixels(job: Job, size: int, across, turns: int, body: Callable, carry):
    """Folds ``body`` over all pixels of the tile.

    ``across`` is the first column, the number of columns, and how many are processed at a time.
    """
    counts = job.counts
    first, number, columns = across
    inner, outer = (turns, 1) if counts[2] > size else (1, turns)

    def i_step(i, _, carry):
        return fold(counts[1], 1, functools.partial(j_step, i), carry, outer)

    def j_step(i, j, _, carry):
        return fold(counts[2], size, functools.partial(k_step, i, j), carry, inner)

    def k_step(i, j, k, n, carry):
        def some(column, count, carry):
            return body(i, j, k, n, first + column, count, carry)

        return fold(number, columns, some, carry)

    return fold(counts[0], 1, i_step, carry)


def _gathered(job: Job, sums: list[list]) -> list:
    """The sums of one lane tile; in an input gradient, added up over each channel's features."""
    multiplier = job.plan.multiplier
    if multiplier == 1 or not job.gathers:
        return sums[0]
    lane = lax.broadcasted_iota(jnp.int32, sums[0][0].shape, 1)
    totals = [jnp.zeros_like(values) for values in sums[0]]
    for m in range(multiplier):
        feature = lane * multiplier + m
        for lane_tile, values in zip(job.lane_tiles, sums, strict=True):
            here = feature // LANES == lane_tile
            for n, value in enumerate(values):
                totals[n] += jnp.where(here, take(value, feature % LANES), 0.0)
    return totals


def _origin(job: Job, at) -> list:
    """The position in the staged source at offset 0 from pixel ``at`` of a phase."""
    lines = job.plan.lines
    margins = [*[w.margin for w in job.leading], 0]
    return [x * line.stride + m - line.low for x, line, m in zip(at, lines, margins, strict=True)]


def _tap(job: Job, taps: list[Taps], us):
    """The index, among all taps of the kernel, of tap ``us`` of a phase."""
    steps = zip(job.plan.tap_steps, taps, us, strict=True)
    return sum(step * (t.tap + t.tap_step * u) for step, t, u in steps)


def _ds(start, size: int, stride: int):
    return pl.ds(start, size) if stride == 1 else pl.ds(start, size, stride=stride)


def _unflattened(t, extents) -> tuple:
    """The indices of point number ``t``, the last axis fastest."""
    indices = []
    for extent in reversed(extents):
        indices.append(lax.rem(t, extent) if not isinstance(t, int) else t % extent)
        t = lax.div(t, extent) if not isinstance(t, int) else t // extent
    return tuple(reversed(indices))
