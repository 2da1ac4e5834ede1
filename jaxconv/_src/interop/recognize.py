"""Recognizes one of lax's convolutions as an operator of jaxconv.

``lax.conv_general_dilated`` computes, with window strides s, left-hand dilation e, right-hand
dilation d and low padding p (per axis; u over the left-hand side, t over the right-hand side),

    out[n, o, f] = sum over u, t, c of  lhs[n, u, c] * rhs[t, c, f]     where  e*u = s*o + d*t - p

The operator depends on which of the index sets o, u and t is the spec's output, the one whose
stride is not the kernel's dilation:

    e = 1               conv         x = lhs, k = rhs, y = out              stride s, dilation d
    s = 1, e > 1        input_grad   g = lhs, k = rhs reversed, dx = out    stride e, dilation d
    e = 1, as gradient  filter_grad  x = lhs, g = rhs, dk = out             stride d, dilation s
    d = 1, as gradient  filter_grad  g = lhs, x = rhs, dk = out reversed    stride e, dilation s

The last two sum over what lax calls the features of both sides; in the spec this is the batch. A
convolution is taken for such a gradient if its batch is grouped, which nothing else needs, or if it
looks like the result of lax's own transposition rule: the features of the left-hand side come
before its batch, and the window is larger than the result.

Unsupported are convolutions that are strided and dilated on the left, and empty arrays, for which
lax computes other shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import jax
from jax.extend.core import JaxprEqn

from ..geometry.spec import MAX_STEP
from .lax_params import LaxConvolution
from .recognized_operator import (
    RecognizedOperator,
    conv_of,
    filter_grad_of,
    filter_grad_of_transposed,
    input_grad_of,
)


def recognize_equation(eqn: JaxprEqn) -> RecognizedOperator | str:
    """The operator that a ``conv_general_dilated`` equation computes, or the reason why none."""
    lhs, rhs = eqn.invars
    return recognize_params(lhs.aval, rhs.aval, eqn.params)


def recognize_params(lhs: Any, rhs: Any, params: Mapping[str, Any]) -> RecognizedOperator | str:
    """The same for the operands' types and the parameters of lax's primitive."""
    if not jax.numpy.issubdtype(lhs.dtype, jax.numpy.inexact):
        return f"{lhs.dtype} operands; jaxconv's primitives take floating and complex dtypes"
    names = LaxConvolution._fields[2:]
    return recognize(
        LaxConvolution(tuple(lhs.shape), tuple(rhs.shape), *(params[name] for name in names))
    )


def recognize(lax: LaxConvolution) -> RecognizedOperator | str:
    """The operator that ``lax`` computes, or the reason why none does."""
    reason = _invalid(lax) or _mismatch(lax)
    if reason is not None:
        return reason
    dilated = any(e != 1 for e in lax.lhs_dilation)
    if _is_filter_gradient(lax):
        if not dilated:
            return filter_grad_of(lax)
        if all(d == 1 for d in lax.rhs_dilation):
            return filter_grad_of_transposed(lax)
        return "both operands are dilated and the batch is grouped"
    if not dilated:
        return conv_of(lax)
    if any(s != 1 for s in lax.window_strides):
        return "the left-hand side is dilated and the window is strided"
    return input_grad_of(lax)


def _invalid(lax: LaxConvolution) -> str | None:
    rank = len(lax.lhs_shape) - 2
    if not 1 <= rank <= 3 or len(lax.rhs_shape) != rank + 2:
        return f"{rank} spatial axes; jaxconv's primitives have 1 to 3"
    per_axis = (lax.window_strides, lax.padding, lax.lhs_dilation, lax.rhs_dilation)
    if any(len(values) != rank for values in per_axis):
        return "a parameter does not have one entry per spatial axis"
    steps = (*lax.window_strides, *lax.lhs_dilation, *lax.rhs_dilation)
    if any(step < 1 for step in (*steps, lax.feature_group_count, lax.batch_group_count)):
        return "a stride, dilation or group count is not positive"
    sizes = (*steps, *itertools.chain(*lax.padding))
    if any(isinstance(size, int) and abs(size) > MAX_STEP for size in sizes):
        return f"a stride, dilation or padding is larger than {MAX_STEP:,}"
    if any(isinstance(n, int) and n == 0 for n in (*lax.lhs_shape, *lax.rhs_shape)):
        return "an operand is empty"
    if any(isinstance(o, int) and o <= 0 for o in lax.result_spatial):
        return "the result is empty"
    return None


def _mismatch(lax: LaxConvolution) -> str | None:
    lhs, rhs, _ = lax.dimension_numbers
    batch, features = lax.lhs_shape[lhs[0]], lax.lhs_shape[lhs[1]]
    if lax.feature_group_count > 1 and lax.batch_group_count > 1:
        return "both the features and the batch are grouped"
    if features != lax.rhs_shape[rhs[1]] * lax.feature_group_count:
        return "the feature counts of the operands do not match"
    groups = lax.feature_group_count * lax.batch_group_count
    if lax.rhs_shape[rhs[0]] % groups:
        return "the number of out-features is not a multiple of the number of groups"
    if lax.batch_group_count > 1 and batch % lax.batch_group_count:
        return "the batch size is not a multiple of the number of groups"
    return None


def _is_filter_gradient(lax: LaxConvolution) -> bool:
    if lax.batch_group_count > 1:
        return True
    lhs, _, _ = lax.dimension_numbers
    window, result = lax.rhs_spatial, lax.result_spatial
    if not all(isinstance(size, int) for size in (*window, *result)):
        return False
    larger = all(k >= o for k, o in zip(window, result, strict=True)) and window != result
    return lax.feature_group_count == 1 and lhs[1] < lhs[0] and larger
