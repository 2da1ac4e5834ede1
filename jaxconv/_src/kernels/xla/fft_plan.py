"""The lengths of the transforms of a convolution, and how each axis is split for them.

An axis is first split into ``c`` *phases*, the pixels of one residue modulo ``c``, so that what is
left to do has neither stride nor dilation:

- With dilation ``d`` and no stride, outputs of one residue modulo ``d`` read inputs of one residue
  only. The ``d`` phases are separate convolutions by the same taps: they join the batch.
- With stride ``s``, output ``o`` reads the inputs ``s*o + u``. Each residue of ``u`` has its own
  taps, of a kernel with zeros in place of its dilation, and all of them are summed: the ``s``
  phases join the channels of a group.

What is left, with ``p`` outputs, ``e`` taps, and ``w = p + e - 1`` padded inputs per phase, is the
trilinear form ``sum over o, u of  y[o] * x[o + u] * k[u]``. Inputs begin at pixel ``low`` and end
before pixel ``end``; the others, up to ``w``, are padding. On a circle of ``m`` pixels the form
keeps its value if

    m >= end        the inputs fit
    m >= w - low    what is read beyond the circle is padding on both sides

so the circle has room for the inputs and the wider one of the two paddings. All three operators are
derivatives of the form, so the same ``m`` serves each of them.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from ...geometry.spec import ConvSpec

# Copying, padding and multiplying an array takes as long as this many steps of its transforms.
STEPS_OF_COPYING = 6

# Blocks are at most this many times as long as the kernel: shorter kernels transform the whole axis
# or blocks of about 2^10 pixels, and longer blocks were never faster.
MAX_BLOCK_RATIO = 32

# The pixels of all channels of x or of y that are transformed at a time (4 MiB of float32), unless
# that is less than a cache line of channels.
MAX_PART_ELEMENTS = 1 << 20
MIN_PART_CHANNELS = 16


class FftAxis(NamedTuple):
    """One spatial axis.

    ``n`` inputs begin at padded pixel ``low``; ``outputs`` and ``taps`` (``step`` apart) are those
    of the axis. Split into ``phases``, each phase has ``p`` outputs and ``e`` taps, and is
    transformed in ``blocks`` blocks of ``m`` pixels, each with ``m - e + 1`` outputs if there are
    several. ``summed`` says whether phases join the channels instead of the batch.
    """

    n: int
    low: int
    outputs: int
    taps: int
    step: int
    phases: int
    summed: bool
    p: int
    e: int
    m: int
    blocks: int

    @property
    def block_outputs(self) -> int:
        return self.m - self.e + 1 if self.blocks > 1 else self.m

    @property
    def span(self) -> int:
        """The padded inputs per phase: one block, or one block of outputs more than there are."""
        return (self.blocks + 1) * self.block_outputs if self.blocks > 1 else self.m


@functools.lru_cache(maxsize=4096)
def plan(spec: ConvSpec) -> tuple[FftAxis, ...]:
    """How each axis of ``spec`` is transformed; its padding must not be negative (see ``cropped``).

    Static sizes only, but for the batch.
    """
    return tuple(_axis(spec, i) for i in range(spec.rank))


def cropped(spec: ConvSpec) -> tuple[ConvSpec, tuple[tuple[int, int], ...]]:
    """The same convolution of an input that is cropped to what is read, and the crop.

    A crop is a pair of entries that are not positive for ``lax.pad``. If nothing of the input is
    left on an axis, the crop is a padding instead, which replaces the input by zeros.
    """
    crops, extents, paddings = [], [], []
    sizes = zip(
        spec.input_spatial,
        spec.output_spatial,
        spec.effective_kernel,
        spec.strides,
        spec.padding,
        strict=True,
    )
    for n, o, e, s, (low, _) in sizes:
        window = (o - 1) * s + e
        high = window - n - low
        crop = min(low, 0), min(high, 0)
        if n + sum(crop) <= 0:
            crop = low, high
        crops.append(crop)
        extents.append(n + sum(crop))
        paddings.append((low - crop[0], high - crop[1]))
    return spec.replace(input_spatial=tuple(extents), padding=tuple(paddings)), tuple(crops)


def _axis(spec: ConvSpec, i: int) -> FftAxis:
    n, o, k = spec.input_spatial[i], spec.output_spatial[i], spec.kernel_spatial[i]
    s, d, (low, _) = spec.strides[i], spec.dilation[i], spec.padding[i]
    s, d = (1 if o == 1 else s), (1 if k == 1 else d)
    summed = s > 1
    phases, step = (s, d) if summed else (d, 1)
    e = -(-(step * (k - 1) + 1) // phases) if summed else k
    p = o if summed else -(-o // phases)
    first, end = low // phases, -(-(low + n) // phases)
    whole = fast_length(max(end, p + e - 1 - first, e, p))
    rows = spec.in_features + spec.out_features
    if isinstance(spec.batch, int):
        rows *= spec.batch
    m, blocks = _blocks(p, e, whole, rows, spec.group_in * spec.out_features)
    return FftAxis(n, low, o, k, step, phases, summed, p, e, m, blocks)


def _blocks(p: int, e: int, whole: int, rows: int, kernels: int) -> tuple[int, int]:
    """The length and number of the blocks of an axis that take the least time."""

    def cost(choice: tuple[int, int]) -> float:
        m, blocks = choice
        steps = math.log2(m) + STEPS_OF_COPYING if m > 1 else 1
        return (blocks * rows + kernels) * m * steps

    choices = [(whole, 1)]
    m = fast_length(max(2 * e, 16))
    while m < min(whole, MAX_BLOCK_RATIO * e + 1024):
        blocks = -(-p // (m - e + 1))
        if blocks > 1:
            choices.append((m, blocks))
        m = fast_length(m + max(m // 8, 1))
    return min(choices, key=cost)


@functools.lru_cache(maxsize=4096)
def fast_length(n: int) -> int:
    """The smallest length of at least ``n`` without prime factors beyond 5, and even from 2 on.

    >>> [fast_length(n) for n in (1, 7, 13, 8191, 8193)]
    [1, 8, 16, 8192, 8640]
    """
    if n <= 1:
        return 1
    half = -(-n // 2)
    lengths = []
    fives = 1
    while fives < 5 * half:
        threes = fives
        while threes < 3 * half:
            rest = -(-half // threes)
            lengths.append(threes << (rest - 1).bit_length())
            threes *= 3
        fives *= 5
    return 2 * min(length for length in lengths if length >= half)


def group_parts(spec: ConvSpec) -> int:
    """Into how many parts the groups are split, each transformed before the next."""
    if not isinstance(spec.batch, int):
        return 1
    pixels = transformed_pixels(spec) * spec.batch
    widest = max(spec.group_in, spec.group_out)
    minimum = -(-MIN_PART_CHANNELS // min(spec.group_in, spec.group_out))
    groups = max(MAX_PART_ELEMENTS // (pixels * widest), minimum)
    return min(
        n for n in range(1, spec.groups + 1) if spec.groups % n == 0 and spec.groups <= n * groups
    )


def transformed_pixels(spec: ConvSpec) -> int:
    """The pixels per channel and image that are transformed, padding included."""
    return math.prod(a.blocks * a.m * a.phases for a in plan(cropped(spec)[0]))
