"""The two depthwise kernels for GPUs: one for outputs, one for filter gradients."""

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
from . import plan, tiles
from .plan import TileConfig

# A loop over taps is unrolled, so that its loads overlap, up to this many products of tiles: 196 of
# them took XLA 6 s to compile, against 1 s as a loop.
MAX_UNROLLED_PRODUCTS = 80


class Piece(NamedTuple):
    """Taps of the last axis from ``begin`` on: ``runs`` consecutive groups of ``taps`` taps."""

    runs: int
    taps: int
    begin: int


def _pieces(phase_taps: int, taps: int) -> list[Piece]:
    whole, rest = divmod(phase_taps, taps)
    pieces = [Piece(whole, taps, 0), Piece(1, rest, whole * taps)]
    return [piece for piece in pieces if piece.runs and piece.taps]


class Step(NamedTuple):
    """One filter, one tap of every outer axis and some of the last; and which of these exist."""

    filter: Any
    numbers: list[Any]  # of the outer taps, among those of the phase
    rows: list[Any]  # the outer taps
    row_exists: Any
    begin: Any  # the number of the first of ``taps``
    taps: list[Any]
    exists: list[Any]


def outputs(operator, spec: ConvSpec, tile: TileConfig, a_ref, kernel_ref, y_ref):
    *outer, last = axes = plan.axes_of(operator, spec)
    filters = spec.group_out if operator is Operator.INPUT_GRAD else 1
    (n, *place, strip), strip_exists = tiles.strips(spec, axes, tile, pl.program_id(0))
    phases = tiles.unravel(pl.program_id(2), [axis.phases for axis in axes])
    *starts, (first, base) = map(plan.phase_of, axes, phases)
    feature, feature_exists = tiles.features(y_ref, tile, pl.program_id(1))

    def taps_of(piece: Piece, step) -> Step:
        m, *numbers, at = tiles.unravel(
            step, [filters, *[axis.phase_taps for axis in outer], piece.runs]
        )
        begin = piece.begin + at * piece.taps
        rows = [
            tap + i * axis.every for axis, (tap, _), i in zip(outer, starts, numbers, strict=True)
        ]
        taps = [first + (begin + i) * last.every for i in range(piece.taps)]
        row_exists = functools.reduce(and_, map(_exists, outer, rows), True)
        return Step(m, numbers, rows, row_exists, begin, taps, [_exists(last, tap) for tap in taps])

    def load(piece: Piece, step):
        """The weights and inputs of one step."""
        at = taps_of(piece, step)
        pixel, row, inside = n, 0, strip_exists & at.row_exists
        for axis, (_, low), j, i, tap in zip(
            outer, starts, place, at.numbers, at.rows, strict=True
        ):
            position = j * axis.step + (i * axis.dilation + low)
            pixel, row = pixel * axis.reads + position, row * axis.taps + tap
            inside = inside & tiles.within(position, axis.reads)
        channel = feature * filters + at.filter
        weights = [
            tiles.load(
                kernel_ref,
                tile,
                row * last.taps + tap,
                channel,
                feature_exists & (at.row_exists & exists),
            )
            for tap, exists in zip(at.taps, at.exists, strict=True)
        ]
        if operator is Operator.CONV and spec.group_out > 1:
            channel = lax.div(channel, jnp.int32(spec.group_out))
        corner = strip * (tile.columns * last.step) + (at.begin * last.dilation + base)
        inputs = []
        for offset in plan.reads(last, tile.columns, piece.taps):
            mask = inside & tiles.within(corner + offset, last.reads)
            pixels = pixel * last.reads + corner + offset
            inputs.append(tiles.load(a_ref, tile, pixels, channel, mask[:, None] & feature_exists))
        return tuple(weights), tuple(inputs)

    def add(piece: Piece, step, loaded, sums):
        """``sums`` with the products of one step."""
        exists = taps_of(piece, step).exists
        weights, inputs = (list(map(tiles.wide, part)) for part in loaded)
        sums = list(sums)
        reads = plan.reads(last, tile.columns, piece.taps)
        for a, pairs in zip(inputs, reads.values(), strict=True):
            for column, i in pairs:
                sums[column] = tiles.add(sums[column], a, weights[i], exists[i])
        return tuple(sums)

    sums = (jnp.zeros((tile.strips, tile.features), jnp.float32),) * tile.columns
    for piece in _pieces(last.phase_taps, tile.taps):
        steps = filters * math.prod(axis.phase_taps for axis in outer) * piece.runs
        of_piece = functools.partial(load, piece), functools.partial(add, piece)
        sums = _summed(steps, piece.taps * tile.columns, *of_piece, sums)
    pixel, inside = n, strip_exists
    for axis, j, r in zip(outer, place, phases[:-1], strict=True):
        position = j * axis.phases + r
        pixel, inside = pixel * axis.writes + position, inside & (position < axis.writes)
    for column, y in enumerate(sums):
        position = (strip * tile.columns + column) * last.phases + phases[-1]
        mask = (inside & (position < last.writes))[:, None] & feature_exists
        at = tiles.view(y_ref, tile, pixel * last.writes + position, feature)
        triton.store(at, y.astype(y_ref.dtype), mask=mask)


