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

# A filter gradient takes this many channels at a time where there are at least twice as many, and
# as many images as have so many elements, but two, which two threads share evenly. 3x3 8x14x14x512
# took 3.2 ms an image and all channels at a time, 2.1 with two images, and 0.9 with 128 channels as
# well: rows of 512 lie a multiple of 2048 bytes apart, and the first cache holds few of those.
# 8x112x112x32 took 7.2 ms at once, 4.6 two at a time; 64x7x7x32 0.21 by 8, 0.29 by 32.
WIDTH = 128
ELEMENTS = 1 << 14

# Channels that are fewer are folded with those of the next outputs, for kernels of up to so many
# taps along the last axis, each of which is another fusion.
FOLDED = 7


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
    blocks, fold = _folded_blocks(axes, spec)
    batches, cuts = _batches_and_cuts(blocks, x, spec)
    parts = batches * cuts
    plain = functools.partial(_correlate_part, blocks=blocks, sums=sums)
    part = plain if fold == 1 else functools.partial(_folded, blocks=blocks, sums=sums, fold=fold)

    def summed(x, g):
        return _by_channels(part, _each_filter(x, spec), g, blocks, sums, parts).sum(0)

    def step(t, dkernel):
        at = lax.div(t, cuts), lax.rem(t, cuts)
        some = [_some(a, at, (batches, cuts)) for a in (x, g)]
        # Blocks are many enough products that XLA makes slices real operands by itself.
        more = summed(*some) if _cut(blocks) else materialised(t, summed, *some)
        start, width = at[1] * more.shape[-1], more.shape[-1]
        more += lax.dynamic_slice_in_dim(dkernel, start, width, axis=-1)
        return lax.dynamic_update_slice_in_dim(dkernel, more, start, axis=-1)

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
    part = functools.partial(_correlate_part, blocks=blocks, sums=sums, reverse=reverse)
    if parts == 1:
        return _by_channels(part, x, weights, blocks, sums, parts)
    images = x.shape[0] // parts

    def step(t, y):
        some = lax.dynamic_slice_in_dim(x, t * images, images)
        y_part = _by_channels(part, some, weights, blocks, sums, parts)
        return lax.dynamic_update_slice_in_dim(y, y_part, t * images, axis=0)

    return lax.fori_loop(0, parts, step, _zeros(x, axes, sums))


def _by_channels(part, x, weights, blocks, sums, parts: int):
    """``part`` of one of so many parts, some of its channels at a time where memory asks."""
    cuts = _parts_of_channels(blocks, x.shape[-1], parts)
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


def _folded_blocks(axes, spec: ConvSpec) -> tuple[list[Block], int]:
    """The blocks of a filter gradient, and how many taps of the last axis ``_folded`` folds."""
    blocks = _blocks(axes, BLOCK)
    *outer, last = axes
    room = WIDTH // spec.out_features
    if not _cut(blocks) or last.d > 1 or last.o > FOLDED or room < 2:
        return blocks, 1
    fold = max(n for n in range(1, room + 1) if last.k % n == 0)
    *blocks, inner = _blocks([*outer, last._replace(k=last.k // fold, d=fold)], BLOCK)
    return [*blocks, Block(last, inner.k * fold, inner.pieces)], fold


def _counted(axes, extents):
    return [(axis, k, -(-axis.k // k)) for axis, k in zip(axes, extents, strict=True)]


def _copied(blocks) -> float:
    """The inputs copied into windows, dearer by the share of the weights that is padding."""
    padding = math.prod(block.all.k / block.axis.k for block in blocks)
    return math.prod(block.pieces * block.one.window for block in blocks) * padding


def _batches_and_cuts(blocks, x, spec: ConvSpec) -> tuple[int, int]:
    """Into how many parts a filter gradient cuts the images and the channels."""
    batch = x.shape[0]
    if not isinstance(batch, int):
        return 1, 1
    width = _width(spec)
    cuts = spec.in_features // width
    least = 2 if spec.taps <= WHOLE else 1
    usual = max(least, ELEMENTS // (math.prod(x.shape[1:-1]) * width))
    fitting = max(1, int(batch * cuts * _allowed(blocks) / _temporaries(blocks)))
    images = min(usual, fitting, batch)
    return next(
        parts for parts in range(-(-batch // images), batch + 1) if batch % parts == 0
    ), cuts


def _width(spec: ConvSpec) -> int:
    """In-features at a time: those of ``WIDTH`` filters, or what divides them well, or all."""
    room = max(1, WIDTH // spec.group_out)
    width = max(n for n in range(1, room + 1) if spec.in_features % n == 0)
    few = spec.in_features < 2 * room or 2 * width < room
    return spec.in_features if few else width


def _some(a, at, parts):
    """Part ``at`` of the images and of the channels, of so many ``parts``."""
    images, width = a.shape[0] // parts[0], a.shape[-1] // parts[1]
    start = (at[0] * images, *[0] * (a.ndim - 2), at[1] * width)
    return lax.dynamic_slice(a, start, (images, *a.shape[1:-1], width))


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


def _folded(x, weights, blocks, sums, fold: int):
    """``_correlate_part`` by blocks, ``fold`` neighbours along the last axis standing as channels.

    Without stride along it, the taps of any one output there are a contiguous run of ``x``, as
    their weights are. Vectors are longer, and windows overlap less: 3x3 1x112x112x32 took 0.60 ms,
    folded by four 0.44; 3x3x3 2x16x32x32x64, by two, 7.9 and 5.6.
    """
    *outer, last = [block.one for block in blocks]
    channels = x.shape[-1]
    x = pad(x, [block.all.border for block in blocks])
    weights = pad(weights, [(0, block.all.k - block.axis.k, 0) for block in blocks])
    # Merged after a block is sliced, and not before the loop, they took the loop twice as long.
    x, weights = (a.reshape(*a.shape[:-2], -1) for a in (x, weights))
    terms = list(itertools.product(*[range(a.k) for a in outer], range(0, last.k, fold)))

    def run(a, start: int):
        return a[..., start * channels : (start + fold) * channels]

    def products(t):
        *at, first = _first_tap(t, blocks)
        starts = [i * axis.d for i, axis in zip(at, outer, strict=True)]
        some = _flat(x, starts, [a.window for a in outer], first, last.window, channels)
        some_weights = _flat(weights, at, [a.k for a in outer], first, last.k, channels)
        some, some_weights = some.astype(sums), some_weights.astype(sums)
        for o in range(last.o):
            reads = [run(tap(some, outer, at), o * last.s + i) for *at, i in terms]
            factors = [run(_weight(some_weights, at), i) for *at, i in terms]
            yield functools.reduce(operator.add, map(operator.mul, reads, factors))

    def step(t, y):
        return [a + b for a, b in zip(y, products(t), strict=True)]

    shape = (x.shape[0], *[axis.o for axis in outer], fold * channels)
    y = [jnp.zeros(shape, sums)] * last.o
    y = lax.fori_loop(0, math.prod(block.pieces for block in blocks), step, y)
    return jnp.stack(y, axis=-2).reshape(*shape[:-1], last.o, fold, channels).sum(-2)


def _flat(a, starts, sizes, start, size: int, channels: int):
    """A window of arrays whose last spatial axis holds the channels too."""
    sizes = (a.shape[0], *sizes, size * channels)
    return lax.dynamic_slice(a, (0, *starts, start * channels), sizes)


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
