"""Convolutions by the fast Fourier transform, in plain XLA.

On a circle long enough that nothing wraps around (see ``fft_plan``), with transforms X, K and Y
over the spatial axes of the input, the kernel and the output, at every frequency

    Y[n, f] = sum over c of  X[n, c] * conj(K[c, f])
    X[n, c] = sum over f of  Y[n, f] * K[c, f]
    K[c, f] = sum over n of  X[n, c] * conj(Y[n, f])

where each result stands for the operator that returns it, and conj(K) for the transform of the
reversed kernel (a complex kernel is conjugated before and after). Zeros around the input make a
line of the circle: results are linear convolutions, never circular ones. An axis that is much
longer than the kernel is cut into overlapping blocks, which join the batch (overlap-save; in the
input gradient overlap-add).

Float16 and bfloat16 are computed in float32 and rounded once.

**Error.** An error of one product spreads over all results of its block. With ``m`` pixels per
block and ``eps`` of the dtype computed in, an output of image ``n`` and feature ``f`` is off by

    at most  ERROR_FACTOR * eps * log2(m) * sum over c of norm(x[n, :, c]) * norm(kernel[:, c, f])

with Euclidean norms, over the block and over all taps; gradients likewise, by the norms of their
operands, summed over the blocks. It is the sum of the bounds for three transforms, each ``2 * eps *
log2(m)`` (N. Higham, "Accuracy and stability of numerical algorithms", theorem 24.2). Computed
directly, a sum of ``t`` products is off by at most ``t * eps / 2`` times the norms of what that one
output reads. So a quiet passage beside a loud one in the same block has the absolute error of the
loud one, and one input that is not finite makes all outputs of its block not finite.
"""

from __future__ import annotations

import functools
import math
import operator

import jax.numpy as jnp
from jax import lax

from ...geometry.spec import ConvSpec, Operator
from ..dtypes import results_dtypes
from . import fft_layout as layout
from .fft_plan import cropped, group_parts, plan, transformed_pixels
from .windows import pad

ERROR_FACTOR = 6

# More pixels than this per channel are not transformed: 1 GiB of float32.
MAX_PIXELS = 1 << 28

# With fewer rows or columns than this, products per frequency are computed element by element:
# XLA:CPU transposes all operands of matrix products, which takes longer than the products.
MIN_MATRIX_ROWS = 8

# The products that one fusion adds up.
MAX_TERMS = 8


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    return _computed(Operator.CONV, x, kernel, spec, precision, dtype)


