"""What all public functions share: options, borders, the batch axis, the bias."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..dispatch import implementation
from ..dispatch.registry import unsupported_message
from ..geometry import checks, resolve
from ..geometry.checks import Call
from ..geometry.padding import Border
from ..geometry.resolve import ResolvedConv
from ..geometry.spec import ConvSpec, Operator, Shape
from ..kernels.xla.epilogue import per_feature
from . import rules

Array = jax.Array


class Window(NamedTuple):
    """How the kernel moves over the input, as the caller wrote it."""

    strides: Any = 1
    padding: Any = "VALID"
    dilation: Any = 1
    groups: Any = 1


@dataclasses.dataclass(frozen=True)
class Options:
    """The validated keywords that every function takes, and the call that they belong to."""

    call: Call
    dtype: Any
    precision: Any
    implementation: str | None


def options(
    call: Call,
    dtype: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
    name: str | None = None,
) -> Options:
    """The options of one call whose operands have ``dtype``."""
    try:
        resolved = implementation.resolve(name)
    except ValueError as error:
        raise call.error(str(error)) from None
    return Options(
        call=call,
        dtype=checks.result_dtype(call, dtype, preferred_element_type),
        precision=checks.precision_of(call.function, precision),
        implementation=resolved,
    )


def apply(
    operator: Operator, a: Array, b: Array, resolved: ResolvedConv, options: Options
) -> Array:
    """Binds the operator; if the call is unbatched, activations come and go without N."""
    if options.implementation is not None:
        check_forced(options.call, options.implementation, operator, resolved.spec, options.dtype)
    if not resolved.batched:
        a, b = (
            operand[None] if role in "xg" else operand
            for role, operand in zip(rules.ROLES[operator], (a, b), strict=True)
        )
    if resolved.bordered and operator is not Operator.INPUT_GRAD:
        a = with_borders(a, resolved.borders)
    result = rules.bind(
        operator,
        a,
        b,
        resolved.spec,
        dtype=options.dtype,
        precision=options.precision,
        implementation=options.implementation,
    )
    if resolved.bordered and operator is Operator.INPUT_GRAD:
        result = without_borders(result, resolved)
    return result if resolved.batched or operator is Operator.FILTER_GRAD else result[0]


def check_forced(call: Call, name: str, operator: Operator, spec: ConvSpec, dtype: Any) -> None:
    """Raises an error in the caller's words if a forced implementation does not support this."""
    message = unsupported_message(name, operator, spec, dtype)
    if message is not None:
        raise call.error(message)


def with_borders(x: Array, borders: tuple[Border | None, ...]) -> Array:
    """``x [N, *S, C]`` with the circular, reflected or replicated border of each spatial axis."""
    for axis, border in enumerate(borders, start=1):
        # An empty axis has no pixels to repeat, and its output is empty anyway.
        if border is not None and x.shape[axis] != 0:
            x = jnp.concatenate(_with_border(x, axis, border), axis)
    return x


def _with_border(x: Array, axis: int, border: Border) -> tuple[Array, ...]:
    """The border before ``x``, ``x`` and the border after; jnp.pad takes no symbolic extents."""
    n, low, high = x.shape[axis], border.low, border.high
    part = functools.partial(lax.slice_in_dim, x, axis=axis)
    match border.mode:
        case "wrap":
            return part(n - low, n), x, part(0, high)
        case "reflect":
            before, after = part(1, low + 1), part(n - 1 - high, n - 1)
            return lax.rev(before, (axis,)), x, lax.rev(after, (axis,))
        case _:
            return *[part(0, 1)] * low, x, *[part(n - 1, n)] * high


def without_borders(dx: Array, resolved: ResolvedConv) -> Array:
    """The adjoint of ``with_borders``: adds the border's gradient to the pixels that it repeats."""
    spec = resolved.spec
    shape: Shape = (spec.batch, *resolved.spatial, spec.in_features)
    adjoint = jax.linear_transpose(
        lambda x: with_borders(x, resolved.borders), jax.ShapeDtypeStruct(shape, dx.dtype)
    )
    return adjoint(dx)[0]


def add_bias(y: Array, bias: Array | None) -> Array:
    """``y + bias``, in the dtype of ``y``."""
    if bias is None:
        return y
    return y + per_feature(bias, y)


def convolve(
    call: Call, x: Array, kernel: Array, bias: Array | None, window: Window, options: Options
) -> Array:
    """The convolution that several functions share; its errors name the function of ``call``."""
    resolved = resolve.conv(call, x.shape, kernel.shape, *window)
    checks.bias(call, bias, resolved.spec.out_features)
    return add_bias(apply(Operator.CONV, x, kernel, resolved, options), bias)


def convolve_depthwise(
    call: Call, x: Array, kernel: Array, bias: Array | None, window: Window, options: Options
) -> Array:
    """``convolve`` with one group per channel.

    A convolution has at least one group; an input without channels gets one, and no filters.
    """
    groups = x.shape[-1]
    if checks.known(groups) and groups == 0:
        kernel, groups = kernel[..., :0, :], 1
    return convolve(call, x, kernel, bias, window._replace(groups=groups), options)
