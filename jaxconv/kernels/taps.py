"""Depthwise convolutions as shifted multiply-accumulates, in plain XLA.

All three operators, and every phase of a strided input gradient, are one computation:

    y[n, o, c] = sum over i of  x[n, o*s + i*d - low, c] * weights[n, i, c]

For the forward convolution the weights are the kernel. For the input gradient ``x`` is the
cotangent and the weights are the reversed kernel. For the filter gradient the weights are the
cotangent (another for each ``n``), ``y`` is the kernel, and stride and dilation change places.
A multiplier ``M`` repeats each in-feature ``M`` times, so that one channel has one filter.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from ..spec import ConvSpec, Operator
from .dtypes import results_dtypes
from .windows import (
    Axis,
    even_extent,
    forward_axes,
    interleaved,
    materialised,
    pad,
    phase,
    tap,
    window,
)

# A kernel of so many taps is one fusion: 45 GMAC/s on 7x7 8x56x56x96, but 4 on the 125 taps of
# 5x5x5 2x16x16x16x64.
WHOLE = 49

# More are cut into blocks of at most this: 13x13 4x28x28x128 ran at 45 GMAC/s, with 16 at 44,
# with 64 at 31; the filter gradient of 7x7 8x56x56x96 at 26, 23 and 12. The weights of a filter
# gradient are as large as an image: 5x5 8x7x7x960 took 1.1 ms in blocks, 2.0 in one fusion of 49.
BLOCK = 32

# A strided input gradient computes each phase apart up to this many; each compiles its fusions.
PHASES = 8

# Temporaries, in multiples of the larger of the two images, above which the batch is cut, or the
# channels of one image, which costs copies. Cutting the batch costs nothing that shows: 7x7
# 8x14x14x384 took as long in two parts, with half the temporaries.
TEMPORARIES = 2.0

# A filter gradient sums images of up to BLOCK outputs a row one by one. At once, 5x5 8x7x7x960 took
# 2.3 times as long and 3x3 s2 8x28x28x256 twice, but 5x5x5 2x16x16x16x64, of 1 << 18 elements an
# image, 0.8 times. Images of fewer elements than SMALL are taken several at a time.
LARGE = 1 << 18
SMALL = 1 << 12


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


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    del precision  # it chooses how matrix units round; there are no matrix products here
    dtype, sums = results_dtypes(x, kernel, dtype)
    x, weights = _each_filter(x, spec), _weights(kernel, spec)
    return _correlate(x, weights, forward_axes(spec), sums).astype(dtype)


def input_grad(g, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    del precision
    dtype, sums = results_dtypes(g, kernel, dtype)
    weights, axes = _weights(kernel, spec), forward_axes(spec)
    if math.prod(spec.strides) > PHASES:
        g, axes = _unstrided(g, axes)
    starts = itertools.product(*[range(axis.s) for axis in axes])
    dx = interleaved([_phase(g, weights, axes, at, sums) for at in starts], axes)
    # Strided slices: 0.6 ms on x2 3x3 8x28x28x128, where a sum over a trailing axis takes 40.
    filters = [dx[..., m :: spec.group_out] for m in range(spec.group_out)]
    return functools.reduce(operator.add, filters).astype(dtype)


def filter_grad(x, g, spec: ConvSpec, *, precision=None, dtype=None):
    del precision
    dtype, sums = results_dtypes(x, g, dtype)
    axes = [Axis(a.n, a.k, a.o, a.d, a.s, a.low) for a in forward_axes(spec)]
    blocks = _blocks(axes, BLOCK)
    parts = max(_parts_of_batch(blocks, x.shape[0]), _small_images(blocks, x))
    images = x.shape[0] // parts

    def summed(x, g):
        return _by_channels(_each_filter(x, spec), g, blocks, sums, parts).sum(0)

    def step(t, dkernel):
        some = [lax.dynamic_slice_in_dim(a, t * images, images) for a in (x, g)]
        # Blocks are many enough products that XLA makes slices real operands by itself.
        return dkernel + (summed(*some) if _cut(blocks) else materialised(t, summed, *some))

    if parts == 1:
        dkernel = summed(x, g)
    else:
        zeros = jnp.zeros((*spec.kernel_spatial, spec.out_features), sums)
        dkernel = lax.fori_loop(0, parts, step, zeros)
    return dkernel.reshape(spec.kernel_shape).astype(dtype)


def refusal(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    if spec.depthwise:
        return None
    return f"taps serves depthwise convolutions only, but a group has {spec.group_in} in-features"


def _each_filter(x, spec: ConvSpec):
    return x if spec.group_out == 1 else jnp.repeat(x, spec.group_out, axis=-1)


def _weights(kernel, spec: ConvSpec):
    return kernel.reshape(1, *spec.kernel_spatial, spec.out_features)


def _phase(g, weights, axes, at, sums):
    """The gradient at the inputs ``at``, ``at + strides``, …"""
    chosen = [phase(axis, r) for axis, r in zip(axes, at, strict=True)]
    taps, axes = zip(*chosen, strict=True)
    if any(axis.k == 0 for axis in axes):
        return _zeros(g, axes, sums)
    return _correlate(g, weights[:, *taps], axes, sums, reverse=True)


def _unstrided(g, axes):
    """The same input gradient at stride 1, with zeros between the cotangents."""
    g = pad(g, [(0, 0, axis.s - 1) for axis in axes])
    return g, [axis._replace(o=(axis.o - 1) * axis.s + 1, s=1) for axis in axes]


def _correlate(x, weights, axes, sums, *, reverse=False):
    """The computation above, a part of the batch or the channels at a time where memory asks."""
    blocks = _blocks(axes, WHOLE)
    parts = _parts_of_batch(blocks, x.shape[0])
    if parts == 1:
        return _by_channels(x, weights, blocks, sums, parts, reverse)
    images = x.shape[0] // parts

    def step(t, y):
        some = lax.dynamic_slice_in_dim(x, t * images, images)
        y_part = _by_channels(some, weights, blocks, sums, parts, reverse)
        return lax.dynamic_update_slice_in_dim(y, y_part, t * images, axis=0)

    return lax.fori_loop(0, parts, step, _zeros(x, axes, sums))


def _by_channels(x, weights, blocks, sums, parts: int, reverse=False):
    """One of so many parts of the batch, a part of the channels at a time where memory asks."""
    cuts = _parts_of_channels(blocks, x.shape[-1], parts)
    part = functools.partial(_correlate_part, blocks=blocks, sums=sums, reverse=reverse)
    if cuts == 1:
        return part(x, weights)
    width = x.shape[-1] // cuts

    def step(t, y):
        some = [lax.dynamic_slice_in_dim(a, t * width, width, axis=-1) for a in (x, weights)]
        y_part = materialised(t, part, *some)
        return lax.dynamic_update_slice_in_dim(y, y_part, t * width, axis=-1)

    zeros = _zeros(x, [block.axis for block in blocks], sums)
    return lax.fori_loop(0, cuts, step, zeros)


def _blocks(axes, whole: int) -> list[Block]:
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


def _counted(axes, extents):
    return [(axis, k, -(-axis.k // k)) for axis, k in zip(axes, extents, strict=True)]


def _copied(blocks) -> float:
    """The inputs copied into windows, dearer by the share of the weights that is padding."""
    padding = math.prod(block.all.k / block.axis.k for block in blocks)
    return math.prod(block.pieces * block.one.window for block in blocks) * padding


def _small_images(blocks, x) -> int:
    """How many parts of the batch a filter gradient sums, one by one, where images are small."""
    elements = math.prod(x.shape[1:])
    if not isinstance(x.shape[0], int) or blocks[-1].axis.k > BLOCK or elements >= LARGE:
        return 1
    room = max(SMALL // elements, 1)
    return x.shape[0] // max(d for d in range(1, room + 1) if x.shape[0] % d == 0)


def _parts_of_batch(blocks, batch) -> int:
    """The fewest equal parts that keep temporaries small; single images where none do."""
    least = _temporaries(blocks) / _allowed(blocks)
    if least <= 1 or not isinstance(batch, int):
        return 1
    return next(p for p in range(1, batch + 1) if (p >= least or p == batch) and batch % p == 0)


def _parts_of_channels(blocks, channels: int, parts: int) -> int:
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
    if not _cut(blocks):
        return padded
    weights = math.prod(block.all.k for block in blocks)
    uneven = any(block.all.k > block.axis.k for block in blocks)
    window = math.prod(block.one.window for block in blocks)
    return padded + window + math.prod(block.axis.o for block in blocks) + uneven * weights


def _cut(blocks) -> bool:
    return any(block.pieces > 1 for block in blocks)


def _correlate_part(x, weights, blocks, sums, reverse=False):
    """In one fusion, or by a loop over blocks of taps."""
    axes = [block.one for block in blocks]
    if reverse:
        weights = lax.rev(weights, range(1, len(axes) + 1))
    # All is padded before the loop. A window padded within is padded again at every use: the
    # filter gradient of 5x5 8x7x7x960 took 5.6 ms so, and 2.0 ms with slices alone.
    x = pad(x, [block.all.border for block in blocks])
    if not _cut(blocks):
        return _products(x, weights, axes, sums)
    weights = pad(weights, [(0, block.all.k - block.axis.k, 0) for block in blocks])

    def step(t, y):
        at = _first_tap(t, blocks)
        starts = [i * axis.d for i, axis in zip(at, axes, strict=True)]
        some = window(x, starts, [axis.window for axis in axes])
        return y + _products(some, window(weights, at, [axis.k for axis in axes]), axes, sums)

    zeros = _zeros(x, [block.axis for block in blocks], sums)
    return lax.fori_loop(0, math.prod(block.pieces for block in blocks), step, zeros)


def _first_tap(t, blocks):
    at = []
    for block in reversed(blocks):
        at.append(lax.rem(t, block.pieces) * block.k)
        t = lax.div(t, block.pieces)
    return at[::-1]


def _products(x, weights, axes, sums):
    """Unrolled into a single fusion, which XLA vectorises along the channels."""
    terms = itertools.product(*[range(axis.k) for axis in axes])
    products = [tap(x, axes, at).astype(sums) * _weight(weights, at).astype(sums) for at in terms]
    return functools.reduce(operator.add, products)


def _weight(weights, at):
    return weights[:, *[slice(i, i + 1) for i in at]]


def _zeros(x, axes, dtype):
    return jnp.zeros((x.shape[0], *[axis.o for axis in axes], x.shape[-1]), dtype)
