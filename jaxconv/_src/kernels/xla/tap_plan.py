"""How ``taps`` splits its work: taps into tiles, the batch and the channels into parts.

The measurements behind the constants are in ``docs/design/measurements.md``.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from jax import lax

from ...geometry.spec import ConvSpec
from .windows import Axis, even_extent

# Up to this many taps are unrolled into one fusion: 7x7 runs at 45 GMAC/s, 5x5x5 at 4.
MAX_FUSED_TAPS = 49

# Larger kernels are split into tiles of at most this many taps: 44 GMAC/s with 16, 31 with 64.
MAX_TILE_TAPS = 32

# The batch is split if temporaries exceed this multiple of the larger of input and output; if one
# image exceeds it, so are the channels, which costs copies. Splitting the batch is free.
MAX_TEMPORARIES = 2.0

# A filter gradient processes this many channels at a time if there are at least twice as many: rows
# of 512 channels are a multiple of 2048 bytes apart, and the first-level cache holds few of them.
CHANNELS_PER_PART = 128

# A filter gradient processes two images at a time, which two threads share evenly, if channels
# times taps are at least MIN_SHARED_PRODUCTS; otherwise as many images as have MIN_PART_ELEMENTS,
# or MIN_LONG_PART_ELEMENTS if a row of outputs is longer than a tile.
MIN_SHARED_PRODUCTS = 1024
MIN_PART_ELEMENTS = 1 << 12
MIN_LONG_PART_ELEMENTS = 1 << 19

# Fewer channels than CHANNELS_PER_PART are merged with those of the neighboring outputs, in images
# of at least MIN_FOLDED_ELEMENTS (with 50,000, folding took 1.6 times as long) and for kernels of
# up to MAX_FOLDED_TAPS along the last axis, each of which is another fusion.
MIN_FOLDED_ELEMENTS = 1 << 17
MAX_FOLDED_TAPS = 3


class AxisTiles(NamedTuple):
    """One axis and how its taps are split: into ``tiles`` tiles of ``k`` taps."""

    axis: Axis
    k: int
    tiles: int

    @property
    def tile(self) -> Axis:
        return self.axis._replace(k=self.k)

    @property
    def all(self) -> Axis:
        """All tiles; the last may extend past the kernel, whose weights are padded with zeros."""
        return self.axis._replace(k=self.k * self.tiles)


def in_tiles(axes, max_fused_taps: int) -> list[AxisTiles]:
    """One tile of all taps if they are at most ``max_fused_taps``, else those that copy the least.

    Squarer tiles have windows that overlap less.
    """
    if math.prod(axis.k for axis in axes) <= max_fused_taps:
        return [AxisTiles(axis, axis.k, 1) for axis in axes]
    extents = (
        {even_extent(axis.k, limit) for limit in range(1, MAX_TILE_TAPS + 1)} for axis in axes
    )
    choices = (k for k in itertools.product(*extents) if math.prod(k) <= MAX_TILE_TAPS)
    candidates = [[AxisTiles(*sizes) for sizes in _counted(axes, k)] for k in choices]
    return min(candidates, key=_copied)


def in_folded_tiles(axes, spec: ConvSpec) -> tuple[list[AxisTiles], int]:
    """The tiles of a filter gradient, and how many taps of the last axis ``taps`` folds."""
    tiling = in_tiles(axes, MAX_TILE_TAPS)
    *outer, last = axes
    room = CHANNELS_PER_PART // spec.out_features
    small = math.prod(axis.k for axis in axes) * spec.out_features < MIN_FOLDED_ELEMENTS
    if small or last.d > 1 or last.o > MAX_FOLDED_TAPS or room < 2:
        return tiling, 1
    fold = max(n for n in range(1, room + 1) if last.k % n == 0)
    *outer_tiling, inner = in_tiles(
        [*outer, last._replace(k=last.k // fold, d=fold)], MAX_TILE_TAPS
    )
    return [*outer_tiling, AxisTiles(last, inner.k * fold, inner.tiles)], fold


def _counted(axes, extents):
    return [(axis, k, -(-axis.k // k)) for axis, k in zip(axes, extents, strict=True)]


def _copied(tiling) -> float:
    """The inputs copied into windows, weighted by how much padding the weights need."""
    padding = math.prod(each.all.k / each.axis.k for each in tiling)
    return math.prod(each.tiles * each.tile.window for each in tiling) * padding


def filter_grad_parts(tiling, x, spec: ConvSpec) -> tuple[int, int]:
    """Into how many parts a filter gradient splits the images and the channels."""
    batch = x.shape[0]
    if not isinstance(batch, int):
        return 1, 1
    width = _width(spec)
    channel_parts = spec.in_features // width
    shared = spec.taps <= MAX_FUSED_TAPS and spec.taps * width >= MIN_SHARED_PRODUCTS
    elements = MIN_LONG_PART_ELEMENTS if tiling[-1].axis.k > MAX_TILE_TAPS else MIN_PART_ELEMENTS
    usual = max(2 if shared else 1, elements // (math.prod(x.shape[1:-1]) * width))
    fitting = max(1, int(batch * channel_parts * _allowed(tiling) / _temporaries(tiling)))
    minimum = -(-batch // min(usual, fitting, batch))
    return next(p for p in range(minimum, batch + 1) if batch % p == 0), channel_parts


def _width(spec: ConvSpec) -> int:
    """Input channels per part: about those of ``CHANNELS_PER_PART`` filters, or all."""
    room = max(1, CHANNELS_PER_PART // spec.group_out)
    width = max(n for n in range(1, room + 1) if spec.in_features % n == 0)
    too_few = spec.in_features < 2 * room or 2 * width < room
    return spec.in_features if too_few else width


def parts_of_batch(tiling, batch) -> int:
    """The fewest equal parts whose temporaries are within the limit; else single images."""
    minimum = _temporaries(tiling) / _allowed(tiling)
    if minimum <= 1 or not isinstance(batch, int):
        return 1
    return next(p for p in range(1, batch + 1) if (p >= minimum or p == batch) and batch % p == 0)


def parts_of_channels(tiling, channels: int, parts: int) -> int:
    """The same for the channels of one of the ``parts`` of the batch; their slices are copied."""
    allowed = _allowed(tiling) * parts
    if _temporaries(tiling) <= allowed:
        return 1
    slices = sum(_per_channel(tiling))
    minimum = (_temporaries(tiling) + slices) / allowed
    return next((p for p in range(2, channels) if p >= minimum and channels % p == 0), 1)


def _allowed(tiling) -> float:
    """The elements that temporaries may have per channel and image."""
    inputs, _, outputs = _per_channel(tiling)
    return MAX_TEMPORARIES * max(inputs, outputs)


def _per_channel(tiling) -> list[int]:
    """The elements of ``x``, the weights and ``y`` per channel and image."""
    axes = [(each.axis.n, each.axis.k, each.axis.o) for each in tiling]
    return [math.prod(sizes) for sizes in zip(*axes, strict=True)]


def _temporaries(tiling) -> int:
    """Elements per channel and image: the padded input; with several tiles, window and sums too."""
    padded = math.prod(each.all.window for each in tiling)
    if not several(tiling):
        return padded
    weights = math.prod(each.all.k for each in tiling)
    uneven = any(each.all.k > each.axis.k for each in tiling)
    window = math.prod(each.tile.window for each in tiling)
    return padded + window + math.prod(each.axis.o for each in tiling) + uneven * weights


def several(tiling) -> bool:
    return any(each.tiles > 1 for each in tiling)


def first_tap(t, tiling):
    at = []
    for each in reversed(tiling):
        at.append(lax.rem(t, each.tiles) * each.k)
        t = lax.div(t, each.tiles)
    return at[::-1]