def input_grad(g, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    return _computed(Operator.INPUT_GRAD, g, kernel, spec, precision, dtype)


def filter_grad(x, g, spec: ConvSpec, *, precision=None, dtype=None):
    return _computed(Operator.FILTER_GRAD, x, g, spec, precision, dtype)


def unsupported_reason(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    sizes = (*spec.input_shape[1:], *spec.kernel_shape)
    if not all(isinstance(size, int) for size in sizes):
        return (
            "fft chooses the lengths of its transforms at compile time, so all sizes but the batch "
            f"must be known, but x is {spec.input_shape} and the kernel {spec.kernel_shape}"
        )
    pixels = 0 if spec.empty else transformed_pixels(spec)
    if pixels > MAX_PIXELS:
        return (
            f"fft would transform {pixels:,} pixels per channel, but transforms at most "
            f"{MAX_PIXELS:,}; strides, dilation or padding are much wider than the arrays"
        )
    return None


def candidates(operator: Operator, spec: ConvSpec, dtype, device_kind: str) -> tuple:
    """Not measured, and so never chosen by a measurement, where it may be less exact."""
    return (None,) if relative_error_bound(operator, spec) <= 1 else ()


def relative_error_bound(operator: Operator, spec: ConvSpec) -> float:
    """The error bound divided by that of direct sums, for operands of even magnitude."""
    if spec.empty:
        return 0.0
    axes = plan(cropped(spec)[0])
    inputs, outputs = (
        math.prod(min(n, a.block_outputs) for n, a in zip(sizes, axes, strict=True))
        for sizes in (spec.input_spatial, spec.output_spatial)
    )
    batch = spec.batch if isinstance(spec.batch, int) else 1
    # Terms of a sum, and products of norms: (how many, squared norm of a, squared norm of b).
    terms, sums, a, b = {
        Operator.CONV: (spec.taps * spec.group_in, spec.group_in, inputs, spec.taps),
        Operator.INPUT_GRAD: (spec.taps * spec.group_out, spec.group_out, outputs, spec.taps),
        Operator.FILTER_GRAD: (
            batch * math.prod(spec.output_spatial),
            batch * math.prod(axis.blocks for axis in axes),
            inputs,
            outputs,
        ),
    }[operator]
    if operator is Operator.INPUT_GRAD:
        terms = max(terms / math.prod(spec.strides), 1)
    steps = math.log2(max(math.prod(axis.m for axis in axes), 2))
    return ERROR_FACTOR * steps * sums * math.sqrt(a * b) / (terms**2 / 2)


def _computed(operator: Operator, a, b, spec: ConvSpec, precision, dtype):
    """The operator, on some groups at a time so that temporaries stay in the cache."""
    dtype, sums = results_dtypes(a, b, dtype)
    whole, (spec, crop) = spec, cropped(spec)
    compute = functools.partial(OPERATIONS[operator], crop=crop, sums=sums, precision=precision)
    parts = group_parts(spec)
    if parts == 1:
        return compute(a, b, spec=spec).astype(dtype)
    part = spec.replace(
        in_features=spec.in_features // parts,
        out_features=spec.out_features // parts,
        groups=spec.groups // parts,
    )

    def step(t, result):
        width_a, width_b = a.shape[-1] // parts, b.shape[-1] // parts
        a_part = lax.dynamic_slice_in_dim(a, t * width_a, width_a, axis=-1)
        b_part = lax.dynamic_slice_in_dim(b, t * width_b, width_b, axis=-1)
        result_part = compute(a_part, b_part, spec=part).astype(dtype)
        start = t * result_part.shape[-1]
        return lax.dynamic_update_slice_in_dim(result, result_part, start, axis=-1)

    return lax.fori_loop(0, parts, step, jnp.zeros(whole.result_shape(operator), dtype))


def _conv(x, kernel, *, spec: ConvSpec, crop, sums, precision):
    axes = plan(spec)
    x = _transformed(layout.spread_inputs(_cropped(x, crop, sums), axes, spec), axes)
    kernel = layout.spread_kernel(kernel.astype(sums), axes, spec)
    kernel = _transformed(kernel, axes, conjugate=True)
    y = _product(Operator.CONV, x, kernel, precision)
    return layout.gathered_outputs(_inverse(y, axes, sums), axes, spec)


def _input_grad(g, kernel, *, spec: ConvSpec, crop, sums, precision):
    axes = plan(spec)
    g = _transformed(layout.spread_outputs(g.astype(sums), axes, spec), axes)
    kernel = _transformed(layout.spread_kernel(kernel.astype(sums), axes, spec), axes)
    dx = _product(Operator.INPUT_GRAD, g, kernel, precision)
    dx = layout.gathered_inputs(_inverse(dx, axes, sums), axes, spec)
    return pad(dx, [(-low, -high, 0) for low, high in crop])


def _filter_grad(x, g, *, spec: ConvSpec, crop, sums, precision):
    axes = plan(spec)
    x = _transformed(layout.spread_inputs(_cropped(x, crop, sums), axes, spec), axes)
    g = layout.spread_outputs(g.astype(sums), axes, spec)
    g = _transformed(g, axes, conjugate=True)
    dkernel = _product(Operator.FILTER_GRAD, x, g, precision)
    return layout.gathered_kernel(_inverse(dkernel, axes, sums), axes, spec)


OPERATIONS = {
    Operator.CONV: _conv,
    Operator.INPUT_GRAD: _input_grad,
    Operator.FILTER_GRAD: _filter_grad,
}


def _cropped(x, crop, sums):
    return pad(x, [(low, high, 0) for low, high in crop]).astype(sums)


def _transformed(a, axes, *, conjugate=False):
    """The transform over the innermost axes, whose frequencies become one axis.

    If ``conjugate``, it is the transform of ``a`` in reverse order.
    """
    inner = tuple(range(-len(axes), 0))
    if jnp.iscomplexobj(a):
        a = jnp.fft.fftn(a.conj() if conjugate else a, axes=inner)
    else:
        a = jnp.fft.rfftn(a, axes=inner)
    a = a.conj() if conjugate else a
    return a.reshape(*a.shape[:3], -1)


def _inverse(a, axes, dtype):
    """The inverse transform, in ``dtype``."""
    inner, lengths = tuple(range(-len(axes), 0)), [axis.m for axis in axes]
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.fft.ifftn(a.reshape(*a.shape[:3], *lengths), axes=inner)
    halved = [*lengths[:-1], lengths[-1] // 2 + 1]
    return jnp.fft.irfftn(a.reshape(*a.shape[:3], *halved), s=lengths, axes=inner)


# Products per frequency. ``a`` and ``b`` have the axes of [B, G, I, J, frequencies], less the one
# that their operand does not have.


def _product(operator: Operator, a, b, precision):
    """Sums the products over the axis that the result does not have."""
    pattern, summed, a_axis, b_axis = {
        Operator.CONV: ("bgiw,gijw->bgjw", 2, 3, 0),
        Operator.INPUT_GRAD: ("bgjw,gijw->bgiw", 3, 2, 0),
        Operator.FILTER_GRAD: ("bgiw,bgjw->gijw", 0, 3, 2),
    }[operator]
    wide_a, wide_b = jnp.expand_dims(a, a_axis), jnp.expand_dims(b, b_axis)
    batch, _, channels, features, _ = jnp.broadcast_shapes(wide_a.shape, wide_b.shape)
    few = isinstance(batch, int) and batch < MIN_MATRIX_ROWS
    if few or min(channels, features) < MIN_MATRIX_ROWS:
        return _sum_of_products(wide_a, wide_b, summed)
    return jnp.einsum(pattern, a, b, precision=precision)


def _sum_of_products(a, b, axis: int):
    """``(a * b).sum(axis)`` without an array of all products, ``MAX_TERMS`` at a time."""
    count = a.shape[axis]
    if not isinstance(count, int):
        return (a * b).sum(axis)

    def terms(start, number: int):
        parts = [lax.dynamic_slice_in_dim(each, start, number, axis=axis) for each in (a, b)]
        pairs = [
            [lax.index_in_dim(part, i, axis, keepdims=False) for part in parts]
            for i in range(number)
        ]
        return functools.reduce(operator.add, [a * b for a, b in pairs])

    whole, rest = divmod(count, MAX_TERMS)
    if whole <= 1:
        return terms(0, count)
    total = lax.fori_loop(
        1, whole, lambda t, total: total + terms(t * MAX_TERMS, MAX_TERMS), terms(0, MAX_TERMS)
    )
    return total + terms(whole * MAX_TERMS, rest) if rest else total
