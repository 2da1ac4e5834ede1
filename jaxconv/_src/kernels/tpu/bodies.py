"""The bodies of the Mosaic-TPU kernels, for one block of a depthwise convolution.

Once a block's window of the source is staged, a tap costs a load, one multiplication and one
addition. Sums stay in registers, in float32; a filter gradient's, while a block is read.
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

from . import weights
from .blocks import UNROLLED
from .job import Job, each, each3, fold, row_of
from .staging import stage, take
from .tiling import LANES, SUBLANES, Taps, round_up

# A filter gradient keeps the sums of as many taps in registers as a generation allows: with 25, 5x5
# 8x7x7x960 spilled on v5e. And it adds to half as many by turns, so that one addition need not wait
# for the last.
CHAINS = 2

# Pieces of rows are in one straight line of code only where a piece has all columns, and no more
# products for each register of sums: with two pieces across 3x3 8x56x56x128 spilled, and with 25
# taps 5x5 8x7x7x960.
PRODUCTS = 9

# One straight line of a filter gradient has up to so many times a generation's multiply-accumulates
# where its pieces have all columns and leave none over: what is left over spilled, longer lines did
# not. Of 14 rows of 7x7 8x14x14x384 on v5e, 3 at a time spilled 103 registers and 7 none; of 3x3
# 8x14x14x512 in bfloat16, 2 took 6.9 bundles a register and 7 took 6.6.
STRETCH = 4


def correlate(job: Job, source, kernel, result, staged, weights, *merged) -> None:
    """The convolution and the input gradient."""

    @pl.when(job.first_of_channels)
    def _():
        weights.unpack(job, kernel, weights)

    stage(job, source, staged)
    parts = [tuple(job.tiles)] if job.gathers else [(tile,) for tile in job.tiles]
    leading = job.plan.lines[:3]
    for phases in itertools.product(*[range(line.step) for line in leading]):
        for tiles in parts:

            def rows(*at, phases=phases, tiles=tiles):
                out = _Rows(job, result, tiles, phases, *at)
                _some_rows(job, staged, weights, out, *merged)

            each3(job.counts[:3], job.blocks.rows, rows, _turns(job)[0])


def _turns(job: Job) -> tuple[int, int]:
    """Pieces of rows, and of columns, in one straight line of code."""
    products = job.plan.taps * job.blocks.rows * job.blocks.columns // SUBLANES
    narrow = job.counts[3] <= job.blocks.columns
    alone = not job.gathers or len(job.tiles) == 1
    if products > PRODUCTS * job.chip.sums or not alone:
        return 1, 1
    if job.plan.lanes is not None:
        return 1, job.chip.turns
    return job.chip.turns if narrow else 1, 1


class _Rows(NamedTuple):
    """Pixels ``k … k+size`` of one phase, and where they go in the result."""

    job: Job
    result: Any
    tiles: tuple[int, ...]
    phases: tuple[int, ...]
    i: Any
    j: Any
    k: Any
    size: int

    def write(self, n: int, column, values) -> None:
        """The ``n``th pixel, from ``column`` on."""
        lines = zip((self.i, self.j, self.k + n), self.job.plan.lines, self.phases, strict=False)
        i, j, k = (x * line.step + phase for x, line, phase in lines)
        width, lanes = self.job.channels, pl.ds(0, self.job.channels)
        if not self.job.gathers:
            width, lanes = self.job.width(self.tiles[0]), self.job.lanes(self.tiles[0])
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
                _sums(job, staged, weights, tile, (*out.phases, phase), at, out.size, width)
                for tile in out.tiles
            ]
            for n, values in enumerate(_gathered(job, sums)):
                if sublane.step == 1:
                    out.write(n, column, values[:count])
                else:
                    to = pl.ds(column * sublane.step + phase, width, stride=sublane.step)
                    merged[0][n, to] = values

    each(job.side.pixels, job.blocks.columns, columns, _turns(job)[1])
    if sublane.step > 1:
        for n in range(out.size):
            out.write(n, 0, merged[0][n, : job.blocks.tile[3]])


def _sums(job: Job, staged, weights, tile: int, phases, at, size: int, width: int) -> list:
    """The sums over all taps, of ``size`` pixels of the last leading axis, each ``width`` long."""
    lines = job.plan.lines
    taps = [line.phases[r] for line, r in zip(lines, phases, strict=True)]
    counts = [t.number for t in taps]
    sums = [jnp.zeros((width, LANES), jnp.float32)] * size
    if not all(counts):
        return sums
    unrolled = UNROLLED * job.chip.sums * SUBLANES // (size * width * job.phases)
    level = 3
    while level and math.prod(counts[level - 1 :]) <= unrolled:
        level -= 1
    origin = _origin(job, at)

    def add(fixed, sums):
        """The taps whose first indices are ``fixed``. Pixels share the rows of the source that
        they read; the sublane axis is outermost, so that few weights are in registers at a time."""
        sums = list(sums)
        for rest in itertools.product(*[range(n) for n in counts[level:2]]):
            i, j = (*fixed, *rest)[:2]
            third = range(counts[2]) if level < 3 else (fixed[2],)
            rows = _shared_rows(size, lines[2].stride, taps[2].offset_step, len(third))
            for s, (row, users) in itertools.product(range(counts[3]), rows):
                us = (i, j, third[0], s)
                place = [b + t.at(u) for b, t, u in zip(origin, taps, us, strict=True)]
                place[2] += row
                x = staged[tile, *place[:3], _ds(place[3], width, lines[3].stride)]
                for n, v in users:
                    index = _tap(job, taps, (i, j, third[v], s))
                    sums[n] += x * weights.weight(job, weights, tile, index, at[3], width)
        return sums

    if level == 0:
        return add((), sums)
    loop = counts[:level]
    return lax.fori_loop(0, math.prod(loop), lambda t, sums: add(_unflattened(t, loop), sums), sums)


def _shared_rows(size: int, stride: int, step: int, taps: int):
    """Every row of the source that ``size`` pixels read, with the pixels and taps that meet it."""
    rows: dict[int, list[tuple[int, int]]] = {}
    for n, v in itertools.product(range(size), range(taps)):
        rows.setdefault(n * stride + v * step, []).append((n, v))
    return list(rows.items())


def filters(job: Job, source, cotangent, result, staged, sums) -> None:
    """The filter gradient: sums of every tap in each of the 8 sublanes, over all blocks."""
    steps = [pl.program_id(axis) for axis in range(1, 6)]
    last = [pl.num_programs(axis) - 1 for axis in range(1, 6)]

    @pl.when(sum(steps) == 0)
    def _():
        for tile in job.tiles:
            weights.clear(sums.at[tile])

    stage(job, source, staged)
    for tile in job.tiles:
        _filter_sums(job, tile, cotangent, staged, sums)

    @pl.when(sum(steps) == sum(last))
    def _():
        weights.write(job, sums, result)


def _filter_sums(job: Job, tile: int, cotangent, staged, sums) -> None:
    """Some taps at a time, whose sums stay in registers while a block is read."""
    counts = [line.kernel for line in job.plan.lines]
    level = 3
    while level and math.prod(counts[level - 1 :]) <= job.chip.sums:
        level -= 1
    together = list(itertools.product(*[range(n) for n in counts[level:]]))
    for first in range(0, len(together), job.chip.sums):

        def group(t, _, some=together[first : first + job.chip.sums]):
            fixed = _unflattened(t, counts[:level])
            _some_filter_sums(
                job, tile, [(*fixed, *rest) for rest in some], cotangent, staged, sums
            )

        each(math.prod(counts[:level]), 1, group)


def _some_filter_sums(job: Job, tile: int, us, cotangent, staged, sums) -> None:
    """The sums of the taps ``us``."""
    lines, lanes = job.plan.lines, job.width(tile)
    taps = [line.phases[0] for line in lines]
    columns, number = job.blocks.columns, job.counts[3]
    if job.plan.lanes is not None:
        columns = number = SUBLANES
    # Two pieces of columns are straight-line code too.
    across = min(round_up(number, SUBLANES), 2 * columns)
    room = max(1, job.chip.filters * SUBLANES // (len(us) * across))
    size = max(n for n in range(1, min(room, job.blocks.rows) + 1) if job.blocks.rows % n == 0)
    # With half of each register unused, 5x5 s2 4x35x35x72 spilled.
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
            g = cotangent[*pixels, job.lanes(tile)]
            origin = _origin(job, (i, j, k + n, column + start))
            for t, u in enumerate(us):
                *row, at = [b + tap.at(v) for b, tap, v in zip(origin, taps, u, strict=True)]
                x = staged[tile, *row, _ds(at, valid, lines[3].stride), :lanes]
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
            sums[tile, tap, to, :lanes] += sum(totals[t :: len(us)])

    if job.plan.lanes is None:
        add(0, job.counts[3], slice(None))
    else:  # every channel has sums of its own
        each(job.counts[3], SUBLANES, lambda c, n: add(c, n, pl.ds(c, SUBLANES)))


def _filter_turns(job: Job, size: int, most: int, whole: bool) -> int:
    """Pieces in one straight line of code: ``most``, or more that leave none over, if ``whole``."""
    pieces = job.counts[2] // size if job.counts[2] > size else job.counts[1]
    longer = range(most + 1, min(STRETCH * most, pieces // 2) + 1) if whole else ()
    return max([most, *[n for n in longer if pieces % n == 0]])


def _fold_pixels(job: Job, size: int, across, turns: int, body: Callable, carry):
    """``across``: the first column, their number, and how many are taken at a time."""
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
    """The sums of one tile; in an input gradient, of all features of each channel."""
    multiplier = job.plan.multiplier
    if multiplier == 1 or not job.gathers:
        return sums[0]
    lane = lax.broadcasted_iota(jnp.int32, sums[0][0].shape, 1)
    totals = [jnp.zeros_like(values) for values in sums[0]]
    for m in range(multiplier):
        feature = lane * multiplier + m
        for tile, values in zip(job.tiles, sums, strict=True):
            here = feature // LANES == tile
            for n, value in enumerate(values):
                totals[n] += jnp.where(here, take(value, feature % LANES), 0.0)
    return totals


def _origin(job: Job, at) -> list:
    """Where an offset of 0 from the pixel ``at`` of a phase lies in the staged source."""
    lines = job.plan.lines
    margins = [*[w.margin for w in job.leading], 0]
    return [x * line.stride + m - line.low for x, line, m in zip(at, lines, margins, strict=True)]


def _tap(job: Job, taps: list[Taps], us):
    """Which of all taps of the kernel the taps ``us`` of a phase are."""
    steps = zip(job.plan.tap_steps, taps, us, strict=True)
    return sum(step * (t.tap + t.tap_step * u) for step, t, u in steps)


def _ds(start, size: int, stride: int):
    return pl.ds(start, size) if stride == 1 else pl.ds(start, size, stride=stride)


def _unflattened(t, extents) -> tuple:
    """The indices of the ``t``th of all points, the last fastest."""
    indices = []
    for extent in reversed(extents):
        indices.append(lax.rem(t, extent) if not isinstance(t, int) else t % extent)
        t = lax.div(t, extent) if not isinstance(t, int) else t // extent
    return tuple(reversed(indices))
