"""Convolutions as matrix products, in plain XLA.

With the inputs that one output pixel reads laid out as a row, for each group a matrix
``rows [P, taps*C/G]`` of all pixels, the three operators are

    y = rows @ kernel        drows = g @ kernel.T        dkernel = rows.T @ g

Where the windows of different outputs do not overlap (1x1 kernels, patches), ``rows`` is ``x``
rearranged, and the products are taken whole. Where they do, rows are formed for a few lines of
one image at a time, and the input gradient is the convolutions of its phases.
"""

from __future__ import annotations

import itertools
import math

import jax.numpy as jnp
from jax import lax

from ..spec import ConvSpec, Operator
from .windows import (
    Axis,
    forward_axes,
    interleaved,
    materialised,
    pad,
    phase,
    results_dtypes,
)

# Elements of the rows formed at a time.
ROWS = 1 << 20


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    dtype, sums = results_dtypes(x, kernel, dtype)
    options = {"precision": precision, "preferred_element_type": sums}
    x, kernel = _common(x, kernel)
    kernel = _matrices(kernel, spec)
    if _disjoint(spec):
        y = jnp.matmul(_disjoint_rows(x, spec), kernel, **options)
        return _ungrouped(y.astype(dtype), spec.output_shape)
    return _unfolded_conv(x, kernel, forward_axes(spec), dtype, options)


