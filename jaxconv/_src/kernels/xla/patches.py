"""The patches that a convolution reads, and their adjoint, by reshapes and slices of each axis."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ...geometry.checks import known
from ...geometry.spec import ConvSpec
from .windows import Axis, forward_axes

Array = jax.Array


def unfold(x: Array, spec: ConvSpec) -> Array:
    """``x [N, *S, C]`` as patches ``[N, *O, *K, C]``, in one program also if called eagerly."""
    return _unfold(x, spec=spec)


def fold(patches: Array, spec: ConvSpec) -> Array:
    """The adjoint of ``unfold``."""
    return _fold(patches, spec=spec)


@functools.partial(jax.jit, static_argnames="spec")
def _unfold(x, *, spec: ConvSpec):
    shape = (x.shape[0], *spec.output_spatial, *spec.kernel_spatial, x.shape[-1])
    if any(known(size) and size == 0 for size in shape):
        return jnp.zeros(shape, x.dtype)
    # From the last axis to the first, so that each axis of taps goes before those already there.
    for number, axis in reversed(list(enumerate(forward_axes(spec), start=1))):
        x = _unfold_axis(x, number, axis, spec.rank + 1)
    return x


@functools.partial(jax.jit, static_argnames="spec")
def _fold(patches, *, spec: ConvSpec):
    shape = (patches.shape[0], *spec.input_spatial, patches.shape[-1])
    x = jax.ShapeDtypeStruct(shape, patches.dtype)
    return jax.linear_transpose(functools.partial(_unfold, spec=spec), x)(patches)[0]


def _unfold_axis(x, number: int, axis: Axis, to: int):
    """``x [..., n, ...]`` as ``[..., o, ..., k, ...]``, with the axis of taps at ``to``.

    The axis is cut into blocks, and a patch is made of ``count`` of them: of one pixel per tap if
    there is dilation, otherwise of ``ceil(k/s)`` blocks as long as the stride, so that disjoint
    patches need no more than a reshape.
    """
    dilated = axis.d > 1
    length, count, step = (1, axis.k, axis.s) if dilated else (axis.s, -(-axis.k // axis.s), 1)
    reach = (axis.o - 1) * step + 1
    blocks = reach + (count - 1) * axis.d
    widths = [(0, 0, 0)] * x.ndim
    widths[number] = (axis.low, blocks * length - axis.n - axis.low, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), widths)
    shape = (*x.shape[:number], blocks, length, *x.shape[number + 1 :])
    x = jnp.moveaxis(x.reshape(shape), number + 1, to)
    starts = range(0, count * axis.d, axis.d)
    parts = [lax.slice_in_dim(x, i, i + reach, step, number) for i in starts]
    return lax.slice_in_dim(jnp.concatenate(parts, to), 0, axis.k, axis=to)
