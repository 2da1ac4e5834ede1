"""What all public functions share: options resolved once, borders, the batch axis, the bias."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from . import checks, dispatch, implementation, primitives
from .checks import Call
from .geometry import Geometry
from .padding import Border
from .spec import Operator, Shape


@dataclasses.dataclass(frozen=True)
class Options:
    """The keywords that every function takes, validated, and the call that they belong to."""

    call: Call
    dtype: Any
    precision: Any
    implementation: str | None


def options(call: Call, dtype, precision, preferred_element_type, name) -> Options:
    """The options of one call whose operands have ``dtype``."""
    try:
        chosen = implementation.resolve(name)
    except ValueError as error:
        raise call.refuse(str(error)) from None
    return Options(
        call=call,
        dtype=checks.result_dtype(call, dtype, preferred_element_type),
        precision=checks.precision_of(call.function, precision),
        implementation=chosen,
    )


def apply(operator: Operator, a, b, geometry: Geometry, chosen: Options):
    """Binds the operator; where ``geometry`` is unbatched, activations come and go without N."""
    _check_forced(operator, geometry, chosen)
    if not geometry.batched:
        a, b = (
            operand[None] if role in "xg" else operand
            for role, operand in zip(primitives.ROLES[operator], (a, b), strict=True)
        )
    if geometry.bordered and operator is not Operator.INPUT_GRAD:
        a = with_borders(a, geometry.borders)
    result = primitives.bind(
        operator,
        a,
        b,
        geometry.spec,
        dtype=chosen.dtype,
        precision=chosen.precision,
        implementation=chosen.implementation,
    )
    if geometry.bordered and operator is Operator.INPUT_GRAD:
        result = _without_borders(result, geometry)
    return result if geometry.batched or operator is Operator.FILTER_GRAD else result[0]


def _check_forced(operator: Operator, geometry: Geometry, chosen: Options) -> None:
    """Refuses in the caller's words what a forced kernel cannot compute."""
    if chosen.implementation is None:
        return
    reason = dispatch.refusal(chosen.implementation, operator, geometry.spec, chosen.dtype)
    if reason is not None:
        raise chosen.call.refuse(
            f'implementation "{chosen.implementation}" cannot serve this convolution: {reason}; '
            f"leave implementation at None to let dispatch choose"
        )


def with_borders(x, borders: tuple[Border | None, ...]):
    """``x`` with the circular, reflected or replicated border of each spatial axis added."""
    for axis, border in enumerate(borders, start=1):
        # An empty axis has nothing to repeat, and its output is empty with or without a border.
        if border is not None and x.shape[axis] != 0:
            x = jnp.concatenate(_with_border(x, axis, border), axis)
    return x


def _with_border(x, axis: int, border: Border):
    """What comes before ``x``, itself and what comes after; jnp.pad takes no symbolic extents."""
    n, low, high = x.shape[axis], border.low, border.high
    cut = functools.partial(lax.slice_in_dim, x, axis=axis)
    match border.mode:
        case "wrap":
            return cut(n - low, n), x, cut(0, high)
        case "reflect":
            return lax.rev(cut(1, low + 1), (axis,)), x, lax.rev(cut(n - 1 - high, n - 1), (axis,))
        case _:
            return *[cut(0, 1)] * low, x, *[cut(n - 1, n)] * high


def _without_borders(dx, geometry: Geometry):
    """The adjoint of ``with_borders``: adds what fell on the border to the pixels it repeats."""
    spec = geometry.spec
    shape: Shape = (spec.batch, *geometry.spatial, spec.in_features)
    widen = jax.linear_transpose(
        lambda x: with_borders(x, geometry.borders), jax.ShapeDtypeStruct(shape, dx.dtype)
    )
    return widen(dx)[0]


def add_bias(y, bias):
    """``y + bias``, in the dtype of ``y``."""
    if bias is None:
        return y
    return y + lax.expand_dims(bias.astype(y.dtype), range(y.ndim - 1))
