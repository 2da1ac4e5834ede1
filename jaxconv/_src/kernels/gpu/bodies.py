"""The two depthwise kernels for GPUs: one for outputs, one for filter gradients.

``gpu_plan`` says what is computed where, ``gpu_tiles`` how a tile is loaded and multiplied.
"""

from __future__ import annotations

import functools
import itertools
import math
from operator import and_
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from ...geometry.spec import ConvSpec, Operator
from . import plan
from . import tiles as tiles
from .plan import Blocks

# A loop over taps is unrolled, so that its loads overlap, up to this many products of tiles: 7x7 in
# strips of 4 has 196, and took XLA 6 s unrolled, 1 s as a loop.
UNROLLED = 80


class Piece(NamedTuple):
    """``times`` times ``taps`` taps of the last axis, from ``begin`` on."""

    times: int
    taps: int
    begin: int


def _pieces(reached: int, taps: int) -> list[Piece]:
    whole, rest = divmod(reached, taps)
    pieces = [Piece(whole, taps, 0), Piece(1, rest, whole * taps)]
    return [piece for piece in pieces if piece.times and piece.taps]


class Step(NamedTuple):
    """One filter, one tap of every outer axis and some of the last; and which of them there are."""

    filter: Any
    numbers: list[Any]  # of the outer taps, among those that a phase has
    rows: list[Any]  # the outer taps
    row_fits: Any
    begin: Any  # the number of the first of ``taps``
    taps: list[Any]
    fits: list[Any]


def outputs(operator, spec: ConvSpec, cut: Blocks, a_ref, kernel_ref, y_ref):
    *outer, last = walks = plan.walks(operator, spec)
    filters = spec.group_out if operator is Operator.INPUT_GRAD else 1
    (n, *place, strip), real = tiles.strips(spec, walks, cut, pl.program_id(0))
    phases = tiles.unravel(pl.program_id(2), [walk.phases for walk in walks])
    *starts, (first, base) = map(plan.phase_of, walks, phases)
    feature, known = tiles.features(y_ref, cut, pl.program_id(1))

    def taps_of(piece: Piece, step) -> Step:
        m, *numbers, at = tiles.unravel(
            step, [filters, *[walk.reached for walk in outer], piece.times]
        )
        begin = piece.begin + at * piece.taps
        rows = [
            tap + i * walk.every for walk, (tap, _), i in zip(outer, starts, numbers, strict=True)
        ]
        taps = [first + (begin + i) * last.every for i in range(piece.taps)]
        row_fits = functools.reduce(and_, map(_fits, outer, rows), True)
        return Step(m, numbers, rows, row_fits, begin, taps, [_fits(last, tap) for tap in taps])

    def load(piece: Piece, step):
        """The weights and the inputs of one step."""
        at = taps_of(piece, step)
        pixel, row, inside = n, 0, real & at.row_fits
        for walk, (_, low), j, i, tap in zip(
            outer, starts, place, at.numbers, at.rows, strict=True
        ):
            position = j * walk.step + (i * walk.dilation + low)
            pixel, row = pixel * walk.reads + position, row * walk.taps + tap
            inside = inside & tiles.within(position, walk.reads)
        channel = feature * filters + at.filter
        weights = [
            tiles.load(
                kernel_ref, cut, row * last.taps + tap, channel, known & (at.row_fits & fits)
            )
            for tap, fits in zip(at.taps, at.fits, strict=True)
        ]
        if operator is Operator.CONV and spec.group_out > 1:
            channel = lax.div(channel, jnp.int32(spec.group_out))
        corner = strip * (cut.columns * last.step) + (at.begin * last.dilation + base)
        inputs = []
        for offset in plan.reads(last, cut.columns, piece.taps):
            mask = inside & tiles.within(corner + offset, last.reads)
            pixels = pixel * last.reads + corner + offset
            inputs.append(tiles.load(a_ref, cut, pixels, channel, mask[:, None] & known))
        return tuple(weights), tuple(inputs)

    def add(piece: Piece, step, loaded, sums):
        """``sums`` with the products of one step."""
        fits = taps_of(piece, step).fits
        weights, inputs = (list(map(tiles.wide, part)) for part in loaded)
        sums = list(sums)
        reads = plan.reads(last, cut.columns, piece.taps)
        for a, pairs in zip(inputs, reads.values(), strict=True):
            for column, i in pairs:
                sums[column] = tiles.add(sums[column], a, weights[i], fits[i])
        return tuple(sums)

    sums = (jnp.zeros((cut.strips, cut.features), jnp.float32),) * cut.columns
    for piece in _pieces(last.reached, cut.taps):
        steps = filters * math.prod(walk.reached for walk in outer) * piece.times
        of_piece = functools.partial(load, piece), functools.partial(add, piece)
        sums = _summed(steps, piece.taps * cut.columns, *of_piece, sums)
    pixel, inside = n, real
    for walk, j, r in zip(outer, place, phases[:-1], strict=True):
        position = j * walk.phases + r
        pixel, inside = pixel * walk.writes + position, inside & (position < walk.writes)
    for column, y in enumerate(sums):
        position = (strip * cut.columns + column) * last.phases + phases[-1]
        mask = (inside & (position < last.writes))[:, None] & known
        at = tiles.tile(y_ref, cut, pixel * last.writes + position, feature)
        triton.store(at, y.astype(y_ref.dtype), mask=mask)


