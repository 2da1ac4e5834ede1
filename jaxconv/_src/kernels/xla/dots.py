"""Convolutions as matrix products, in plain XLA.

Let ``rows [P, taps*C/G]``, one matrix per group, hold in each row the inputs that one output pixel
reads. Then the three operators are

    y = rows @ kernel        drows = g @ kernel.T        dkernel = rows.T @ g

If the windows of different outputs do not overlap (1x1 kernels, patches), ``rows`` is a
rearranged ``x``, and each operator is one product. If they do, rows are formed for one tile of one
image's outputs at a time, and the input gradient is computed phase by phase, each a convolution.
"""

from __future__ import annotations

import itertools
import math

import jax.numpy as jnp
from jax import lax

from ...geometry.spec import ConvSpec, Operator
from ..dtypes import promoted, results_dtypes
from .windows import (
    UNPADDED,
    Axis,
    even_extent,
    forward_axes,
    interleaved,
    materialized,
    pad,
    phase,
)

# The elements of the rows formed at a time, or half of those of x if that is less; up to twice as
# many if that avoids splitting an axis. With 2^15 it takes twice as long; see
# docs/design/measurements.md.
MAX_ROW_ELEMENTS = 1 << 18

# The elements of a filter gradient from which ``rows`` are transposed before the product.
MIN_TRANSPOSED_ELEMENTS = 1 << 15

# A strided input gradient compiles each phase separately: 64 of them took 5.3 s.
MAX_PHASES = 16


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    dtype, sums = results_dtypes(x, kernel, dtype)
    options = {"precision": precision, "preferred_element_type": sums}
    x, kernel = promoted(x, kernel)
    kernel = _matrices(kernel, spec)
    if spec.disjoint:
        y = jnp.matmul(_disjoint_rows(x, spec), kernel, **options)
        return _ungrouped(y.astype(dtype), spec.output_shape)
    return _unfolded_conv(x, kernel, forward_axes(spec), dtype, options)


