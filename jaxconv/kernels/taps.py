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
    UNPADDED,
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

# Temporaries, in multiples of the larger of the two images, above which channels are cut. It
# costs copies: 7x7 8x14x14x384 needs 2.04 and 0.8 ms whole, but 1.5 ms in two parts.
TEMPORARIES = 2.1


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
    dkernel = _correlate(_each_filter(x, spec), g, axes, sums, whole=BLOCK).sum(0)
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
    return _correlate(g, lax.rev(weights[:, *taps], range(1, len(axes) + 1)), axes, sums)


def _unstrided(g, axes):
    """The same input gradient at stride 1, with zeros between the cotangents."""
    g = pad(g, [(0, 0, axis.s - 1) for axis in axes])
    return g, [axis._replace(o=(axis.o - 1) * axis.s + 1, s=1) for axis in axes]


def _correlate(x, weights, axes, sums, whole=WHOLE):
    """The computation above, a part of the channels at a time where memory asks for it."""
    blocks = _blocks(axes, whole)
    parts = _channel_parts(blocks, x.shape[-1])
    if parts == 1:
        return _correlate_part(x, weights, blocks, sums)
    width = x.shape[-1] // parts

    def part(x, weights):
        return _correlate_part(x, weights, blocks, sums)

    def step(t, y):
        a, b = (lax.dynamic_slice_in_dim(a, t * width, width, axis=-1) for a in (x, weights))
        return lax.dynamic_update_slice_in_dim(y, materialised(t, part, a, b), t * width, axis=-1)

    return lax.fori_loop(0, parts, step, _zeros(x, axes, sums))


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


def _channel_parts(blocks, channels: int) -> int:
    """The fewest equal parts of the channels that keep temporaries small, if there are any."""
    inputs = math.prod(block.axis.n for block in blocks)
    outputs = math.prod(block.axis.o for block in blocks)
    allowed = TEMPORARIES * max(inputs, outputs)
    temporaries = math.prod(block.one.window for block in blocks)
    if any(block.pieces > 1 for block in blocks):
        padded = (b.all.window if b.pieces > 1 else b.axis.n for b in blocks)
        temporaries += math.prod(padded) + outputs
    if temporaries <= allowed:
        return 1
    parts = (temporaries + inputs + outputs) / allowed
    return next((p for p in range(2, channels) if p >= parts and channels % p == 0), 1)


def _correlate_part(x, weights, blocks, sums):
    """In one fusion, or by a loop over blocks of taps."""
    axes = [block.one for block in blocks]
    if all(block.pieces == 1 for block in blocks):
        return _products(pad(x, [axis.border for axis in axes]), weights, axes, sums)
    x = pad(x, [block.all.border if block.pieces > 1 else UNPADDED for block in blocks])
    weights = pad(weights, [(0, block.all.k - block.axis.k, 0) for block in blocks])
    inner = [block.one.border if block.pieces == 1 else UNPADDED for block in blocks]
    sizes = [block.axis.n if block.pieces == 1 else block.one.window for block in blocks]

    def products(x, weights):
        return _products(x, weights, axes, sums)

    def step(t, y):
        at = _first_tap(t, blocks)
        starts = [i * axis.d for i, axis in zip(at, axes, strict=True)]
        some = window(weights, at, [axis.k for axis in axes])
        return y + materialised(t, products, pad(window(x, starts, sizes), inner), some)

    steps = math.prod(block.pieces for block in blocks)
    return lax.fori_loop(0, steps, step, _zeros(x, axes, sums))


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