def input_grad(g, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    dtype, sums = results_dtypes(g, kernel, dtype)
    options = {"precision": precision, "preferred_element_type": sums}
    g, kernel = _common(g, kernel)
    if _disjoint(spec):
        rows = jnp.matmul(_grouped(g, spec), _matrices(kernel, spec).mT, **options)
        return _scattered(rows.astype(dtype), spec)
    axes = forward_axes(spec)
    starts = itertools.product(*[range(axis.s) for axis in axes])
    phases = [_phase(g, kernel, spec, axes, at, dtype, options) for at in starts]
    return interleaved(phases, axes)


def filter_grad(x, g, spec: ConvSpec, *, precision=None, dtype=None):
    dtype, sums = results_dtypes(x, g, dtype)
    options = {"precision": precision, "preferred_element_type": sums}
    x, g = _common(x, g)
    if _disjoint(spec):
        dkernel = jnp.matmul(_disjoint_rows(x, spec).mT, _grouped(g, spec), **options)
    else:
        dkernel = _unfolded_filter_grad(x, g, spec, sums, options)
    dkernel = dkernel.reshape(spec.groups, spec.taps, spec.group_in, spec.group_out)
    return dkernel.transpose(1, 2, 0, 3).reshape(spec.kernel_shape).astype(dtype)


def refusal(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    return None


def _common(a, b):
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return a.astype(dtype), b.astype(dtype)


def _matrices(kernel, spec: ConvSpec):
    """``[*K, C/G, F] -> [G, taps*C/G, F/G]``"""
    kernel = kernel.reshape(-1, spec.groups, kernel.shape[-1] // spec.groups)
    return kernel.swapaxes(0, 1)


def _grouped(x, spec: ConvSpec):
    """``[…, C] -> [G, P, C/G]``"""
    return x.reshape(-1, spec.groups, x.shape[-1] // spec.groups).swapaxes(0, 1)


def _ungrouped(y, shape):
    """``[G, P, C/G] -> shape``"""
    return y.swapaxes(0, 1).reshape(shape)


# Windows that do not overlap. Each lies in its own tile of the strides' extent.


def _disjoint(spec: ConvSpec) -> bool:
    axes = zip(spec.kernel_spatial, spec.strides, spec.dilation, strict=True)
    return all(k == 1 or (k <= s and d == 1) for k, s, d in axes)


def _disjoint_rows(x, spec: ConvSpec):
    """``[N, *S, C] -> [G, P, taps*C/G]``"""
    axes = forward_axes(spec)
    x = pad(x, [(a.low, a.o * a.s - a.n - a.low, 0) for a in axes])
    x = x.reshape(x.shape[0], *[size for a in axes for size in (a.o, a.s)], spec.groups, -1)
    x = x[:, *[part for a in axes for part in (slice(None), slice(a.k))]]
    outputs, taps = range(1, 2 * spec.rank, 2), range(2, 2 * spec.rank + 1, 2)
    x = x.transpose(x.ndim - 2, 0, *outputs, *taps, x.ndim - 1)
    return x.reshape(spec.groups, -1, spec.taps * spec.group_in)


def _scattered(rows, spec: ConvSpec):
    """``[G, P, taps*C/G] -> [N, *S, C]``, zero where no window lies."""
    axes, rank = forward_axes(spec), spec.rank
    rows = rows.reshape(spec.groups, -1, *spec.output_spatial, *spec.kernel_spatial, spec.group_in)
    pairs = [axis for i in range(rank) for axis in (2 + i, 2 + rank + i)]
    x = rows.transpose(1, *pairs, 0, rows.ndim - 1)
    borders = [border for a in axes for border in ((0, 0, 0), (0, a.s - a.k, 0))]
    x = pad(x.reshape(*x.shape[:-2], spec.in_features), borders)
    x = x.reshape(x.shape[0], *[a.o * a.s for a in axes], spec.in_features)
    return pad(x, [(-a.low, a.n + a.low - a.o * a.s, 0) for a in axes])


# Windows that overlap.


def _phase(g, kernel, spec: ConvSpec, axes, at, dtype, options):
    """The gradient at the inputs ``at``, ``at + strides``, …"""
    chosen = [phase(axis, r) for axis, r in zip(axes, at, strict=True)]
    taps, axes = zip(*chosen, strict=True)
    if any(axis.k == 0 for axis in axes):
        return jnp.zeros((g.shape[0], *[axis.o for axis in axes], spec.in_features), dtype)
    kernel = lax.rev(kernel[*taps], range(spec.rank))
    kernel = kernel.reshape(-1, spec.group_in, spec.groups, spec.group_out)
    kernel = kernel.transpose(2, 0, 3, 1).reshape(spec.groups, -1, spec.group_in)
    return _unfolded_conv(g, kernel, axes, dtype, options)


def _unfolded_conv(x, kernel, axes, dtype, options):
    """The convolution by ``kernel [G, taps*C/G, F/G]``."""
    first, count = _lines(axes, x.shape[-1])
    x = _padded(x, axes, count)
    features = kernel.shape[0] * kernel.shape[2]
    lines = [first, *axes[1:]]

    def product(lines_of_x, kernel):
        rows = _unfolded(lines_of_x, lines, kernel.shape[0])
        y = jnp.matmul(rows, kernel, **options).astype(dtype)
        return _ungrouped(y, (1, *[axis.o for axis in lines], features))

    def step(t, y):
        n, i = t // count, t % count
        block = materialised(t, product, _block(x, n, i, lines), kernel)
        return lax.dynamic_update_slice(y, block, (n, i * first.o, *[0] * len(axes)))

    shape = (x.shape[0], count * first.o, *[axis.o for axis in axes[1:]], features)
    y = lax.fori_loop(0, x.shape[0] * count, step, jnp.zeros(shape, dtype))
    return lax.slice_in_dim(y, 0, axes[0].o, axis=1)


def _unfolded_filter_grad(x, g, spec: ConvSpec, sums, options):
    axes = forward_axes(spec)
    first, count = _lines(axes, spec.in_features)
    x = _padded(x, axes, count)
    g = pad(g, [(0, count * first.o - axes[0].o, 0), *[(0, 0, 0)] * (spec.rank - 1)])
    lines = [first, *axes[1:]]

    def product(lines_of_x, lines_of_g):
        rows = _unfolded(lines_of_x, lines, spec.groups)
        return jnp.matmul(rows.mT, _grouped(lines_of_g, spec), **options)

    def step(t, dkernel):
        n, i = t // count, t % count
        outputs = (1, *[axis.o for axis in lines], g.shape[-1])
        g_block = lax.dynamic_slice(g, (n, i * first.o, *[0] * spec.rank), outputs)
        return dkernel + materialised(t, product, _block(x, n, i, lines), g_block)

    shape = (spec.groups, spec.taps * spec.group_in, spec.group_out)
    return lax.fori_loop(0, x.shape[0] * count, step, jnp.zeros(shape, sums))


def _lines(axes, channels: int) -> tuple[Axis, int]:
    """The first axis of one block of lines, and the number of blocks in an image."""
    line = math.prod(axis.o for axis in axes[1:]) * math.prod(axis.k for axis in axes) * channels
    count = -(-axes[0].o // max(ROWS // line, 1))
    return axes[0]._replace(o=-(-axes[0].o // count)), -(-axes[0].o // -(-axes[0].o // count))


def _padded(x, axes, count: int):
    """Padded to the windows of all blocks of lines."""
    lines = -(-axes[0].o // count) * count
    return pad(x, [axes[0]._replace(o=lines).border, *[axis.border for axis in axes[1:]]])


def _block(x, n, i, lines):
    starts = (n, i * (lines[0].o * lines[0].s), *[0] * len(lines))
    return lax.dynamic_slice(x, starts, (1, *[axis.window for axis in lines], x.shape[-1]))


def _unfolded(x, axes, groups: int):
    """``[N, *window, C] -> [G, P, taps*C/G]``, an axis at a time, the last one first."""
    x = jnp.moveaxis(x.reshape(*x.shape[:-1], groups, -1), -2, 0)
    for i in range(len(axes), 0, -1):
        x = jnp.concatenate(_taps_along(x, axes[i - 1], i + 1), axis=-1)
    return x.reshape(groups, -1, x.shape[-1])


def _taps_along(x, axis: Axis, i: int):
    reach = (axis.o - 1) * axis.s + 1
    starts = range(0, axis.k * axis.d, axis.d)
    return [lax.slice_in_dim(x, t, t + reach, axis.s, axis=i) for t in starts]
