"""lax's convolution parameters <-> one operator of the family, its spec, and the arrays' layouts.

``lax.conv_general_dilated`` computes, with window strides s, left-hand dilation e, right-hand
dilation d and low padding p (per axis; u over the left-hand side, t over the right-hand one),

    out[n, o, f] = sum over u, t, c of  lhs[n, u, c] * rhs[t, c, f]     where  e*u = s*o + d*t - p

Which of the family's operators that is depends on which of the three index sets o, u, t is the
spec's "output", the one whose stride is not the kernel's dilation:

    e = 1               conv         x = lhs, k = rhs, y = out              stride s, dilation d
    s = 1, e > 1        input_grad   g = lhs, k = rhs reversed, dx = out    stride e, dilation d
    e = 1, as gradient  filter_grad  x = lhs, g = rhs, dk = out             stride d, dilation s
    d = 1, as gradient  filter_grad  g = lhs, x = rhs, dk = out reversed    stride e, dilation s

The last two sum over what lax calls features of both sides: the spec's batch. They are taken for
gradients if the batch is grouped (nothing else groups it), or if the left-hand side is laid out
with its features before its batch and the window is larger than the result, as lax's own
transposition rule leaves a filter gradient. Both strided and dilated on the left is not in the
family, and neither are empty arrays, whose shapes lax counts differently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import JaxprEqn

from ..geometry.spec import ConvSpec, Operator, Pairs, Shape, effective_extent, output_extent


class LaxConvolution(NamedTuple):
    """The parameters of one ``conv_general_dilated``, and its operands' shapes.

    ``dimension_numbers`` are lax's integers: for each array its batch (for the kernel: out-feature)
    axis, its feature (in-feature) axis, then the spatial axes.
    """

    lhs_shape: Shape
    rhs_shape: Shape
    window_strides: Shape
    padding: Pairs
    lhs_dilation: Shape
    rhs_dilation: Shape
    dimension_numbers: tuple[Sequence[int], Sequence[int], Sequence[int]]
    feature_group_count: int = 1
    batch_group_count: int = 1


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a family array is made of lax's: transpose, reverse the spatial axes, regroup.

    ``permutation[i]`` is lax's axis that becomes the family's axis ``i``. Regrouping turns
    ``[..., A, groups*B]`` into ``[..., B, groups*A]``: it transposes the two feature axes of a
    kernel within each group.
    """

    permutation: tuple[int, ...]
    reverse: bool = False
    groups: int | None = None


@dataclasses.dataclass(frozen=True)
class Recognised:
    """``operator`` of ``spec``, with how its operands and result lie in lax's arrays.

    ``swapped`` says that the operator's first operand is lax's right-hand side. ``result`` maps
    from the family's result to lax's: there regrouping and reversal come first.
    """

    operator: Operator
    spec: ConvSpec
    lhs: Layout
    rhs: Layout
    result: Layout
    swapped: bool = False


def recognise(lax: LaxConvolution) -> Recognised | str:
    """The member of the family that ``lax`` is, or the reason why it is none."""
    reason = _outside(lax)
    if reason is not None:
        return reason
    dilated = any(e != 1 for e in lax.lhs_dilation)
    if _is_filter_gradient(lax):
        if not dilated:
            return _filter_grad(lax)
        if all(d == 1 for d in lax.rhs_dilation):
            return _filter_grad_of_transposed(lax)
        return "both sides are dilated and the batch is grouped"
    if not dilated:
        return _conv(lax)
    if any(s != 1 for s in lax.window_strides):
        return "the left-hand side is dilated and the window strided"
    return _input_grad(lax)