def _fits(walk: plan.Walk, tap):
    """Whether there is such a tap: with one phase, all that are reached."""
    return True if walk.phases == 1 else tap < walk.taps


def _summed(count: int, products: int, load, add, sums):
    """``sums`` after ``count`` steps of so many products each, unrolled where they are few.

    A step's loads are issued before the products of the step before, whose latency they hide.
    """

    def step(at, carry):
        loaded, sums = carry
        following = load(at + 1)
        return following, add(at, loaded, sums)

    carry = load(0), sums
    if count * products > UNROLLED:
        carry = lax.fori_loop(0, count - 1, step, carry)
    else:
        carry = functools.reduce(lambda carry, at: step(at, carry), range(count - 1), carry)
    return add(count - 1, *carry)


def filter_sums(spec: ConvSpec, cut: Blocks, x_ref, g_ref, kernel_ref):
    """One program's share of a filter gradient: some taps, some features, some of the pixels."""
    *outer, last = walks = plan.walks(Operator.FILTER_GRAD, spec)
    feature, known = tiles.features(g_ref, cut, pl.program_id(1))
    channel = lax.div(feature, jnp.int32(spec.group_out)) if spec.group_out > 1 else feature
    chunk = pl.program_id(0)
    rows = spec.taps // last.taps
    row, piece = tiles.unravel(pl.program_id(2), [rows // cut.rows, pl.cdiv(last.taps, cut.taps)])
    row, begin = row * cut.rows, piece * cut.taps
    reads = plan.reads(last, cut.columns, cut.taps)

    def step(turn, sums):
        (n, *place, strip), real = tiles.strips(spec, walks, cut, turn)
        pixel = n
        for walk, j in zip(outer, place, strict=True):
            pixel = pixel * walk.writes + j
        fit, g, x = [], [], []
        for column in range(cut.columns):
            position = strip * cut.columns + column
            fit.append((real & (position < last.writes))[:, None])
            g.append(
                tiles.load(g_ref, cut, pixel * last.writes + position, feature, fit[-1] & known)
            )
        for u in range(cut.rows):
            pixel, inside = n, real
            taps = tiles.unravel(row + u, [walk.taps for walk in outer])
            for walk, j, i in zip(outer, place, taps, strict=True):
                position = j * walk.step + (i * walk.dilation - walk.low)
                pixel, inside = (
                    pixel * walk.reads + position,
                    inside & tiles.within(position, walk.reads),
                )
            corner = strip * (cut.columns * last.step) + (begin * last.dilation - last.low)
            for offset in reads:
                mask = inside & tiles.within(corner + offset, last.reads)
                pixels = pixel * last.reads + corner + offset
                x.append(tiles.load(x_ref, cut, pixels, channel, mask[:, None] & known))
        g, x, sums = list(map(tiles.wide, g)), list(map(tiles.wide, x)), list(sums)
        for at, (u, pairs) in enumerate(itertools.product(range(cut.rows), reads.values())):
            for column, i in pairs:
                fits = last.writes % cut.columns == 0 or fit[column]
                total = u * cut.taps + i
                sums[total] = tiles.add(sums[total], x[at], g[column], fits)
        return tuple(sums)

    turns = pl.cdiv(math.prod(plan.strip_extents(spec, walks, cut)), cut.strips)
    share = pl.cdiv(turns, cut.chunks)
    sums = (jnp.zeros((cut.strips, cut.features), jnp.float32),) * (cut.rows * cut.taps)
    sums = lax.fori_loop(0, share, lambda turn, sums: step(chunk * share + turn, sums), sums)
    for at, total in enumerate(sums):
        u, i = divmod(at, cut.taps)
        place = ((chunk * rows + row + u) * last.taps) + begin + i
        mask = known & (begin + i < last.taps)
        to = kernel_ref.at[jnp.broadcast_to(place, feature.shape), feature]
        triton.store(to, total.sum(0).astype(kernel_ref.dtype), mask=mask)
