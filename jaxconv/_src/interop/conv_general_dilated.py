"""``lax.conv_general_dilated``, with its signature and semantics, computed by jaxconv."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from ..caching import cached_by_value
from ..dispatch import implementation
from ..geometry import checks
from ..geometry.checks import Call, index
from ..keywords import checks_keywords
from ..primitives.call import check_forced
from .lax_params import LaxConvolution
from .recognize import recognize
from .recognized_operator import RecognizedOperator, compute_recognized


@checks_keywords("conv_general_dilated")
def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvGeneralDilatedDimensionNumbers = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: NamedSharding | PartitionSpec | None = None,
) -> jax.Array:
    """A drop-in replacement for ``jax.lax.conv_general_dilated``.

    It can also be passed to Flax's layers as ``conv_general_dilated=``. Convolutions that jaxconv's
    primitives support are computed by them, and can be differentiated to any order. All others are
    passed on to lax, with its results and errors: integer dtypes, empty arrays, more than three
    spatial axes, ``lhs_dilation`` together with strides, or an ``out_sharding``.

    Args:
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation: As in lax.
        dimension_numbers, feature_group_count, batch_group_count: As in lax.
        precision, preferred_element_type, out_sharding: As in lax.

    Returns:
        As ``jax.lax.conv_general_dilated``.

    Raises:
        TypeError, ValueError: As ``jax.lax.conv_general_dilated``; ``ValueError`` also if a forced
            implementation does not support the convolution.

    >>> import jax.numpy as jnp
    >>> x, kernel = jnp.ones((1, 8, 6, 6)), jnp.ones((8, 1, 3, 3))
    >>> conv_general_dilated(x, kernel, (2, 2), "SAME", feature_group_count=8).shape
    (1, 8, 3, 3)

    Source: the documentation of ``jax.lax.conv_general_dilated``.
    """
    recognized = None
    valid = _valid_precision(precision) and _valid_dtypes(lhs, rhs, preferred_element_type)
    if out_sharding is None and valid:
        recognized = _recognize(
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
    if recognized is None:
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
    preferred = lhs.dtype if preferred_element_type is None else preferred_element_type
    dtype, forced = jax.dtypes.canonicalize_dtype(preferred), implementation.resolve(None)
    if forced is not None:
        call = Call("conv_general_dilated", lhs=lhs.shape, rhs=rhs.shape)
        check_forced(call, forced, recognized.operator, recognized.spec, dtype)
    return _compute(
        lhs,
        rhs,
        recognized=recognized,
        dtype=dtype,
        precision=checks.precision_of("conv_general_dilated", precision),
        implementation=forced,
    )


# Compiled, so that an eager call is dispatched once, not once per transposition. Inlined (by jax
# 0.10 while tracing, by 0.12 while lowering), so that traced programs contain no call.
_compute = jax.jit(
    compute_recognized,
    static_argnames=("recognized", "dtype", "precision", "implementation"),
    inline=True,
)


def _valid_precision(precision) -> bool:
    """Whether jaxconv accepts it. lax accepts other precisions, and raises its own errors."""
    try:
        checks.precision_of("conv_general_dilated", precision)
    except ValueError:
        return False
    return True


def _valid_dtypes(lhs, rhs, preferred) -> bool:
    """Whether both lax and jaxconv's primitives accept these operands and this result dtype."""
    dtypes: list[Any] = [getattr(operand, "dtype", None) for operand in (lhs, rhs)]
    # "None in dtypes" would be wrong: NumPy reads None as float64, so that float64 == None.
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
def _recognize(
    lhs_shape, rhs_shape, strides, padding, lhs_dilation, rhs_dilation, numbers, groups, batches
) -> RecognizedOperator | None:
    """The operator that computes the convolution; None where there is none, or lax raises."""
    if index(groups) is None or index(batches) is None:
        return None
    ones = (1,) * (len(lhs_shape) - 2)
    try:
        numbers = lax.conv_dimension_numbers(lhs_shape, rhs_shape, numbers)
        strides = _ints(strides)
        lhs_dilation = ones if lhs_dilation is None else _ints(lhs_dilation)
        rhs_dilation = ones if rhs_dilation is None else _ints(rhs_dilation)
        if isinstance(padding, str):
            if any(e != 1 for e in lhs_dilation):
                return None
            padding = _named_padding(lhs_shape, rhs_shape, strides, padding, rhs_dilation, numbers)
        padding = tuple((operator.index(low), operator.index(high)) for low, high in padding)
    except Exception:  # lax raises it too, also what objects raise that are no ints
        return None
    shapes = tuple(lhs_shape), tuple(rhs_shape)
    geometry = strides, padding, lhs_dilation, rhs_dilation
    recognized = recognize(LaxConvolution(*shapes, *geometry, numbers, groups, batches))
    return None if isinstance(recognized, str) else recognized


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(map(operator.index, values))


def _named_padding(lhs_shape, rhs_shape, strides, name: str, dilation, numbers):
    spatial = [lhs_shape[axis] for axis in numbers.lhs_spec[2:]]
    extents = [rhs_shape[axis] for axis in numbers.rhs_spec[2:]]
    window = [d * (k - 1) + 1 for k, d in zip(extents, dilation, strict=True)]
    return lax.padtype_to_pads(spatial, window, strides, name)