def _outside(lax: LaxConvolution) -> str | None:
    rank = len(lax.lhs_shape) - 2
    if not 1 <= rank <= 3 or len(lax.rhs_shape) != rank + 2:
        return f"{rank} spatial axes; the family has 1 to 3"
    per_axis = (lax.window_strides, lax.padding, lax.lhs_dilation, lax.rhs_dilation)
    if any(len(values) != rank for values in per_axis):
        return "a parameter does not have one entry an axis"
    steps = (*lax.window_strides, *lax.lhs_dilation, *lax.rhs_dilation)
    if any(step < 1 for step in (*steps, lax.feature_group_count, lax.batch_group_count)):
        return "a stride, dilation or group count is not positive"
    if any(isinstance(n, int) and n == 0 for n in (*lax.lhs_shape, *lax.rhs_shape)):
        return "an operand is empty"
    if any(isinstance(o, int) and o <= 0 for o in _result_spatial(lax)):
        return "the result is empty"
    return _mismatch(lax)


def _mismatch(lax: LaxConvolution) -> str | None:
    lhs, rhs, _ = lax.dimension_numbers
    batch, features = lax.lhs_shape[lhs[0]], lax.lhs_shape[lhs[1]]
    if lax.feature_group_count > 1 and lax.batch_group_count > 1:
        return "features and batch are both grouped"
    if features != lax.rhs_shape[rhs[1]] * lax.feature_group_count:
        return "the operands' features do not match"
    groups = lax.feature_group_count * lax.batch_group_count
    if lax.rhs_shape[rhs[0]] % groups:
        return "the out-features are not a multiple of the groups"
    if lax.batch_group_count > 1 and batch % lax.batch_group_count:
        return "the batch is not a multiple of the groups"
    return None


def _spatial(shape: Shape, axes: Sequence[int]) -> Shape:
    return tuple(shape[axis] for axis in axes[2:])


def _result_spatial(lax: LaxConvolution) -> Shape:
    axes = zip(
        _spatial(lax.lhs_shape, lax.dimension_numbers[0]),
        _spatial(lax.rhs_shape, lax.dimension_numbers[1]),
        lax.window_strides,
        lax.padding,
        lax.rhs_dilation,
        lax.lhs_dilation,
        strict=True,
    )
    return tuple(
        output_extent(effective_extent(n, e), k, s, pair, d) for n, k, s, pair, d, e in axes
    )


def _is_filter_gradient(lax: LaxConvolution) -> bool:
    if lax.batch_group_count > 1:
        return True
    lhs, rhs, _ = lax.dimension_numbers
    window, result = _spatial(lax.rhs_shape, rhs), _result_spatial(lax)
    if not all(isinstance(size, int) for size in (*window, *result)):
        return False
    larger = all(k >= o for k, o in zip(window, result, strict=True)) and window != result
    return lax.feature_group_count == 1 and lhs[1] < lhs[0] and larger


def _activations(axes: Sequence[int]) -> tuple[int, ...]:
    """Batch, spatial, features: ``[N, *S, C]`` as lax lays it out."""
    return (axes[0], *axes[2:], axes[1])


def _kernel(axes: Sequence[int]) -> tuple[int, ...]:
    """Spatial, in-features, out-features: ``[*K, C/G, F]`` as lax lays it out."""
    return (*axes[2:], axes[1], axes[0])


def _adjoint(permutation: tuple[int, ...], groups: int) -> Layout:
    """A kernel with its features transposed within each group, and reversed in space."""
    if groups > 1:
        return Layout(permutation, reverse=True, groups=groups)
    *spatial, a, b = permutation
    return Layout((*spatial, b, a), reverse=True)


def _conv(lax: LaxConvolution) -> Recognised:
    lhs, rhs, out = lax.dimension_numbers
    spec = ConvSpec(
        batch=lax.lhs_shape[lhs[0]],
        in_features=lax.lhs_shape[lhs[1]],
        out_features=lax.rhs_shape[rhs[0]],
        input_spatial=_spatial(lax.lhs_shape, lhs),
        kernel_spatial=_spatial(lax.rhs_shape, rhs),
        strides=tuple(lax.window_strides),
        padding=tuple(lax.padding),
        dilation=tuple(lax.rhs_dilation),
        groups=lax.feature_group_count,
    )
    return Recognised(
        Operator.CONV,
        spec,
        Layout(_activations(lhs)),
        Layout(_kernel(rhs)),
        Layout(_activations(out)),
    )


