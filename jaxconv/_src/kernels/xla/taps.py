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

import jax.numpy as jnp
from jax import lax

from ...geometry.spec import ConvSpec, Operator
from ..dtypes import results_dtypes
from . import tap_plan
from .windows import Axis, forward_axes, interleaved, materialised, pad, phase, tap, window

# A strided input gradient computes each phase apart up to this many; each compiles its fusions.
PHASES = 8


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
    blocks, fold = tap_plan.in_folded_blocks(axes, spec)
    batches, cuts = tap_plan.batches_and_cuts(blocks, x, spec)
    parts = batches * cuts
    plain = functools.partial(_correlate_part, blocks=blocks, sums=sums)
    part = plain if fold == 1 else functools.partial(_folded, blocks=blocks, sums=sums, fold=fold)

    def summed(x, g):
        return _by_channels(part, _each_filter(x, spec), g, blocks, sums, parts).sum(0)

    def step(t, dkernel):
        at = lax.div(t, cuts), lax.rem(t, cuts)
        some = [_some(a, at, (batches, cuts)) for a in (x, g)]
        # Blocks are many enough products that XLA makes slices real operands by itself.
        more = summed(*some) if tap_plan.several(blocks) else materialised(t, summed, *some)
        start, width = at[1] * more.shape[-1], more.shape[-1]
        more += lax.dynamic_slice_in_dim(dkernel, start, width, axis=-1)
        return lax.dynamic_update_slice_in_dim(dkernel, more, start, axis=-1)

    if parts == 1:
        dkernel = summed(x, g)
    else:
        zeros = jnp.zeros((*spec.kernel_spatial, spec.out_features), sums)
        dkernel = lax.fori_loop(0, parts, step, zeros)
    return dkernel.reshape(spec.kernel_shape).astype(dtype)


def unsupported_reason(operator: Operator, spec: ConvSpec, dtype) -> str | None:
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
    blocks = tap_plan.in_blocks(axes, tap_plan.WHOLE)
    parts = tap_plan.parts_of_batch(blocks, x.shape[0])
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
    cuts = tap_plan.parts_of_channels(blocks, x.shape[-1], parts)
    if cuts == 1:
        return part(x, weights)
    width = x.shape[-1] // cuts

    def step(t, y):
        some = [lax.dynamic_slice_in_dim(a, t * width, width, axis=-1) for a in (x, weights)]
        y_part = materialised(t, part, *some)
        return lax.dynamic_update_slice_in_dim(y, y_part, t * width, axis=-1)

    zeros = _zeros(x, [block.axis for block in blocks], sums)
    return lax.fori_loop(0, cuts, step, zeros)


def _some(a, at, parts):
    """Part ``at`` of the images and of the channels, of so many ``parts``."""
    images, width = a.shape[0] // parts[0], a.shape[-1] // parts[1]
    start = (at[0] * images, *[0] * (a.ndim - 2), at[1] * width)
    return lax.dynamic_slice(a, start, (images, *a.shape[1:-1], width))


def _correlate_part(x, weights, blocks, sums, reverse=False):
    """In one fusion, or by a loop over blocks of taps."""
    axes = [block.one for block in blocks]
    if reverse:
        weights = lax.rev(weights, range(1, len(axes) + 1))
    # All is padded before the loop. A window padded within is padded again at every use: the
    # filter gradient of 5x5 8x7x7x960 took 5.6 ms so, and 2.0 ms with slices alone.
    x = pad(x, [block.all.border for block in blocks])
    if not tap_plan.several(blocks):
        return _products(x, weights, axes, sums)
    weights = pad(weights, [(0, block.all.k - block.axis.k, 0) for block in blocks])

    def step(t, y):
        at = tap_plan.first_tap(t, blocks)
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
    # Merged before the loop: merged after a block is sliced, they made it take twice as long.
    x, weights = (a.reshape(*a.shape[:-2], -1) for a in (x, weights))
    terms = list(itertools.product(*[range(a.k) for a in outer], range(0, last.k, fold)))

    def run(a, start: int):
        return a[..., start * channels : (start + fold) * channels]

    def products(t):
        *at, first = tap_plan.first_tap(t, blocks)
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


def _products(x, weights, axes, sums):
    """Unrolled into a single fusion, which XLA vectorises along the channels."""
    terms = itertools.product(*[range(axis.k) for axis in axes])
    products = [tap(x, axes, at).astype(sums) * _weight(weights, at).astype(sums) for at in terms]
    return functools.reduce(operator.add, products)


def _weight(weights, at):
    return weights[:, *[slice(i, i + 1) for i in at]]


def _zeros(x, axes, dtype):
    return jnp.zeros((x.shape[0], *[axis.o for axis in axes], x.shape[-1]), dtype)
