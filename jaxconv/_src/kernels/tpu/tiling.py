"""How the Mosaic-TPU kernels cut a depthwise convolution into blocks: arithmetic alone.

All three operators read a source and step along it while they write, or are read with, a result:
on each axis the result pixel ``r + step*p`` of the phase ``r`` meets the source pixels

    stride*p + offset        for the taps of that phase, each with its offset.

The convolution and the filter gradient have one phase, ``step`` 1, and the offsets ``i*d - low``.
The input gradient has the cotangent as its source, ``stride`` 1 and as many phases as strides.

A TPU's registers hold 8 sublanes by 128 lanes. ``tpu_layout`` says which axes lie there; what
remains are three leading axes, of extent 1 where the convolution has fewer.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

LANES = 128
SUBLANES = 8


class Generation(NamedTuple):
    """What the tiling depends on: one core's VMEM, the cores that share a grid, how many registers
    of sums leave the compiler enough for what is multiplied, how many multiply-accumulates it can
    have in one straight line of a filter gradient, and how many pieces of rows."""

    vmem: int
    cores: int
    sums: int
    filters: int
    turns: int


MIB = 1 << 20

# Sums: on 3x3 8x56x56x128 in bfloat16, 16 registers took 4.9 bundles each and spilled nothing on
# v5e and v6e, where 24 spilled; v4 has half the registers. Filters: v5p spilled with 252 on 3x3 d2
# 8x56x56x64, v4 with 126 on 3x3 8x14x14x512. Turns, so that the end of one piece runs beside the
# start of the next: 3x3 8x14x14x512 took 7.8 bundles a register with one and 6.3 with 4 on v5e; v4
# spilled with more than one.
GENERATIONS = {
    "v4": Generation(16 * MIB, 2, 8, 64, 1),
    "v5e": Generation(128 * MIB, 1, 16, 256, 4),
    "v5p": Generation(64 * MIB, 2, 16, 128, 4),
    "v6e": Generation(128 * MIB, 1, 16, 256, 4),
    "v7x": Generation(64 * MIB, 1, 16, 256, 4),
}


class Taps(NamedTuple):
    """The taps ``tap + tap_step*u`` of one phase, at ``offset + offset_step*u``, u < ``number``."""

    number: int
    tap: int
    tap_step: int
    offset: int
    offset_step: int

    def at(self, u):
        """The offset of the ``u``th tap."""
        return self.offset + self.offset_step * u

    @property
    def offsets(self) -> tuple[int, ...]:
        return tuple(map(self.at, range(self.number)))


class Line(NamedTuple):
    """One axis, as the equation above has it."""

    source: int
    result: int
    kernel: int
    stride: int
    step: int
    phases: tuple[Taps, ...]

    @property
    def low(self) -> int:
        return min(offset for taps in self.phases for offset in taps.offsets)

    @property
    def high(self) -> int:
        return max(offset for taps in self.phases for offset in taps.offsets)


def line(n: int, o: int, k: int, s: int, d: int, low: int, gradient: bool) -> Line:
    if not gradient:
        return Line(n, o, k, s, 1, (Taps(k, 0, 1, -low, d),))
    every = s // math.gcd(d, s)
    phases = []
    for r in range(s):
        first = next((i for i in range(every) if (r + low - i * d) % s == 0), k)
        count = len(range(first, k, every))
        phases.append(Taps(count, first, every, (r + low - first * d) // s, -every * d // s))
    return Line(o, n, k, 1, s, tuple(phases))


def free(n: int) -> Line:
    """An axis without taps."""
    return Line(n, n, 1, 1, 1, (Taps(1, 0, 1, 0, 1),))


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How one kernel is cut.

    ``tile`` is the extent of one block of the result (of the cotangent, in a filter gradient) on
    each of the four axes. Inside it ``rows`` pixels of the last leading axis by ``columns`` of the
    sublane axis are computed at a time, in registers.
    """

    tile: tuple[int, ...]
    rows: int
    columns: int


class Window(NamedTuple):
    """The part of one leading axis of the source that a block reads, and where it is staged.

    Windows at the border are moved inwards, so that each holds ``extent`` pixels that exist. What
    lies outside the source is zero in the staged rows; ``margin`` rows before the first one read,
    and some after the last, take what a moved window holds too much.
    """

    step: int  # source pixels from one block's first to the next one's
    low: int
    extent: int
    last: int  # the last start of a window inside the source
    margin: int
    staged: int

    def start(self, t, clip):
        """The source pixel where the window of block ``t`` starts."""
        return clip(t * self.step + self.low, 0, self.last) if self.last else 0

    def place(self, t, clip):
        """The staged row of that pixel."""
        return self.start(t, clip) - (t * self.step + self.low) + self.margin

    def outside(self, blocks: int) -> list[tuple[int, int]]:
        """The first and the number of staged rows, below and above, that some block's window does
        not cover."""
        places = [self.place(t, lambda v, low, high: min(max(v, low), high)) for t in range(blocks)]
        end = min(places) + self.extent
        return [piece for piece in ((0, max(places)), (end, self.staged - end)) if piece[1] > 0]


@functools.lru_cache(maxsize=4096)
def window(line: Line, tile: int) -> Window:
    count = -(-tile // line.step)
    reach = (count - 1) * line.stride + line.high - line.low + 1
    extent = min(reach, line.source)
    last = line.source - extent
    wants = [t * count * line.stride + line.low for t in range(-(-line.result // tile))]
    shifts = [min(max(want, 0), last) - want for want in wants]
    margin = max(0, -min(shifts))
    staged = margin + max(reach, extent + max(shifts))
    return Window(count * line.stride, line.low, extent, last, margin, staged)


class Across(NamedTuple):
    """The sublane axis of a block: all of it where it has taps, else a tile of it.

    ``pixels`` of each phase are computed. Of ``source`` pixels ``stored`` ones from ``first``
    on are staged from column ``at`` of ``staged`` on, amid zeros.
    """

    source: int
    pixels: int
    first: int
    stored: int
    at: int
    staged: int

    @property
    def outside(self) -> list[tuple[int, int]]:
        """The first and the number of staged columns, in whole registers, that hold any zeros."""
        low = round_up(self.at, SUBLANES) if self.stored else self.staged
        high = (self.at + self.stored) // SUBLANES * SUBLANES if self.stored else self.staged
        return [piece for piece in ((0, low), (high, self.staged - high)) if piece[1] > 0]


def across(line: Line, tile: int) -> Across:
    source = line.source if tile == line.result else tile
    count = -(-tile // line.step)
    reach = (round_up(count, SUBLANES) - 1) * line.stride + line.high - line.low + 1
    first = max(line.low, 0)
    at = first - line.low
    stored = max(0, min(source - first, reach - at))
    return Across(source, count, first, stored, at, round_up(reach, SUBLANES))


def round_up(n: int, to: int) -> int:
    return -(-n // to) * to