def _input_grad(lax: LaxConvolution) -> Recognised:
    """With the taps reversed, ``e*u = o + d*t - p`` reads ``o = e*u + d*t' - (d*(k-1) - p)``."""
    lhs, rhs, out = lax.dimension_numbers
    kernel_spatial = _spatial(lax.rhs_shape, rhs)
    groups = lax.feature_group_count
    reach = [
        effective_extent(k, d) - 1 for k, d in zip(kernel_spatial, lax.rhs_dilation, strict=True)
    ]
    spec = ConvSpec(
        batch=lax.lhs_shape[lhs[0]],
        in_features=lax.rhs_shape[rhs[0]],
        out_features=lax.lhs_shape[lhs[1]],
        input_spatial=_result_spatial(lax),
        kernel_spatial=kernel_spatial,
        strides=tuple(lax.lhs_dilation),
        padding=tuple(
            (far - low, far - high) for far, (low, high) in zip(reach, lax.padding, strict=True)
        ),
        dilation=tuple(lax.rhs_dilation),
        groups=groups,
    )
    return Recognised(
        Operator.INPUT_GRAD,
        spec,
        Layout(_activations(lhs)),
        _adjoint(_kernel(rhs), groups),
        Layout(_activations(out)),
    )


def as_input_gradient(found: Recognised) -> Recognised:
    """A convolution of stride 1 as the input gradient that is the same sum, where the kernel lies
    in memory as ``[*K, F, C]``: so lax's transposition rule leaves ``[*K, C, F]``, and no kernel is
    transposed only to be transposed back. Anything else as it is.

    Only for what is lowered at once: the gradient of the gradient reads other sizes.
    """
    spec, rank = found.spec, found.spec.rank
    as_it_lies = tuple(range(rank + 2))
    swapped = (*as_it_lies[:rank], rank + 1, rank)
    plain = found.operator is Operator.CONV and spec.unstrided and spec.groups == 1
    if not plain or found.rhs.permutation != swapped:
        return found
    reach = [extent - 1 for extent in spec.effective_kernel]
    gradient = spec.replace(
        in_features=spec.out_features,
        out_features=spec.in_features,
        input_spatial=spec.output_spatial,
        padding=tuple(
            (far - low, far - high) for far, (low, high) in zip(reach, spec.padding, strict=True)
        ),
    )
    rhs = Layout(as_it_lies, reverse=True)
    return Recognised(Operator.INPUT_GRAD, gradient, found.lhs, rhs, found.result)


def _filter_grad(lax: LaxConvolution) -> Recognised:
    """The window is ``g``: ``u = s*o + d*t - p`` with t over g's pixels and o over the taps."""
    lhs, rhs, out = lax.dimension_numbers
    spec = _gradient_spec(
        lax,
        x=(lax.lhs_shape, lhs),
        g=(lax.rhs_shape, rhs),
        strides=lax.rhs_dilation,
        lows=[low for low, _ in lax.padding],
    )
    result = Layout((*out[2:], out[0], out[1]))
    return Recognised(Operator.FILTER_GRAD, spec, _summed(lhs), _summed(rhs), result)


def _filter_grad_of_transposed(lax: LaxConvolution) -> Recognised:
    """The window is the large ``x`` and the dilated left-hand side ``g``; taps come out reversed.

    ``e*u = s*o + t - p`` gives, with ``o = k-1 - o'``, ``t = e*u + s*o' - (s*(k-1) - p)``.
    """
    lhs, rhs, out = lax.dimension_numbers
    taps = zip(_result_spatial(lax), lax.window_strides, lax.padding, strict=True)
    spec = _gradient_spec(
        lax,
        x=(lax.rhs_shape, rhs),
        g=(lax.lhs_shape, lhs),
        strides=lax.lhs_dilation,
        lows=[s * (k - 1) - low for k, s, (low, _) in taps],
    )
    result = _adjoint((*out[2:], out[0], out[1]), lax.batch_group_count)
    return Recognised(Operator.FILTER_GRAD, spec, _summed(lhs), _summed(rhs), result, swapped=True)


