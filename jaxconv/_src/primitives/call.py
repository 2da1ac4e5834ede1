"""What all public functions share: options resolved once, borders, the batch axis, the bias."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..dispatch import implementation
from ..dispatch.registry import unsupported_message
from ..geometry import checks, resolve
from ..geometry.checks import Call
from ..geometry.padding import Border
from ..geometry.resolve import Geometry
from ..geometry.spec import ConvSpec, Operator, Shape
from . import rules


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
        raise call.error(str(error)) from None
    return Options(
        call=call,
        dtype=checks.result_dtype(call, dtype, preferred_element_type),
        precision=checks.precision_of(call.function, precision),
        implementation=chosen,
    )


def apply(operator: Operator, a, b, static: Geometry, chosen: Options):
    """Binds the operator; where ``static`` is unbatched, activations come and go without N."""
    if chosen.implementation is not None:
        check_forced(chosen.call, chosen.implementation, operator, static.spec, chosen.dtype)
    if not static.batched:
        a, b = (
            operand[None] if role in "xg" else operand
            for role, operand in zip(rules.ROLES[operator], (a, b), strict=True)
        )
    if static.bordered and operator is not Operator.INPUT_GRAD:
        a = with_borders(a, static.borders)
    result = rules.bind(
        operator,
        a,
        b,
        static.spec,
        dtype=chosen.dtype,
        precision=chosen.precision,
        implementation=chosen.implementation,
    )
    if static.bordered and operator is Operator.INPUT_GRAD:
        result = _without_borders(result, static)
    return result if static.batched or operator is Operator.FILTER_GRAD else result[0]


def check_forced(call: Call, name: str, operator: Operator, spec: ConvSpec, dtype) -> None:
    """Raises an error in the caller's words if a forced implementation does not support this."""
    message = unsupported_message(name, operator, spec, dtype)
    if message is not None:
        raise call.error(message)


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


def _without_borders(dx, static: Geometry):
    """The adjoint of ``with_borders``: adds what fell on the border to the pixels it repeats."""
    spec = static.spec
    shape: Shape = (spec.batch, *static.spatial, spec.in_features)
    widen = jax.linear_transpose(
        lambda x: with_borders(x, static.borders), jax.ShapeDtypeStruct(shape, dx.dtype)
    )
    return widen(dx)[0]


def add_bias(y, bias):
    """``y + bias``, in the dtype of ``y``."""
    if bias is None:
        return y
    return y + lax.expand_dims(bias.astype(y.dtype), range(y.ndim - 1))


def convolve(call: Call, x, kernel, bias, placement: tuple, chosen: tuple):
    """The convolution that several functions are, in the words of the call that it serves."""
    static = resolve.conv(call, x.shape, kernel.shape, *placement)
    checks.bias(call, bias, static.spec.out_features)
    y = apply(Operator.CONV, x, kernel, static, options(call, x.dtype, *chosen))
    return add_bias(y, bias)


def convolve_depthwise(call: Call, x, kernel, bias, window: tuple, chosen: tuple):
    """A group for every in-feature; without any there are no filters, and one group does."""
    groups = x.shape[-1]
    if checks.known(groups) and groups == 0:
        kernel, groups = kernel[..., :0, :], 1
    return convolve(call, x, kernel, bias, (*window, groups), chosen)
