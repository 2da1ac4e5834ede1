"""How taps.py cuts its work: taps into blocks, and the batch and the channels into parts."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from jax import lax

from ...geometry.spec import ConvSpec
from .windows import Axis, even_extent

# A kernel of so many taps is one fusion: 45 GMAC/s on 7x7 8x56x56x96, but 4 on the 125 taps of
# 5x5x5 2x16x16x16x64.
WHOLE = 49

# More are cut into blocks of at most this: 13x13 4x28x28x128 ran at 45 GMAC/s, with 16 at 44,
# with 64 at 31; the filter gradient of 7x7 8x56x56x96 at 26, 23 and 12. The weights of a filter
# gradient are as large as an image: 5x5 8x7x7x960 took 1.1 ms in blocks, 2.0 in one fusion of 49.
BLOCK = 32

# Temporaries, in multiples of the larger of the two images, above which the batch is cut, or the
# channels of one image, which costs copies. Cutting the batch costs nothing that shows: 7x7
# 8x14x14x384 took as long in two parts, with half the temporaries.
TEMPORARIES = 2.0

# A filter gradient takes this many channels at a time where there are at least twice as many: rows
# of 512 lie a multiple of 2048 bytes apart, and the first cache holds few of those. 3x3 8x14x14x512
# took 3.2 ms with all channels an image at a time, 2.1 with two images, and 0.9 with 128 channels
# and two images.
WIDTH = 128

# It takes two images at a time, which two threads share evenly, where channels times taps are at
# least so many, or else as many as have so many elements, or so many where rows are longer than a
# block: 3x3 8x112x112x32 took 7.2 ms at once and 4.6 by two, 8x56x56x16 0.48 and 0.58.
SHARED = 1024
ELEMENTS = 1 << 12
LONG = 1 << 19

# Channels fewer than WIDTH are folded with those of the next outputs, in images of at least so many
# elements, for kernels of up to so many taps along the last axis: each is another fusion. Of 50,000
# elements, 3x3 8x56x56x16, it took 1.6 times as long.
FOLDED = 1 << 17
FOLDED_TAPS = 3


class Block(NamedTuple):
    """One axis and how its taps are cut: into ``pieces`` blocks of ``k``."""

    axis: Axis
    k: int
    pieces: int

    @property
    def one(self) -> Axis:
        return self.axis._replace(k=self.k)

    @property
    def all(self) -> Axis:
        """The last block may reach past the kernel, where the weights are padded with zeros."""
        return self.axis._replace(k=self.k * self.pieces)


def in_blocks(axes, whole: int) -> list[Block]:
    """The whole, or the blocks of taps whose windows are copied least in total.

    Squarer blocks overlap less: the filter gradient of 7x7 8x56x56x96 took 10.6 ms in blocks of
    1x28 outputs and 8.0 ms in blocks of 4x8.
    """
    if math.prod(axis.k for axis in axes) <= whole:
        return [Block(axis, axis.k, 1) for axis in axes]
    cuts = ({even_extent(axis.k, room) for room in range(1, BLOCK + 1)} for axis in axes)
    choices = (k for k in itertools.product(*cuts) if math.prod(k) <= BLOCK)
    candidates = [[Block(*cut) for cut in _counted(axes, k)] for k in choices]
    return min(candidates, key=_copied)


def in_folded_blocks(axes, spec: ConvSpec) -> tuple[list[Block], int]:
    """The blocks of a filter gradient, and how many taps of the last axis taps.py folds."""
    blocks = in_blocks(axes, BLOCK)
    *outer, last = axes
    room = WIDTH // spec.out_features
    small = math.prod(axis.k for axis in axes) * spec.out_features < FOLDED
    if small or last.d > 1 or last.o > FOLDED_TAPS or room < 2:
        return blocks, 1
    fold = max(n for n in range(1, room + 1) if last.k % n == 0)
    *blocks, inner = in_blocks([*outer, last._replace(k=last.k // fold, d=fold)], BLOCK)
    return [*blocks, Block(last, inner.k * fold, inner.pieces)], fold


def _counted(axes, extents):
    return [(axis, k, -(-axis.k // k)) for axis, k in zip(axes, extents, strict=True)]


def _copied(blocks) -> float:
    """The inputs copied into windows, dearer by the share of the weights that is padding."""
    padding = math.prod(block.all.k / block.axis.k for block in blocks)
    return math.prod(block.pieces * block.one.window for block in blocks) * padding


def batches_and_cuts(blocks, x, spec: ConvSpec) -> tuple[int, int]:
    """Into how many parts a filter gradient cuts the images and the channels."""
    batch = x.shape[0]
    if not isinstance(batch, int):
        return 1, 1
    width = _width(spec)
    cuts = spec.in_features // width
    shared = spec.taps <= WHOLE and spec.taps * width >= SHARED
    elements = LONG if blocks[-1].axis.k > BLOCK else ELEMENTS
    usual = max(2 if shared else 1, elements // (math.prod(x.shape[1:-1]) * width))
    fitting = max(1, int(batch * cuts * _allowed(blocks) / _temporaries(blocks)))
    least = -(-batch // min(usual, fitting, batch))
    return next(p for p in range(least, batch + 1) if batch % p == 0), cuts


def _width(spec: ConvSpec) -> int:
    """In-features at a time: those of ``WIDTH`` filters, or what divides them well, or all."""
    room = max(1, WIDTH // spec.group_out)
    width = max(n for n in range(1, room + 1) if spec.in_features % n == 0)
    few = spec.in_features < 2 * room or 2 * width < room
    return spec.in_features if few else width


def parts_of_batch(blocks, batch) -> int:
    """The fewest equal parts that keep temporaries small; single images where none do."""
    least = _temporaries(blocks) / _allowed(blocks)
    if least <= 1 or not isinstance(batch, int):
        return 1
    return next(p for p in range(1, batch + 1) if (p >= least or p == batch) and batch % p == 0)


def parts_of_channels(blocks, channels: int, parts: int) -> int:
    """The same of channels, whose slices are copied, in one of so many parts of the batch."""
    allowed = _allowed(blocks) * parts
    if _temporaries(blocks) <= allowed:
        return 1
    slices = sum(_per_channel(blocks))
    least = (_temporaries(blocks) + slices) / allowed
    return next((p for p in range(2, channels) if p >= least and channels % p == 0), 1)


def _allowed(blocks) -> float:
    """Temporaries of one channel of one image."""
    inputs, _, outputs = _per_channel(blocks)
    return TEMPORARIES * max(inputs, outputs)


def _per_channel(blocks) -> list[int]:
    """The elements of ``x``, weights and ``y`` that one channel of one image has."""
    axes = [(block.axis.n, block.axis.k, block.axis.o) for block in blocks]
    return [math.prod(sizes) for sizes in zip(*axes, strict=True)]


def _temporaries(blocks) -> int:
    """What is padded of one channel of one image, and of blocks the windows and the sums."""
    padded = math.prod(block.all.window for block in blocks)
    if not several(blocks):
        return padded
    weights = math.prod(block.all.k for block in blocks)
    uneven = any(block.all.k > block.axis.k for block in blocks)
    window = math.prod(block.one.window for block in blocks)
    return padded + window + math.prod(block.axis.o for block in blocks) + uneven * weights


def several(blocks) -> bool:
    return any(block.pieces > 1 for block in blocks)


def first_tap(t, blocks):
    at = []
    for block in reversed(blocks):
        at.append(lax.rem(t, block.pieces) * block.k)
        t = lax.div(t, block.pieces)
    return at[::-1]
