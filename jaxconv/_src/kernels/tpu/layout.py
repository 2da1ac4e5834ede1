"""How the arrays of a depthwise convolution are laid out on a TPU.

A TPU stores an array in tiles of 8 (or 4, 2 or 1) sublanes by 128 lanes. For the inputs and outputs
of a program XLA puts those two axes there that need the least padding, and copies an array if a
kernel expects others. So the kernels expect these arrangements, which need no copy on any
generation:

    PIXELS      [N, *S, C]      the last spatial axis on sublanes
    BATCH       [*S, N, C]      if 4, 8, 16, … images need less padding than that axis
    CHANNELS    [N, *S, C, W]   few channels with long rows: W, the last spatial axis, is on lanes

For a single image of 32-bit elements whose last axis would need padding, XLA puts the batch on
sublanes, in tiles of one: PIXELS with an axis of 1 before the channels. It copies arrays that it
lays out in other ways, such as two images (on sublanes) or 128 (on lanes).
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

import jax.numpy as jnp

from ...geometry.spec import ConvSpec, Operator
from .tiling import LANES, SUBLANES, Line, Taps, free, line, round_up

# With CHANNELS every 8 channels need a register of weights per tap.
MAX_LANE_TAPS = 128


class Arrangement(enum.Enum):
    PIXELS = "pixels"
    BATCH = "batch"
    CHANNELS = "channels"


class Plan(NamedTuple):
    """A convolution as the kernels see it: arrays ``[images, *leading, sublanes, lanes]``.

    With CHANNELS ``lanes`` is the line of the last spatial axis. Its taps are staged as shifted
    planes, which the second of ``lines`` represents as a leading axis of one pixel.
    """

    arrangement: Arrangement
    images: int
    lines: tuple[Line, ...]  # three leading axes and the sublane axis
    lanes: Line | None
    channels: int
    multiplier: int
    last: int  # taps of the last spatial axis

    @property
    def taps(self) -> int:
        return math.prod(line.kernel for line in self.lines)

    @property
    def tap_steps(self) -> tuple[int, ...]:
        """The distance, among all taps of the kernel, between neighboring taps of each line."""
        counts = [line.kernel for line in self.lines]
        if self.lanes is None:
            return tuple(math.prod(counts[axis + 1 :]) for axis in range(4))
        return counts[1] * counts[2], 1, counts[1], 0

    @property
    def whole(self) -> tuple[int, int]:
        """The lanes of arrays that have channels, and of those that have features."""
        if self.lanes is not None:
            return self.lanes.source, self.lanes.result
        return self.channels, self.channels * self.multiplier

    @property
    def block(self) -> tuple[int, int]:
        """The same for one block."""
        if self.lanes is not None or self.channels <= LANES:
            return self.whole
        return LANES, LANES * self.multiplier


def plan(operator: Operator, spec: ConvSpec) -> Plan:
    gradient = operator is Operator.INPUT_GRAD
    sizes = (spec.input_spatial, spec.output_spatial, spec.kernel_spatial, spec.strides)
    axes = zip(*sizes, spec.dilation, spec.padding, strict=True)
    lines = [line(n, o, k, s, d, low, gradient) for n, o, k, s, d, (low, _) in axes]
    arrangement = arrangement_of(spec)
    images, lanes = spec.batch, None
    if arrangement is Arrangement.BATCH:
        images, lines = 1, [*lines, free(spec.batch)]
    if arrangement is Arrangement.CHANNELS:
        *lines, lanes = lines
        planes = Line(1, 1, lanes.kernel, 1, 1, (Taps(lanes.kernel, 0, 1, 0, 1),))
        first, second = (free(1),) * (2 - len(lines)) + tuple(lines)
        lines = [first, planes, second, free(spec.in_features)]
    filled = (free(1),) * (4 - len(lines)) + tuple(lines)
    last = spec.kernel_spatial[-1]
    return Plan(arrangement, images, filled, lanes, spec.in_features, spec.group_out, last)


def arrangement_of(spec: ConvSpec) -> Arrangement:
    """The arrangement in which XLA lays out input and output, or PIXELS if they differ."""
    ends = (spec.input_spatial[-1], spec.output_spatial[-1])
    if _lanes_possible(spec) and all(_lanes_need_least_padding(spec, width) for width in ends):
        return Arrangement.CHANNELS
    # One or two images would leave most of each register empty.
    fills = spec.batch == 4 or spec.batch % SUBLANES == 0
    if fills and any(n % SUBLANES for n in ends):
        return Arrangement.BATCH
    return Arrangement.PIXELS


def _lanes_possible(spec: ConvSpec) -> bool:
    """Lanes cannot be read with a stride, nor repeated for several features per channel."""
    return spec.strides[-1] == 1 and spec.group_out == 1 and spec.taps <= MAX_LANE_TAPS


def _lanes_need_least_padding(spec: ConvSpec, width: int) -> bool:
    batch, channels = spec.batch, round_up(spec.in_features, LANES)
    tile = min(SUBLANES, 1 << (batch - 1).bit_length())
    lanes = batch * round_up(spec.in_features, SUBLANES) * round_up(width, LANES)
    pixels = batch * round_up(width, SUBLANES) * channels
    return lanes < min(pixels, round_up(batch, tile) * width * channels)


def padded(shape, itemsize: int) -> int:
    """The bytes of an array in tiles of 128 lanes by 8 sublanes, or 4, 2 or 1 for short axes.

    Elements of fewer than 32 bits share a sublane.
    """
    *leading, sublanes, lanes = shape
    tile = min(SUBLANES, max(1 << (sublanes - 1).bit_length(), 4 // itemsize))
    elements = math.prod(leading) * round_up(sublanes, tile) * round_up(lanes, LANES)
    return elements * itemsize


def ends(operator: Operator, p: Plan, lanes: tuple[int, int]) -> tuple[int, int]:
    """The lanes of the source and of the result (the cotangent, in a filter gradient).

    ``lanes`` are those of arrays with channels and of arrays with features.
    """
    channels, features = lanes
    if operator is Operator.INPUT_GRAD and p.lanes is None:
        return features, channels
    return channels, features


def single(p: Plan, pixels: int, itemsize: int) -> tuple[int, ...]:
    """The axis of a single image after the last spatial axis, of extent ``pixels``, if any."""
    one_image = p.arrangement is Arrangement.PIXELS and p.images == 1
    return (1,) if one_image and itemsize == 4 and pixels % SUBLANES else ()


def kernel_shape(p: Plan, lanes: tuple[int, int], itemsize: int) -> tuple[int, ...]:
    """The shape of the kernel, or of a block of it: ``[taps/row, row, features]`` as XLA stores it.

    A row is one tap of 32-bit elements, or else all taps of the last spatial axis.
    """
    features = p.channels if p.lanes is not None else lanes[1]
    row = 1 if itemsize == 4 else p.last
    return p.taps // row, row, features


def source_shape(operator: Operator, p: Plan, itemsize: int) -> tuple[int, ...]:
    pixels = [line.source for line in p.lines]
    lanes = ends(operator, p, p.whole)[0]
    return p.images, *pixels, *single(p, pixels[3], itemsize), lanes


def result_shape(operator: Operator, p: Plan, itemsize: int) -> tuple[int, ...]:
    """The shape of the result, or of the cotangent in a filter gradient."""
    pixels = [line.result for line in p.lines]
    lanes = ends(operator, p, p.whole)[1]
    return p.images, *pixels, *single(p, pixels[3], itemsize), lanes


def canonical(x, p: Plan, shape: tuple[int, ...]):
    """An array ``[N, *S, C]`` in one of the two shapes above."""
    if p.arrangement is Arrangement.BATCH:
        x = jnp.moveaxis(x, 0, -2)
    if p.arrangement is Arrangement.CHANNELS:
        x = jnp.swapaxes(x, -1, -2)
    return x.reshape(shape)


def natural(y, p: Plan, shape: tuple[int, ...]):
    """The inverse of ``canonical``; ``shape`` is ``[N, *S, C]``."""
    *leading, width, channels = shape
    if p.arrangement is Arrangement.BATCH:
        return jnp.moveaxis(y.reshape(*shape[1:-1], shape[0], channels), -2, 0)
    if p.arrangement is Arrangement.CHANNELS:
        return jnp.swapaxes(y.reshape(*leading, channels, width), -1, -2)
    return y.reshape(shape)