def _summed(axes: Sequence[int]) -> Layout:
    """An operand that is summed over lax's features, which are the family's batch."""
    batch, features, *spatial = axes
    return Layout((features, *spatial, batch))


def _gradient_spec(lax: LaxConvolution, x, g, strides: Shape, lows: Sequence[int]) -> ConvSpec:
    """The spec whose filter gradient has lax's result as its taps, the window strides apart.

    The high padding is what the last tap over the last pixel of g needs; lax's may be larger by
    less than a stride.
    """
    (x_shape, x_axes), (g_shape, g_axes) = x, g
    input_spatial, output_spatial = _spatial(x_shape, x_axes), _spatial(g_shape, g_axes)
    kernel_spatial, dilation = _result_spatial(lax), tuple(lax.window_strides)
    axes = zip(input_spatial, output_spatial, kernel_spatial, strides, dilation, lows, strict=True)
    padding = tuple((low, d * (k - 1) + s * (o - 1) + 1 - n - low) for n, o, k, s, d, low in axes)
    # The axis of lax's own batch or out-features is the family's features.
    return ConvSpec(
        batch=x_shape[x_axes[1]],
        in_features=x_shape[x_axes[0]],
        out_features=g_shape[g_axes[0]],
        input_spatial=input_spatial,
        kernel_spatial=kernel_spatial,
        strides=tuple(strides),
        padding=padding,
        dilation=dilation,
        groups=lax.batch_group_count,
    )


def lax_parameters(operator: Operator, spec: ConvSpec) -> LaxConvolution:
    """The channels-last ``conv_general_dilated`` that ``operator`` of ``spec`` is.

    Its operands are the operator's own, but for an input gradient the kernel reversed in space and
    with its features regrouped, as ``Recognised.rhs`` of the answer's own recognition says.
    """
    rank = spec.rank
    space = tuple(range(1, rank + 1))
    activations = (0, rank + 1, *space)
    kernel = (rank + 1, rank, *range(rank))
    ones = (1,) * rank
    match operator:
        case Operator.CONV:
            return LaxConvolution(
                spec.input_shape,
                spec.kernel_shape,
                spec.strides,
                spec.padding,
                ones,
                spec.dilation,
                (activations, kernel, activations),
                spec.groups,
            )
        case Operator.INPUT_GRAD:
            shape = (*spec.kernel_spatial, spec.group_out, spec.in_features)
            return LaxConvolution(
                spec.output_shape,
                shape,
                ones,
                spec.input_grad_padding,
                spec.strides,
                spec.dilation,
                (activations, kernel, activations),
                spec.groups,
            )
        case Operator.FILTER_GRAD:
            return LaxConvolution(
                spec.input_shape,
                spec.output_shape,
                spec.dilation,
                spec.filter_grad_padding,
                ones,
                spec.strides,
                (
                    (rank + 1, 0, *space),
                    (rank + 1, 0, *space),
                    (rank, rank + 1, *range(rank)),
                ),
                1,
                spec.groups,
            )


def recognise_equation(eqn: JaxprEqn) -> Recognised | str:
    """The family's member that a ``conv_general_dilated`` equation is, or why it is none."""
    lhs, rhs = eqn.invars
    return recognise_convolution(lhs.aval, rhs.aval, eqn.params)


def recognise_convolution(lhs: Any, rhs: Any, params: Mapping[str, Any]) -> Recognised | str:
    """The same of the primitive's operand types and parameters."""
    if not jax.numpy.issubdtype(lhs.dtype, jax.numpy.inexact):
        return f"{lhs.dtype} operands; the family has floating and complex ones"
    names = LaxConvolution._fields[2:]
    return recognise(
        LaxConvolution(tuple(lhs.shape), tuple(rhs.shape), *(params[name] for name in names))
    )
