"""What the body of a Mosaic-TPU kernel knows before it runs, and the loops that it is made of."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from jax import lax
from jax.experimental import pallas as pl

from ...geometry.spec import Operator
from .blocks import windows_of
from .layout import Plan
from .tiling import LANES, Across, Blocks, Generation, Window


class Job(NamedTuple):
    """All that is static in one kernel."""

    operator: Operator
    plan: Plan
    blocks: Blocks
    leading: tuple[Window, ...]
    side: Across
    channels: int  # lanes of a block
    features: int
    chip: Generation

    @property
    def alone(self) -> bool:
        """Whether one core walks the whole grid, and the next step has what this one leaves."""
        return self.chip.cores == 1

    @property
    def uncut(self) -> bool:
        """Whether every block has whole leading axes, and so the same zeros around its source."""
        lines = zip(self.plan.lines[:3], self.blocks.tile, strict=False)
        return all(line.result <= extent for line, extent in lines)

    @property
    def first_step(self):
        """Whether nothing is staged yet."""
        return first_image(*(range(4) if self.alone else ()))

    @property
    def first_of_channels(self):
        """Whether these channels' kernel has not been unpacked yet."""
        return first_image(*(range(1, 4) if self.alone else ()))

    @property
    def gathers(self) -> bool:
        """Whether the result has channels, and what is summed has their features."""
        return self.operator is Operator.INPUT_GRAD and self.plan.lanes is None

    @property
    def tiles(self) -> range:
        return range(-(-self.features // LANES))

    def width(self, tile: int) -> int:
        """The features of one tile."""
        return min(LANES, self.features - tile * LANES)

    def lanes(self, tile: int):
        """Where they are in a block."""
        return pl.ds(tile * LANES, self.width(tile))

    @property
    def phases(self) -> int:
        return math.prod(line.step for line in self.plan.lines)

    @property
    def counts(self) -> list[int]:
        """Pixels of each phase in a block, on the four axes."""
        axes = zip(self.blocks.tile, self.plan.lines, strict=True)
        return [-(-extent // line.step) for extent, line in axes]


def job_of(operator: Operator, p: Plan, cut: Blocks, chip: Generation) -> Job:
    leading, side = windows_of(p, cut)
    return Job(operator, p, cut, tuple(leading), side, *p.block, chip)


def row_of(ref, i, j, k, columns) -> tuple:
    """The index of a row of pixels, whose single image may stand behind them."""
    return (i, j, k, columns) if len(ref.shape) == 5 else (i, j, k, columns, 0)


def first_image(*axes: int):
    """Whether this is the first step of the images, which are innermost, and of other axes."""
    return sum(pl.program_id(axis) for axis in (*axes, 4, 5)) == 0


def each(extent: int, size: int, body: Callable, turns: int = 1) -> None:
    """``body(start, size)`` for the pieces of an extent, as ``fold`` has them."""
    fold(extent, size, lambda start, n, carry: body(start, n) or carry, (), turns)


def each3(extents, size: int, body: Callable, turns: int = 1) -> None:
    """``body(i, j, k, size)`` over three axes, of which the last is cut into pieces; ``turns`` of
    them, or of the rows of one piece each, are straight-line code."""
    within, across = (turns, 1) if extents[2] > size else (1, turns)

    def row(i, j, n):
        each(extents[2], size, functools.partial(body, i, j), within)

    each(extents[0], 1, lambda i, n: each(extents[1], 1, functools.partial(row, i), across))


def fold(extent: int, size: int, body: Callable, carry, turns: int = 1):
    """``carry = body(start, size, carry)`` for the pieces of an extent, of which the last may be
    shorter. ``turns`` of them are straight-line code, so that the end of one runs beside the start
    of the next."""
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
