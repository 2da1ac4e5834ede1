"""``lax.conv_general_dilated`` with its own signature and semantics, served by the family."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..caching import cached_by_value
from ..dispatch import implementation
from ..geometry import checks
from ..geometry.checks import Call
from ..primitives import rules
from ..primitives.call import check_forced
from .lax_params import LaxConvolution, Layout, Recognised, recognise

Array = jax.Array


def conv_general_dilated(
    lhs: Any,
    rhs: Any,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Array:
    """A drop-in for ``lax.conv_general_dilated``, also as Flax's ``conv_general_dilated=``.

    What the family expresses runs on its kernels, differentiable to any order; the rest, such as
    integers, empty arrays, more than three spatial axes, dilation on the left together with
    strides, or a given ``out_sharding``, goes to lax, with lax's own results and errors.

    Args:
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers,
            feature_group_count, batch_group_count, precision, preferred_element_type,
            out_sharding: As in ``jax.lax.conv_general_dilated``.

    Returns:
        What ``jax.lax.conv_general_dilated`` returns.

    Raises:
        TypeError, ValueError: What lax raises for the same arguments; and where a kernel is forced
            that cannot serve.

    >>> import jax.numpy as jnp
    >>> x, kernel = jnp.ones((1, 8, 6, 6)), jnp.ones((8, 1, 3, 3))
    >>> conv_general_dilated(x, kernel, (2, 2), "SAME", feature_group_count=8).shape
    (1, 8, 3, 3)

    Source: the documentation of ``jax.lax.conv_general_dilated``.
    """
    found = "an output sharding is given"
    known = _known_precision(precision)
    if out_sharding is None and known and _floating(lhs, rhs, preferred_element_type):
        found = _recognise(
            lhs.shape,
            rhs.shape,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            batch_group_count,
        )
    if isinstance(found, str):
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            batch_group_count,
            precision,
            preferred_element_type,
            out_sharding,
        )
    wanted = lhs.dtype if preferred_element_type is None else preferred_element_type
    dtype, forced = jax.dtypes.canonicalize_dtype(wanted), implementation.resolve(None)
    if forced is not None:
        call = Call("conv_general_dilated", lhs=lhs.shape, rhs=rhs.shape)
        check_forced(call, forced, found.operator, found.spec, dtype)
    return _run(
        lhs,
        rhs,
        found=found,
        dtype=dtype,
        precision=checks.precision_of("conv_general_dilated", precision),
        implementation=forced,
    )


def _known_precision(precision) -> bool:
    """Whether it is one of the named functions'; lax takes others, and words its own errors."""
    try:
        checks.precision_of("conv_general_dilated", precision)
    except ValueError:
        return False
    return True


def _floating(lhs, rhs, preferred) -> bool:
    """Whether lax would take these operands, and the family too."""
    dtypes: list[Any] = [getattr(operand, "dtype", None) for operand in (lhs, rhs)]
    # Not "None in dtypes": NumPy takes None for float64, so that float64 == None.
    if (
        any(dtype is None for dtype in dtypes)
        or dtypes[0] != dtypes[1]
        or not jnp.issubdtype(dtypes[0], jnp.inexact)
    ):
        return False
    if preferred is None:
        return True
    kinds = (jnp.complexfloating, jnp.floating)
    same = any(
        jnp.issubdtype(dtypes[0], kind) and jnp.issubdtype(preferred, kind) for kind in kinds
    )
    return same and jnp.dtype(preferred).itemsize >= jnp.dtype(dtypes[0]).itemsize


@cached_by_value
def _recognise(
    lhs_shape, rhs_shape, strides, padding, lhs_dilation, rhs_dilation, numbers, groups, batches
) -> Recognised | str:
    """The member of the family, or why not; arguments that lax refuses are no member."""
    ones = (1,) * (len(lhs_shape) - 2)
    try:
        numbers = lax.conv_dimension_numbers(lhs_shape, rhs_shape, numbers)
        strides = tuple(strides)
        lhs_dilation = ones if lhs_dilation is None else tuple(lhs_dilation)
        rhs_dilation = ones if rhs_dilation is None else tuple(rhs_dilation)
        if isinstance(padding, str):
            if any(e != 1 for e in lhs_dilation):
                return "named padding beside dilation on the left"
            padding = _named_padding(lhs_shape, rhs_shape, strides, padding, rhs_dilation, numbers)
        padding = tuple((operator.index(low), operator.index(high)) for low, high in padding)
    except (TypeError, ValueError, RuntimeError) as error:
        return f"lax refuses it: {error}"
    shapes = tuple(lhs_shape), tuple(rhs_shape)
    geometry = strides, padding, lhs_dilation, rhs_dilation
    return recognise(LaxConvolution(*shapes, *geometry, numbers, groups, batches))


def _named_padding(lhs_shape, rhs_shape, strides, name: str, dilation, numbers):
    spatial = [lhs_shape[axis] for axis in numbers.lhs_spec[2:]]
    extents = [rhs_shape[axis] for axis in numbers.rhs_spec[2:]]
    window = [d * (k - 1) + 1 for k, d in zip(extents, dilation, strict=True)]
    return lax.padtype_to_pads(spatial, window, strides, name)


def rearranged(lhs, rhs, *, found: Recognised, **params) -> Array:
    """Computes a recognised convolution on lax's arrays, into lax's layout."""
    rank = found.spec.rank
    first = _arrange(lhs, found.lhs, range(1, rank + 1))
    second = _arrange(rhs, found.rhs, range(rank))
    if found.swapped:
        first, second = second, first
    result = rules.bind(found.operator, first, second, found.spec, **params)
    return _restore(result, found.result, range(rank))


# Compiled, so that an eager call dispatches once, not once for every transposition; inlined where
# jax inlines (0.10 while tracing, 0.12 while lowering), so that no call costs a traced program.
_run = jax.jit(
    rearranged, static_argnames=("found", "dtype", "precision", "implementation"), inline=True
)


def _arrange(array, layout: Layout, spatial):
    """lax's array as the family lays it out."""
    array = _transposed(array, layout.permutation)
    return _regrouped(lax.rev(array, tuple(spatial)) if layout.reverse else array, layout.groups)


def _restore(array, layout: Layout, spatial):
    """The family's array as lax lays it out: the inverse of ``_arrange``."""
    array = _regrouped(array, layout.groups)
    array = lax.rev(array, tuple(spatial)) if layout.reverse else array
    inverse = sorted(range(array.ndim), key=layout.permutation.__getitem__)
    return _transposed(array, tuple(inverse))


def _transposed(array, permutation: tuple[int, ...]):
    identity = permutation == tuple(range(array.ndim))
    return array if identity else lax.transpose(array, permutation)


def _regrouped(kernel, groups: int | None):
    """``[..., A, groups*B] -> [..., B, groups*A]``"""
    if groups is None:
        return kernel
    *extents, a, grouped = kernel.shape
    kernel = kernel.reshape(*extents, a, groups, grouped // groups)
    return jnp.moveaxis(kernel, -1, -3).swapaxes(-1, -2).reshape(*extents, -1, groups * a)
