"""The bodies of the Mosaic-TPU kernels, for one block of a depthwise convolution.

The window of the source under a block is staged in float32 amid zeros, one copy for every tile of
128 features. There a tap is a load at another offset, since a register of 8 pixels by 128 channels
may start at any pixel, and costs one multiplication and one addition. bfloat16 packs two pixels
into a sublane, so its loads could not start anywhere.

With a multiplier M, feature ``f`` has channel ``f // M``: channels are spread over features as they
are staged, and the input gradient gathers the sums of features into channels.
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

from ..spec import Operator
from .tpu_blocks import UNROLLED, lanes_of, windows_of
from .tpu_tiling import LANES, SUBLANES, Across, Blocks, Plan, Taps, Window, round_up

# Multiply-accumulates of registers in one straight line of a filter gradient's code.
FILTERS = 256

# Registers staged, or set to zero, in one straight line of code.
STAGED = 56

# The sums that a filter gradient keeps in registers; and how many it adds to by turns, so that one
# addition need not wait for the last.
SUMS = 16
CHAINS = 8


class Job(NamedTuple):
    """All that is static in one kernel."""

    operator: Operator
    plan: Plan
    blocks: Blocks
    leading: tuple[Window, ...]
    side: Across
    channels: int  # lanes of a block
    features: int
    zeros_once: bool  # the same zeros surround what every grid step stages

    @property
    def tiles(self) -> range:
        return range(-(-self.features // LANES))

    def lanes(self, tile: int):
        """The features of one tile in a block."""
        return pl.ds(tile * LANES, min(LANES, self.features - tile * LANES))

    @property
    def counts(self) -> list[int]:
        """Pixels of each phase in a block, on the four axes."""
        axes = zip(self.blocks.tile, self.plan.lines, strict=True)
        return [-(-extent // line.step) for extent, line in axes]


def job_of(operator: Operator, p: Plan, cut: Blocks, alone: bool) -> Job:
    """``alone`` says that one core walks the whole grid, so that zeros stay from step to step."""
    leading, side = windows_of(p, cut)
    uncut = all(line.result <= t for line, t in zip(p.lines[:3], cut.tile, strict=False))
    return Job(operator, p, cut, tuple(leading), side, *lanes_of(p), alone and uncut)


def correlate(job: Job, source, kernel, result, staged, weights, *merged) -> None:
    """The convolution and the input gradient."""

    @pl.when(_first_image())
    def _():
        for tile in job.tiles:
            lanes = job.lanes(tile)
            weights[tile, :, : lanes.size] = kernel[:, lanes].astype(jnp.float32)

    _stage(job, source, staged)
    gathers = job.operator is Operator.INPUT_GRAD
    parts = [tuple(job.tiles)] if gathers else [(tile,) for tile in job.tiles]
    leading = job.plan.lines[:3]
    for phases in itertools.product(*[range(line.step) for line in leading]):
        for tiles in parts:
            lanes = pl.ds(0, job.channels) if gathers else job.lanes(tiles[0])

            def rows(*at, phases=phases, tiles=tiles, lanes=lanes):
                out = _Rows(job, result, lanes, phases, *at)
                _some_rows(job, staged, weights, tiles, out, *merged)

            _each3(job.counts[:3], job.blocks.rows, rows)


class _Rows(NamedTuple):
    """Pixels ``k … k+size`` of one phase, and where they go in the result."""

    job: Job
    result: Any
    lanes: Any
    phases: tuple[int, ...]
    i: Any
    j: Any
    k: Any
    size: int

    def write(self, n: int, column, values) -> None:
        """The ``n``th pixel, from ``column`` on."""
        lines = zip((self.i, self.j, self.k + n), self.job.plan.lines, self.phases, strict=False)
        at = [x * line.step + phase for x, line, phase in lines]
        values = values[:, : self.lanes.size].astype(self.result.dtype)
        self.result[*at, pl.ds(column, values.shape[0]), self.lanes] = values


def _some_rows(job: Job, staged, weights, tiles, out: _Rows, *merged) -> None:
    sublane = job.plan.lines[3]

    def columns(column, count):
        width = round_up(count, SUBLANES)
        for phase in range(sublane.step):
            at = (out.i, out.j, out.k, column)
            sums = [
                _sums(job, staged, weights, tile, (*out.phases, phase), at, out.size, width)
                for tile in tiles
            ]
            for n, values in enumerate(_gathered(job, sums)):
                if sublane.step == 1:
                    out.write(n, column, values[:count])
                else:
                    to = pl.ds(column * sublane.step + phase, width, stride=sublane.step)
                    merged[0][n, to] = values

    _each(job.side.count, job.blocks.columns, columns)
    if sublane.step > 1:
        for n in range(out.size):
            out.write(n, 0, merged[0][n, : job.blocks.tile[3]])


def _sums(job: Job, staged, weights, tile: int, phases, at, size: int, width: int) -> list:
    """The sums over all taps, of ``size`` pixels of the last leading axis, each ``width`` long."""
    lines = job.plan.lines
    taps = [line.phases[r] for line, r in zip(lines, phases, strict=True)]
    counts = [t.count for t in taps]
    sums = [jnp.zeros((width, LANES), jnp.float32)] * size
    if not all(counts):
        return sums
    unrolled = UNROLLED * SUBLANES // (size * width * _phases(job))
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
                    index = _tap(lines, taps, (i, j, third[v], s))
                    sums[n] += x * weights[tile, pl.ds(index, 1)]
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
            _each(sums.shape[1], STAGED, functools.partial(_zero, sums.at[tile]))

    _stage(job, source, staged)
    for tile in job.tiles:
        _filter_sums(job, tile, cotangent, staged, sums)

    @pl.when(sum(steps) == sum(last))
    def _():
        for tile in job.tiles:
            lanes = job.lanes(tile)

            def taps(t, n, tile=tile, lanes=lanes):
                values = sums[tile, pl.ds(t, n)].sum(1)
                result[pl.ds(t, n), lanes] = values[:, : lanes.size].astype(result.dtype)

            _each(result.shape[0], 2 * SUBLANES, taps)


def _filter_sums(job: Job, tile: int, cotangent, staged, sums) -> None:
    """Some taps at a time, whose sums stay in registers while a block is read."""
    counts = [line.kernel for line in job.plan.lines]
    level = 3
    while level and math.prod(counts[level - 1 :]) <= SUMS:
        level -= 1
    together = list(itertools.product(*[range(n) for n in counts[level:]]))
    for first in range(0, len(together), SUMS):

        def group(t, _, some=together[first : first + SUMS]):
            fixed = _unflattened(t, counts[:level])
            _some_filter_sums(
                job, tile, [(*fixed, *rest) for rest in some], cotangent, staged, sums
            )

        _each(math.prod(counts[:level]), 1, group)


def _some_filter_sums(job: Job, tile: int, us, cotangent, staged, sums) -> None:
    """The sums of the taps ``us``."""
    lines, lanes = job.plan.lines, job.lanes(tile)
    taps = [line.phases[0] for line in lines]
    room = max(1, FILTERS * SUBLANES // (len(us) * job.blocks.columns))
    size = max(n for n in range(1, min(room, job.blocks.rows) + 1) if job.blocks.rows % n == 0)
    copies = max(1, CHAINS // len(us))

    def products(i, j, k, size, column, count, carry):
        carry = list(carry)
        for n, start in itertools.product(range(size), range(0, count, SUBLANES)):
            chain = len(us) * ((n * count + start) // SUBLANES % copies)
            valid = min(SUBLANES, count - start)
            g = cotangent[i, j, k + n, pl.ds(column + start, valid), lanes].astype(jnp.float32)
            origin = _origin(job, (i, j, k + n, column + start))
            for t, u in enumerate(us):
                *row, at = [b + tap.at(v) for b, tap, v in zip(origin, taps, u, strict=True)]
                x = staged[tile, *row, _ds(at, valid, lines[3].stride), : lanes.size]
                product = x * g
                if valid < SUBLANES:
                    product = jnp.pad(product, ((0, SUBLANES - valid), (0, 0)))
                carry[chain + t] += product
        return carry

    zeros = [jnp.zeros((SUBLANES, lanes.size), jnp.float32)] * (len(us) * copies)
    totals = _fold_pixels(job, size, products, zeros)
    for t, u in enumerate(us):
        sums[tile, _tap(lines, taps, u), :, : lanes.size] += sum(totals[t :: len(us)])


def _fold_pixels(job: Job, size: int, body: Callable, carry):
    counts, columns = job.counts, job.blocks.columns

    def i_step(i, _, carry):
        return _fold(counts[1], 1, functools.partial(j_step, i), carry)

    def j_step(i, j, _, carry):
        return _fold(counts[2], size, functools.partial(k_step, i, j), carry)

    def k_step(i, j, k, n, carry):
        return _fold(counts[3], columns, functools.partial(body, i, j, k, n), carry)

    return _fold(counts[0], 1, i_step, carry)


# Staging.


def _stage(job: Job, source, staged) -> None:
    places = [w.place(pl.program_id(1 + axis), jnp.clip) for axis, w in enumerate(job.leading)]
    side = job.side

    @pl.when(_first_image(0) if job.zeros_once else _first_image())
    def _():
        rows = max(1, STAGED * SUBLANES // (staged.shape[4] * len(job.tiles)))

        def some(i, j, k, n):
            for tile in job.tiles:
                _zero(staged.at[tile, i, j], k, n)

        _each3(staged.shape[1:4], rows, some)

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
    _each3([w.extent for w in job.leading], max(1, STAGED // high), rows)


def _zero(rows, start, size) -> None:
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
    return [(t, _take(values, channel)) for t, channel in zip(job.tiles, channels, strict=True)]


def _gathered(job: Job, sums: list[list]) -> list:
    """The sums of one tile; in an input gradient, of all features of each channel."""
    multiplier = job.plan.multiplier
    if multiplier == 1 or job.operator is not Operator.INPUT_GRAD:
        return sums[0]
    lane = lax.broadcasted_iota(jnp.int32, sums[0][0].shape, 1)
    totals = [0.0] * len(sums[0])
    for m in range(multiplier):
        feature = lane * multiplier + m
        for tile, values in zip(job.tiles, sums, strict=True):
            here = feature // LANES == tile
            for n, value in enumerate(values):
                totals[n] += jnp.where(here, _take(value, feature % LANES), 0.0)
    return totals


def _take(values, lanes):
    return jnp.take_along_axis(values, lanes, axis=1, mode="promise_in_bounds")


# Indices and loops.


def _first_image(*axes: int):
    """Whether this is the first step of the images, which are innermost, and of other axes."""
    return sum(pl.program_id(axis) for axis in (*axes, 4, 5)) == 0


def _phases(job: Job) -> int:
    return math.prod(line.step for line in job.plan.lines)


def _origin(job: Job, at) -> list:
    """Where an offset of 0 from the pixel ``at`` of a phase lies in the staged source."""
    lines = job.plan.lines
    margins = [*[w.margin for w in job.leading], 0]
    return [x * line.stride + m - line.low for x, line, m in zip(at, lines, margins, strict=True)]


def _tap(lines, taps: list[Taps], us):
    """The row of the kernel ``[taps, features]`` that holds the taps ``us`` of a phase."""
    index = 0
    for line, t, u in zip(lines, taps, us, strict=True):
        index = index * line.kernel + t.tap + t.tap_step * u
    return index


def _ds(start, size: int, stride: int):
    return pl.ds(start, size) if stride == 1 else pl.ds(start, size, stride=stride)


def _unflattened(t, extents) -> tuple:
    """The indices of the ``t``th of all points, the last fastest."""
    indices = []
    for extent in reversed(extents):
        indices.append(lax.rem(t, extent) if not isinstance(t, int) else t % extent)
        t = lax.div(t, extent) if not isinstance(t, int) else t // extent
    return tuple(reversed(indices))


def _each(extent: int, size: int, body: Callable) -> None:
    """``body(start, size)`` for the pieces of an extent, of which the last may be shorter."""
    _fold(extent, size, lambda start, n, carry: body(start, n) or carry, ())


def _each3(extents, size: int, body: Callable) -> None:
    """``body(i, j, k, size)`` over three axes, of which the last is cut into pieces."""
    _each(
        extents[0],
        1,
        lambda i, _: _each(
            extents[1], 1, lambda j, _: _each(extents[2], size, functools.partial(body, i, j))
        ),
    )


def _fold(extent: int, size: int, body: Callable, carry):
    """``carry = body(start, size, carry)`` for the pieces of an extent."""
    full, rest = divmod(extent, size)
    if full == 1:
        carry = body(0, size, carry)
    elif full > 1:

        def step(i, carry):
            return body(pl.multiple_of(i * size, size), size, carry)

        carry = lax.fori_loop(0, full, step, carry)
    return body(full * size, rest, carry) if rest else carry