def input_grad(g, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    dtype, sums = results_dtypes(g, kernel, dtype)
    options = {"precision": precision, "preferred_element_type": sums}
    g, kernel = promoted(g, kernel)
    if spec.disjoint:
        rows = jnp.matmul(_grouped(g, spec), _matrices(kernel, spec).mT, **options)
        return _scattered(rows.astype(dtype), spec)
    axes = forward_axes(spec)
    residues = itertools.product(*[range(axis.s) for axis in axes])
    parts = [_phase(g, kernel, spec, axes, each, dtype, options) for each in residues]
    return interleaved(parts, axes)


def filter_grad(x, g, spec: ConvSpec, *, precision=None, dtype=None):
    dtype, sums = results_dtypes(x, g, dtype)
    options = {"precision": precision, "preferred_element_type": sums}
    x, g = promoted(x, g)
    if spec.disjoint and spec.groups == 1:
        rows, g = _disjoint_rows(x, spec)[0], g.reshape(-1, spec.out_features)
        dkernel = _summed_over_pixels(rows, g, options)
    elif spec.disjoint:
        rows, g = (_by_image(a, x.shape[0]) for a in (_disjoint_rows(x, spec), _grouped(g, spec)))
        dkernel = jnp.einsum("gnpk,gnpf->gkf", rows, g, **options)
    else:
        dkernel = _unfolded_filter_grad(x, g, spec, sums, options)
    dkernel = dkernel.reshape(spec.groups, spec.taps, spec.group_in, spec.group_out)
    return dkernel.transpose(1, 2, 0, 3).reshape(spec.kernel_shape).astype(dtype)


def unsupported_reason(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    phases = math.prod(spec.strides)
    if operator is Operator.INPUT_GRAD and not spec.disjoint and phases > MAX_PHASES:
        return (
            f"dots compiles each phase of the strides separately, up to {MAX_PHASES}, but the "
            f"strides {spec.strides} have {phases}"
        )
    return None


def _summed_over_pixels(rows, g, options):
    """``rows.T @ g``

    XLA:CPU transposes neither operand of a product of plain matrices over their leading axis, which
    takes 0.47 of the time. If the result is large, the product itself dominates and is faster over
    the inner axis of its left operand: 11.2 ms become 8.9 with a transposed copy, which the barrier
    keeps XLA from undoing; see docs/design/measurements.md.
    """
    if rows.shape[1] * g.shape[1] >= MIN_TRANSPOSED_ELEMENTS:
        return jnp.matmul(lax.optimization_barrier(rows.T), g, **options)
    return lax.dot_general(rows, g, (((0,), (0,)), ((), ())), **options)


def _matrices(kernel, spec: ConvSpec):
    """``[*K, C/G, F] -> [G, taps*C/G, F/G]``"""
    kernel = kernel.reshape(-1, spec.groups, kernel.shape[-1] // spec.groups)
    return kernel.swapaxes(0, 1)


def _grouped(x, spec: ConvSpec):
    """``[…, C] -> [G, P, C/G]``"""
    return x.reshape(-1, spec.groups, x.shape[-1] // spec.groups).swapaxes(0, 1)


def _by_image(rows, images):
    """``[G, P, …] -> [G, N, P/N, …]``

    For a sum over two axes XLA:CPU transposes first and then computes a plain product: 1.26 ms,
    where a sum over one axis takes 1.71.
    """
    return rows.reshape(rows.shape[0], images, -1, rows.shape[-1])


def _ungrouped(y, shape):
    """``[G, P, C/G] -> shape``"""
    return y.swapaxes(0, 1).reshape(shape)


# Windows that do not overlap: each lies in its own box of the strides' extents.


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
    """``[G, P, taps*C/G] -> [N, *S, C]``, zero outside all windows."""
    axes, rank = forward_axes(spec), spec.rank
    rows = rows.reshape(spec.groups, -1, *spec.output_spatial, *spec.kernel_spatial, spec.group_in)
    pairs = [axis for i in range(rank) for axis in (2 + i, 2 + rank + i)]
    x = rows.transpose(1, *pairs, 0, rows.ndim - 1)
    borders = [border for a in axes for border in ((0, 0, 0), (0, a.s - a.k, 0))]
    x = pad(x.reshape(*x.shape[:-2], spec.in_features), borders)
    x = x.reshape(x.shape[0], *[a.o * a.s for a in axes], spec.in_features)
    return pad(x, [(-a.low, a.n + a.low - a.o * a.s, 0) for a in axes])


# Overlapping windows.


def _phase(g, kernel, spec: ConvSpec, axes, residues, dtype, options):
    """The gradient at the inputs ``residues``, ``residues + strides``, …"""
    phases = [phase(axis, residue) for axis, residue in zip(axes, residues, strict=True)]
    taps, axes = zip(*phases, strict=True)
    if any(axis.k == 0 for axis in axes):
        return jnp.zeros((g.shape[0], *[axis.o for axis in axes], spec.in_features), dtype)
    kernel = lax.rev(kernel[*taps], range(spec.rank))
    kernel = kernel.reshape(-1, spec.group_in, spec.groups, spec.group_out)
    kernel = kernel.transpose(2, 0, 3, 1).reshape(spec.groups, -1, spec.group_in)
    return _unfolded_conv(g, kernel, axes, dtype, options)


def _unfolded_conv(x, kernel, axes, dtype, options):
    """The convolution by ``kernel [G, taps*C/G, F/G]``."""
    tile, counts = _tile(axes, x)
    x, borders = _padded(x, axes, tile, counts)
    shape = (1, *[axis.o for axis in tile], kernel.shape[0] * kernel.shape[2])

    def product(x, kernel):
        rows = _unfolded(pad(x, borders), tile, kernel.shape[0])
        y = jnp.matmul(rows, kernel, **options)
        return _ungrouped(y.astype(dtype), shape)

    def step(t, y):
        n, at = _position(t, tile, counts)
        y_tile = materialized(t, product, _inputs(x, n, at, tile, counts), kernel)
        return lax.dynamic_update_slice(y, y_tile, (n, *at, 0))

    whole = [axis.o * count for axis, count in zip(tile, counts, strict=True)]
    y = jnp.zeros((x.shape[0], *whole, shape[-1]), dtype)
    y = lax.fori_loop(0, x.shape[0] * math.prod(counts), step, y)
    return y[:, *[slice(axis.o) for axis in axes]]


def _unfolded_filter_grad(x, g, spec: ConvSpec, sums, options):
    axes = forward_axes(spec)
    tile, counts = _tile(axes, x)
    x, borders = _padded(x, axes, tile, counts)
    sizes = [axis.o for axis in tile]
    excess = [o * count - axis.o for o, count, axis in zip(sizes, counts, axes, strict=True)]
    g = pad(g, [(0, size, 0) for size in excess])

    def product(x, g):
        rows = _unfolded(pad(x, borders), tile, spec.groups)
        return jnp.matmul(rows.mT, _grouped(g, spec), **options)

    def step(t, dkernel):
        n, at = _position(t, tile, counts)
        g_tile = lax.dynamic_slice(g, (n, *at, 0), (1, *sizes, g.shape[-1]))
        return dkernel + materialized(t, product, _inputs(x, n, at, tile, counts), g_tile)

    dkernel = jnp.zeros((spec.groups, spec.taps * spec.group_in, spec.group_out), sums)
    return lax.fori_loop(0, x.shape[0] * math.prod(counts), step, dkernel)


def _tile(axes, x) -> tuple[list[Axis], list[int]]:
    """The tile of outputs whose rows are formed at a time, and the number of tiles per axis."""
    images = x.shape[0] if isinstance(x.shape[0], int) else 1
    inputs = math.prod(axis.n for axis in axes) * images
    room = min(MAX_ROW_ELEMENTS // x.shape[-1], inputs // 2) // math.prod(axis.k for axis in axes)
    tile = []
    for axis in reversed(axes):
        whole = axis.o < 2 * room  # less than two tiles become one, without padding or cropping
        tile.append(axis if whole else axis._replace(o=even_extent(axis.o, max(room, 1))))
        room //= tile[-1].o
    tile.reverse()
    return tile, [-(-axis.o // one.o) for axis, one in zip(axes, tile, strict=True)]


def _padded(x, axes, tile, counts):
    """``x`` padded along the axes that are split, and the padding left to do along the others."""
    whole = [a._replace(o=one.o * n).border for a, one, n in zip(axes, tile, counts, strict=True)]
    split = [count > 1 for count in counts]
    now = [border if many else UNPADDED for border, many in zip(whole, split, strict=True)]
    later = [UNPADDED if many else border for border, many in zip(whole, split, strict=True)]
    return pad(x, now), later


def _position(t, tile, counts):
    """The image, and the first output on each axis, of tile ``t``."""
    at = []
    for axis, count in zip(reversed(tile), reversed(counts), strict=True):
        at.append(lax.rem(t, count) * axis.o)
        t = lax.div(t, count)
    return t, at[::-1]


def _inputs(x, n, at, tile, counts):
    """What a tile reads: its window along the axes that are split, all of the others."""
    starts = [i * axis.s for i, axis in zip(at, tile, strict=True)]
    sizes = [a.window if count > 1 else a.n for a, count in zip(tile, counts, strict=True)]
    return lax.dynamic_slice(x, (n, *starts, 0), (1, *sizes, x.shape[-1]))


def _unfolded(x, axes, groups: int):
    """``[N, *window, C] -> [G, P, taps*C/G]``, one axis at a time, the last one first."""
    x = jnp.moveaxis(x.reshape(*x.shape[:-1], groups, -1), -2, 0)
    for i in range(len(axes), 0, -1):
        x = jnp.concatenate(_taps_along(x, axes[i - 1], i + 1), axis=-1)
    return x.reshape(groups, -1, x.shape[-1])


def _taps_along(x, axis: Axis, i: int):
    reach = (axis.o - 1) * axis.s + 1
    starts = range(0, axis.k * axis.d, axis.d)
    return [lax.slice_in_dim(x, t, t + reach, axis.s, axis=i) for t in starts]
