"""How the Mosaic-TPU kernels split a depthwise convolution into tiles; only arithmetic.

All three operators read a source along with a result, which they write or, in a filter gradient,
read. On each axis the result pixel ``r + step*p`` of phase ``r`` reads the source pixels

    stride*p + offset        with one offset per tap of that phase

The convolution and the filter gradient have one phase, ``step`` 1, and the offsets ``i*d - low``.
The input gradient has the cotangent as its source, ``stride`` 1, and one phase per residue of the
stride, as ``geometry/phases.py`` derives.

A TPU's registers hold 8 sublanes by 128 lanes. ``layout.py`` says which axes are on them; the
others are three leading axes, of extent 1 if the convolution has fewer.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

from ...geometry import phases

LANES = 128
SUBLANES = 8


class Taps(NamedTuple):
    """The taps of one phase.

    They are ``tap + tap_step*u`` at the offsets ``offset + offset_step*u``, for u < ``number``.
    """

    number: int
    tap: int
    tap_step: int
    offset: int
    offset_step: int

    def at(self, u):
        """The offset of tap number ``u``."""
        return self.offset + self.offset_step * u

    @property
    def offsets(self) -> tuple[int, ...]:
        return tuple(map(self.at, range(self.number)))


class Line(NamedTuple):
    """One axis of the equation above, with the extents of source, result and kernel."""

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
    found = [phases.phase(r, k, s, d, low) for r in range(s)]
    taps = [Taps(p.number, p.first, p.tap_step, p.output, -p.output_step) for p in found]
    return Line(o, n, k, 1, s, tuple(taps))


def free(n: int) -> Line:
    """An axis without taps."""
    return Line(n, n, 1, 1, 1, (Taps(1, 0, 1, 0, 1),))


@dataclasses.dataclass(frozen=True)
class TileConfig:
    """The tile that one grid step computes.

    ``extents`` are those of a tile of the result (of the cotangent, in a filter gradient) on the
    four axes. Inside it ``rows`` pixels of the last leading axis by ``columns`` of the sublane axis
    are computed at a time, in registers.
    """

    extents: tuple[int, ...]
    rows: int
    columns: int


class Window(NamedTuple):
    """The part of one leading axis of the source that a tile reads, and where it is staged.

    Windows at the edges are moved inwards, so that each has ``extent`` pixels, all inside the
    source. Pixels outside the source are zero in the staged rows. ``margin`` rows before the first
    row that is read, and some after the last, hold the surplus rows of a moved window.
    """

    step: int  # source pixels between the windows of neighboring tiles
    low: int
    extent: int
    last: int  # the last start of a window inside the source
    margin: int
    staged: int

    def start(self, t, clip):
        """The source pixel at which the window of tile ``t`` starts."""
        return clip(t * self.step + self.low, 0, self.last) if self.last else 0

    def place(self, t, clip):
        """The staged row of that pixel."""
        return self.start(t, clip) - (t * self.step + self.low) + self.margin

    def outside(self, tiles: int) -> list[tuple[int, int]]:
        """The staged rows, below and above, that some tile's window does not cover.

        Each range is its first row and the number of rows.
        """
        places = [self.place(t, lambda v, low, high: min(max(v, low), high)) for t in range(tiles)]
        end = min(places) + self.extent
        return [piece for piece in ((0, max(places)), (end, self.staged - end)) if piece[1] > 0]


@functools.lru_cache(maxsize=4096)
def window(line: Line, tile_extent: int) -> Window:
    count = -(-tile_extent // line.step)
    reach = (count - 1) * line.stride + line.high - line.low + 1
    extent = min(reach, line.source)
    last = line.source - extent
    tiles = range(-(-line.result // tile_extent))
    starts = [t * count * line.stride + line.low for t in tiles]
    shifts = [min(max(start, 0), last) - start for start in starts]
    margin = max(0, -min(shifts))
    staged = margin + max(reach, extent + max(shifts))
    return Window(count * line.stride, line.low, extent, last, margin, staged)


class Across(NamedTuple):
    """The sublane axis of a tile: all of it if it has taps, else part of it.

    ``pixels`` of each phase are computed. Of the ``source`` pixels, ``stored`` ones from ``first``
    on are staged from column ``at`` on; the other ``staged`` columns are zero.
    """

    source: int
    pixels: int
    first: int
    stored: int
    at: int
    staged: int

    @property
    def outside(self) -> list[tuple[int, int]]:
        """The ranges of staged columns, in whole registers, that hold zeros: first and number."""
        low = round_up(self.at, SUBLANES) if self.stored else self.staged
        high = (self.at + self.stored) // SUBLANES * SUBLANES if self.stored else self.staged
        return [piece for piece in ((0, low), (high, self.staged - high)) if piece[1] > 0]


def across(line: Line, tile_extent: int) -> Across:
    source = line.source if tile_extent == line.result else tile_extent
    count = -(-tile_extent // line.step)
    reach = (round_up(count, SUBLANES) - 1) * line.stride + line.high - line.low + 1
    first = max(line.low, 0)
    at = first - line.low
    stored = max(0, min(source - first, reach - at))
    return Across(source, count, first, stored, at, round_up(reach, SUBLANES))


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
