"""Depthwise convolutions as shifted multiply-accumulates, in plain XLA.

All three operators, and each phase of a strided input gradient, are the same computation:

    y[n, o, c] = sum over i of  x[n, o*s + i*d - low, c] * weights[n, i, c]

For the forward convolution, the weights are the kernel. For the input gradient, ``x`` is the
cotangent and the weights are the reversed kernel. For the filter gradient, the weights are the
cotangent (which depends on ``n``), ``y`` is the kernel, and stride and dilation are swapped.
With a multiplier ``M`` each input channel is repeated ``M`` times, so every channel has one filter.
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
from .windows import Axis, forward_axes, interleaved, materialized, pad, phase, tap, window

# Up to this many phases of a strided input gradient are computed separately; each is compiled.
MAX_PHASES = 8


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    del precision  # it concerns matrix products, and there are none here
    dtype, sums = results_dtypes(x, kernel, dtype)
    x, weights = _each_filter(x, spec), _weights(kernel, spec)
    return _correlate(x, weights, forward_axes(spec), sums).astype(dtype)


def input_grad(g, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    del precision
    dtype, sums = results_dtypes(g, kernel, dtype)
    weights, axes = _weights(kernel, spec), forward_axes(spec)
    if math.prod(spec.strides) > MAX_PHASES:
        g, axes = _unstrided(g, axes)
    residues = itertools.product(*[range(axis.s) for axis in axes])
    dx = interleaved([_phase(g, weights, axes, each, sums) for each in residues], axes)
    # A sum over a trailing axis would take 40 ms where these strided slices take 0.6.
    per_filter = [dx[..., m :: spec.group_out] for m in range(spec.group_out)]
    return functools.reduce(operator.add, per_filter).astype(dtype)


def filter_grad(x, g, spec: ConvSpec, *, precision=None, dtype=None):
    del precision
    dtype, sums = results_dtypes(x, g, dtype)
    axes = [Axis(a.n, a.k, a.o, a.d, a.s, a.low) for a in forward_axes(spec)]
    tiling, fold = tap_plan.in_folded_tiles(axes, spec)
    batch_parts, channel_parts = tap_plan.filter_grad_parts(tiling, x, spec)
    parts = batch_parts * channel_parts
    plain = functools.partial(_correlate_part, tiling=tiling, sums=sums)
    part = plain if fold == 1 else functools.partial(_folded, tiling=tiling, sums=sums, fold=fold)

    def summed(x, g):
        return _by_channels(part, _each_filter(x, spec), g, tiling, sums, parts).sum(0)

    def step(t, dkernel):
        at = lax.div(t, channel_parts), lax.rem(t, channel_parts)
        slices = [_slice_of(a, at, (batch_parts, channel_parts)) for a in (x, g)]
        # With several tiles there are so many products that XLA materializes slices by itself.
        part_sum = summed(*slices) if tap_plan.several(tiling) else materialized(t, summed, *slices)
        start, width = at[1] * part_sum.shape[-1], part_sum.shape[-1]
        part_sum += lax.dynamic_slice_in_dim(dkernel, start, width, axis=-1)
        return lax.dynamic_update_slice_in_dim(dkernel, part_sum, start, axis=-1)

    if parts == 1:
        dkernel = summed(x, g)
    else:
        zeros = jnp.zeros((*spec.kernel_spatial, spec.out_features), sums)
        dkernel = lax.fori_loop(0, parts, step, zeros)
    return dkernel.reshape(spec.kernel_shape).astype(dtype)


def unsupported_reason(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    if spec.depthwise:
        return None
    return (
        "taps supports only depthwise convolutions, but each group has "
        f"{spec.group_in} input channels"
    )


def _each_filter(x, spec: ConvSpec):
    return x if spec.group_out == 1 else jnp.repeat(x, spec.group_out, axis=-1)


def _weights(kernel, spec: ConvSpec):
    return kernel.reshape(1, *spec.kernel_spatial, spec.out_features)


def _phase(g, weights, axes, residues, sums):
    """The gradient at the inputs ``residues``, ``residues + strides``, …"""
    phases = [phase(axis, residue) for axis, residue in zip(axes, residues, strict=True)]
    taps, axes = zip(*phases, strict=True)
    if any(axis.k == 0 for axis in axes):
        return _zeros(g, axes, sums)
    return _correlate(g, weights[:, *taps], axes, sums, reverse=True)


def _unstrided(g, axes):
    """The same input gradient at stride 1, with zeros between the entries of the cotangent."""
    g = pad(g, [(0, 0, axis.s - 1) for axis in axes])
    return g, [axis._replace(o=(axis.o - 1) * axis.s + 1, s=1) for axis in axes]


def _correlate(x, weights, axes, sums, *, reverse=False):
    """The computation above, split over batch or channels if it needs too much memory."""
    tiling = tap_plan.in_tiles(axes, tap_plan.MAX_FUSED_TAPS)
    parts = tap_plan.parts_of_batch(tiling, x.shape[0])
    part = functools.partial(_correlate_part, tiling=tiling, sums=sums, reverse=reverse)
    if parts == 1:
        return _by_channels(part, x, weights, tiling, sums, parts)
    images = x.shape[0] // parts

    def step(t, y):
        x_part = lax.dynamic_slice_in_dim(x, t * images, images)
        y_part = _by_channels(part, x_part, weights, tiling, sums, parts)
        return lax.dynamic_update_slice_in_dim(y, y_part, t * images, axis=0)

    return lax.fori_loop(0, parts, step, _zeros(x, axes, sums))


def _by_channels(part, x, weights, tiling, sums, parts: int):
    """Applies ``part`` to one of ``parts`` parts, split over channels if memory requires."""
    channel_parts = tap_plan.parts_of_channels(tiling, x.shape[-1], parts)
    if channel_parts == 1:
        return part(x, weights)
    width = x.shape[-1] // channel_parts

    def step(t, y):
        slices = [lax.dynamic_slice_in_dim(a, t * width, width, axis=-1) for a in (x, weights)]
        y_part = materialized(t, part, *slices)
        return lax.dynamic_update_slice_in_dim(y, y_part, t * width, axis=-1)

    zeros = _zeros(x, [each.axis for each in tiling], sums)
    return lax.fori_loop(0, channel_parts, step, zeros)


def _slice_of(a, at, parts):
    """Part ``at`` of the images and of the channels, which are split into ``parts``."""
    images, width = a.shape[0] // parts[0], a.shape[-1] // parts[1]
    start = (at[0] * images, *[0] * (a.ndim - 2), at[1] * width)
    return lax.dynamic_slice(a, start, (images, *a.shape[1:-1], width))


def _correlate_part(x, weights, tiling, sums, reverse=False):
    """In one fusion, or by a loop over tiles of taps."""
    axes = [each.tile for each in tiling]
    if reverse:
        weights = lax.rev(weights, range(1, len(axes) + 1))
    # Padding comes before the loop: inside, a window is padded again at every use, and a filter
    # gradient took 5.6 ms instead of 2.0; see docs/design/measurements.md.
    x = pad(x, [each.all.border for each in tiling])
    if not tap_plan.several(tiling):
        return _products(x, weights, axes, sums)
    weights = pad(weights, [(0, each.all.k - each.axis.k, 0) for each in tiling])

    def step(t, y):
        at = tap_plan.first_tap(t, tiling)
        starts = [i * axis.d for i, axis in zip(at, axes, strict=True)]
        x_window = window(x, starts, [axis.window for axis in axes])
        return y + _products(x_window, window(weights, at, [axis.k for axis in axes]), axes, sums)

    zeros = _zeros(x, [each.axis for each in tiling], sums)
    return lax.fori_loop(0, math.prod(each.tiles for each in tiling), step, zeros)


def _folded(x, weights, tiling, sums, fold: int):
    """``_correlate_part`` by tiles, with ``fold`` neighbors along the last axis as channels.

    Without dilation along it, the taps of one output are contiguous in ``x``, and so are their
    weights. Vectors become longer and windows overlap less: 0.60 ms become 0.44; see
    docs/design/measurements.md.
    """
    *outer, last = [each.tile for each in tiling]
    channels = x.shape[-1]
    x = pad(x, [each.all.border for each in tiling])
    weights = pad(weights, [(0, each.all.k - each.axis.k, 0) for each in tiling])
    # Merged before the loop: merging after a tile is sliced takes twice as long.
    x, weights = (a.reshape(*a.shape[:-2], -1) for a in (x, weights))
    terms = list(itertools.product(*[range(a.k) for a in outer], range(0, last.k, fold)))

    def run(a, start: int):
        return a[..., start * channels : (start + fold) * channels]

    def products(t):
        *at, first = tap_plan.first_tap(t, tiling)
        starts = [i * axis.d for i, axis in zip(at, outer, strict=True)]
        x_window = _flat(x, starts, [a.window for a in outer], first, last.window, channels)
        tile_weights = _flat(weights, at, [a.k for a in outer], first, last.k, channels)
        x_window, tile_weights = x_window.astype(sums), tile_weights.astype(sums)
        for o in range(last.o):
            reads = [run(tap(x_window, outer, at), o * last.s + i) for *at, i in terms]
            factors = [run(_weight(tile_weights, at), i) for *at, i in terms]
            yield functools.reduce(operator.add, map(operator.mul, reads, factors))

    def step(t, y):
        return [a + b for a, b in zip(y, products(t), strict=True)]

    shape = (x.shape[0], *[axis.o for axis in outer], fold * channels)
    y = [jnp.zeros(shape, sums)] * last.o
    y = lax.fori_loop(0, math.prod(each.tiles for each in tiling), step, y)
    return jnp.stack(y, axis=-2).reshape(*shape[:-1], last.o, fold, channels).sum(-2)


def _flat(a, starts, sizes, start, size: int, channels: int):
    """A window of an array whose last spatial axis is merged with the channels."""
    sizes = (a.shape[0], *sizes, size * channels)
    return lax.dynamic_slice(a, (0, *starts, start * channels), sizes)


def _products(x, weights, axes, sums):
    """All taps unrolled into a single fusion, which XLA vectorizes along the channels."""
    terms = itertools.product(*[range(axis.k) for axis in axes])
    products = [tap(x, axes, at).astype(sums) * _weight(weights, at).astype(sums) for at in terms]
    return functools.reduce(operator.add, products)


def _weight(weights, at):
    return weights[:, *[slice(i, i + 1) for i in at]]


def _zeros(x, axes, dtype):
    return jnp.zeros((x.shape[0], *[axis.o for axis in axes], x.shape[-1]), dtype)