def _exists(axis: plan.Axis, tap):
    """Whether a phase has this tap; with one phase, every tap exists."""
    return True if axis.phases == 1 else tap < axis.taps


def _summed(count: int, products: int, load, add, sums):
    """``sums`` after ``count`` steps of ``products`` products each, unrolled if they are few.

    The loads of a step come before the products of the previous step, which hide their latency.
    """

    def step(at, carry):
        loaded, sums = carry
        following = load(at + 1)
        return following, add(at, loaded, sums)

    carry = load(0), sums
    if count * products > MAX_UNROLLED_PRODUCTS:
        carry = lax.fori_loop(0, count - 1, step, carry)
    else:
        carry = functools.reduce(lambda carry, at: step(at, carry), range(count - 1), carry)
    return add(count - 1, *carry)


def filter_sums(spec: ConvSpec, tile: TileConfig, x_ref, g_ref, kernel_ref):
    """What one program sums of a filter gradient: some taps, some features, some of the pixels."""
    *outer, last = axes = plan.axes_of(Operator.FILTER_GRAD, spec)
    feature, feature_exists = tiles.features(g_ref, tile, pl.program_id(1))
    channel = lax.div(feature, jnp.int32(spec.group_out)) if spec.group_out > 1 else feature
    chunk = pl.program_id(0)
    rows = spec.taps // last.taps
    row, piece = tiles.unravel(pl.program_id(2), [rows // tile.rows, pl.cdiv(last.taps, tile.taps)])
    row, begin = row * tile.rows, piece * tile.taps
    reads = plan.reads(last, tile.columns, tile.taps)

    def step(turn, sums):
        (n, *place, strip), strip_exists = tiles.strips(spec, axes, tile, turn)
        pixel = n
        for axis, j in zip(outer, place, strict=True):
            pixel = pixel * axis.writes + j
        column_exists, g, x = [], [], []
        for column in range(tile.columns):
            position = strip * tile.columns + column
            column_exists.append((strip_exists & (position < last.writes))[:, None])
            g.append(
                tiles.load(
                    g_ref,
                    tile,
                    pixel * last.writes + position,
                    feature,
                    column_exists[-1] & feature_exists,
                )
            )
        for u in range(tile.rows):
            pixel, inside = n, strip_exists
            taps = tiles.unravel(row + u, [axis.taps for axis in outer])
            for axis, j, i in zip(outer, place, taps, strict=True):
                position = j * axis.step + (i * axis.dilation - axis.low)
                pixel, inside = (
                    pixel * axis.reads + position,
                    inside & tiles.within(position, axis.reads),
                )
            corner = strip * (tile.columns * last.step) + (begin * last.dilation - last.low)
            for offset in reads:
                mask = inside & tiles.within(corner + offset, last.reads)
                pixels = pixel * last.reads + corner + offset
                x.append(tiles.load(x_ref, tile, pixels, channel, mask[:, None] & feature_exists))
        g, x, sums = list(map(tiles.wide, g)), list(map(tiles.wide, x)), list(sums)
        for at, (u, pairs) in enumerate(itertools.product(range(tile.rows), reads.values())):
            for column, i in pairs:
                exists = last.writes % tile.columns == 0 or column_exists[column]
                total = u * tile.taps + i
                sums[total] = tiles.add(sums[total], x[at], g[column], exists)
        return tuple(sums)

    turns = pl.cdiv(math.prod(plan.strip_extents(spec, axes, tile)), tile.strips)
    share = pl.cdiv(turns, tile.chunks)
    sums = (jnp.zeros((tile.strips, tile.features), jnp.float32),) * (tile.rows * tile.taps)
    sums = lax.fori_loop(0, share, lambda turn, sums: step(chunk * share + turn, sums), sums)
    for at, total in enumerate(sums):
        u, i = divmod(at, tile.taps)
        place = ((chunk * rows + row + u) * last.taps) + begin + i
        mask = feature_exists & (begin + i < last.taps)
        to = kernel_ref.at[jnp.broadcast_to(place, feature.shape), feature]
        triton.store(to, total.sum(0).astype(kernel_ref.dtype), mask=mask)
