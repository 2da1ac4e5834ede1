"""What is static in the body of a Mosaic-TPU kernel, and the loops it is made of."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from jax import lax
from jax.experimental import pallas as pl

from ...geometry.spec import Operator
from .generations import Generation
from .layout import Plan
from .tile_config import windows_of
from .tiling import LANES, Across, TileConfig, Window


class Job(NamedTuple):
    """Everything static about one kernel."""

    operator: Operator
    plan: Plan
    tile: TileConfig
    leading: tuple[Window, ...]
    side: Across
    channels: int  # of a block, on lanes
    features: int
    chip: Generation

    @property
    def one_core(self) -> bool:
        """Whether one core runs the whole grid, so that steps see what previous ones stored."""
        return self.chip.cores == 1

    @property
    def whole_axes(self) -> bool:
        """Whether every tile has whole leading axes, and so the same zeros around its source."""
        lines = zip(self.plan.lines[:3], self.tile.extents, strict=False)
        return all(line.result <= extent for line, extent in lines)

    @property
    def first_step(self):
        """Whether nothing has been staged yet."""
        return first_image(*(range(4) if self.one_core else ()))

    @property
    def first_of_channels(self):
        """Whether these channels' kernel has not been unpacked yet."""
        return first_image(*(range(1, 4) if self.one_core else ()))

    @property
    def gathers(self) -> bool:
        """Whether the sums of several features are added up to those of their channel."""
        return self.operator is Operator.INPUT_GRAD and self.plan.lanes is None

    @property
    def lane_tiles(self) -> range:
        """The groups of up to 128 features in a block."""
        return range(-(-self.features // LANES))

    def width(self, lane_tile: int) -> int:
        """The number of features of one lane tile."""
        return min(LANES, self.features - lane_tile * LANES)

    def lanes(self, lane_tile: int):
        """The lanes of a block that hold them."""
        return pl.ds(lane_tile * LANES, self.width(lane_tile))

    @property
    def phases(self) -> int:
        return math.prod(line.step for line in self.plan.lines)

    @property
    def counts(self) -> list[int]:
        """The pixels per phase of a tile, on the four axes."""
        axes = zip(self.tile.extents, self.plan.lines, strict=True)
        return [-(-extent // line.step) for extent, line in axes]


def job_of(operator: Operator, p: Plan, tile: TileConfig, chip: Generation) -> Job:
    leading, side = windows_of(p, tile)
    return Job(operator, p, tile, tuple(leading), side, *p.block, chip)


def row_of(ref, i, j, k, columns) -> tuple:
    """The index of a row of pixels, which an axis for a single image may follow."""
    return (i, j, k, columns) if len(ref.shape) == 5 else (i, j, k, columns, 0)


def first_image(*axes: int):
    """Whether this is the first step over images, the innermost axes, and over ``axes``."""
    return sum(pl.program_id(axis) for axis in (*axes, 4, 5)) == 0


def each(extent: int, size: int, body: Callable, turns: int = 1) -> None:
    """Calls ``body(start, size)`` for the pieces of an extent, as ``fold`` splits it."""
    fold(extent, size, lambda start, n, carry: body(start, n) or carry, (), turns)


def each3(extents, size: int, body: Callable, turns: int = 1) -> None:
    """Calls ``body(i, j, k, size)`` over three axes, of which the last is split into pieces.

    ``turns`` pieces, or ``turns`` rows if each is one piece, are one straight line of code.
    """
    within, across = (turns, 1) if extents[2] > size else (1, turns)

    def row(i, j, n):
        each(extents[2], size, functools.partial(body, i, j), within)

    each(extents[0], 1, lambda i, n: each(extents[1], 1, functools.partial(row, i), across))


def fold(extent: int, size: int, body: Callable, carry, turns: int = 1):
    """Applies ``carry = body(start, size, carry)`` to the pieces of an extent.

    The last piece may be shorter. ``turns`` pieces are one straight line of code, so that the end
    of one overlaps the start of the next.
    """
    full, rest = divmod(extent, size)
    turns = max(1, min(turns, full // 2))
    rounds = full // turns

    def step(i, carry):
        for turn in range(turns):
            carry = body(pl.multiple_of((i * turns + turn) * size, size), size, carry)
        return carry

    if rounds > 1:
        carry = lax.fori_loop(0, rounds, step, carry)
    for piece in range(rounds * turns if rounds > 1 else 0, full):
        carry = body(piece * size, size, carry)
    return body(full * size, rest, carry) if rest else carry
