"""The operator of jaxconv that one of lax's convolutions is: its spec and the layout of its arrays.

``recognize.py`` decides which operator it is, and has the notation that is used here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..geometry.spec import ConvSpec, Operator, Pairs, Shape, effective_extent
from ..primitives import rules
from .lax_params import LaxConvolution, spatial_shape
from .rearrangement import Rearrangement


@dataclasses.dataclass(frozen=True)
class RecognizedOperator:
    """``operator`` of ``spec``, and how its operands and result are laid out in lax's arrays.

    If ``swapped``, the operator's first operand is lax's right-hand side.
    """

    operator: Operator
    spec: ConvSpec
    lhs: Rearrangement
    rhs: Rearrangement
    result: Rearrangement
    swapped: bool = False


def compute_recognized(lhs, rhs, *, recognized: RecognizedOperator, **params):
    """Computes lax's result from lax's operands; ``params`` are those of ``rules.bind``."""
    rank = recognized.spec.rank
    a = recognized.lhs.apply(lhs, range(1, rank + 1))
    b = recognized.rhs.apply(rhs, range(rank))
    if recognized.swapped:
        a, b = b, a
    result = rules.bind(recognized.operator, a, b, recognized.spec, **params)
    return recognized.result.apply_to_result(result, range(rank))


def conv_of(lax: LaxConvolution) -> RecognizedOperator:
    lhs, rhs, out = lax.dimension_numbers
    spec = ConvSpec(
        batch=lax.lhs_shape[lhs[0]],
        in_features=lax.lhs_shape[lhs[1]],
        out_features=lax.rhs_shape[rhs[0]],
        input_spatial=lax.lhs_spatial,
        kernel_spatial=lax.rhs_spatial,
        strides=tuple(lax.window_strides),
        padding=tuple(lax.padding),
        dilation=tuple(lax.rhs_dilation),
        groups=lax.feature_group_count,
    )
    return RecognizedOperator(
        Operator.CONV,
        spec,
        Rearrangement(_activations(lhs)),
        Rearrangement(_kernel(rhs)),
        Rearrangement(_activations(out)),
    )


def input_grad_of(lax: LaxConvolution) -> RecognizedOperator:
    """With the taps reversed, ``e*u = o + d*t - p`` reads ``o = e*u + d*t' - (d*(k-1) - p)``."""
    lhs, rhs, out = lax.dimension_numbers
    spec = ConvSpec(
        batch=lax.lhs_shape[lhs[0]],
        in_features=lax.rhs_shape[rhs[0]],
        out_features=lax.lhs_shape[lhs[1]],
        input_spatial=lax.result_spatial,
        kernel_spatial=lax.rhs_spatial,
        strides=tuple(lax.lhs_dilation),
        padding=_adjoint_padding(lax.rhs_spatial, lax.rhs_dilation, lax.padding),
        dilation=tuple(lax.rhs_dilation),
        groups=lax.feature_group_count,
    )
    return RecognizedOperator(
        Operator.INPUT_GRAD,
        spec,
        Rearrangement(_activations(lhs)),
        _adjoint(_kernel(rhs), lax.feature_group_count),
        Rearrangement(_activations(out)),
    )


def as_input_grad(recognized: RecognizedOperator) -> RecognizedOperator:
    """A convolution of stride 1 as the input gradient that computes the same sum, if its kernel is
    laid out as ``[*K, F, C]``; anything else unchanged.

    lax's transposition rule leaves kernels laid out so, which saves transposing one twice. Use it
    only where the result is not differentiated: the gradient of an input gradient reads other
    sizes.
    """
    spec, rank = recognized.spec, recognized.spec.rank
    unchanged = tuple(range(rank + 2))
    features_swapped = (*unchanged[:rank], rank + 1, rank)
    plain = recognized.operator is Operator.CONV and spec.unstrided and spec.groups == 1
    if not plain or recognized.rhs.permutation != features_swapped:
        return recognized
    gradient = spec.replace(
        in_features=spec.out_features,
        out_features=spec.in_features,
        input_spatial=spec.output_spatial,
        padding=_adjoint_padding(spec.kernel_spatial, spec.dilation, spec.padding),
    )
    return dataclasses.replace(
        recognized,
        operator=Operator.INPUT_GRAD,
        spec=gradient,
        rhs=Rearrangement(unchanged, reverse=True),
    )


def filter_grad_of(lax: LaxConvolution) -> RecognizedOperator:
    """The window is ``g``: ``u = s*o + d*t - p`` with t over g's pixels and o over the taps."""
    lhs, rhs, out = lax.dimension_numbers
    spec = _filter_grad_spec(
        lax,
        x=(lax.lhs_shape, lhs),
        g=(lax.rhs_shape, rhs),
        strides=lax.rhs_dilation,
        lows=[low for low, _ in lax.padding],
    )
    result = Rearrangement((*out[2:], out[0], out[1]))
    return RecognizedOperator(
        Operator.FILTER_GRAD, spec, _summed_operand(lhs), _summed_operand(rhs), result
    )


def filter_grad_of_transposed(lax: LaxConvolution) -> RecognizedOperator:
    """The window is ``x``, and ``g`` is the dilated left-hand side. The taps come out reversed.

    ``e*u = s*o + t - p`` gives, with ``o = k-1 - o'``, ``t = e*u + s*o' - (s*(k-1) - p)``.
    """
    lhs, rhs, out = lax.dimension_numbers
    taps = zip(lax.result_spatial, lax.window_strides, lax.padding, strict=True)
    spec = _filter_grad_spec(
        lax,
        x=(lax.rhs_shape, rhs),
        g=(lax.lhs_shape, lhs),
        strides=lax.lhs_dilation,
        lows=[s * (k - 1) - low for k, s, (low, _) in taps],
    )
    result = _adjoint((*out[2:], out[0], out[1]), lax.batch_group_count)
    return RecognizedOperator(
        Operator.FILTER_GRAD,
        spec,
        _summed_operand(lhs),
        _summed_operand(rhs),
        result,
        swapped=True,
    )


def _filter_grad_spec(lax: LaxConvolution, x, g, strides: Shape, lows: Sequence[int]) -> ConvSpec:
    """The spec whose filter gradient is lax's result, with taps as far apart as lax's strides.

    The padding after an axis is what the last tap over the last pixel of g needs. lax's own may be
    larger by less than a stride.
    """
    (x_shape, x_axes), (g_shape, g_axes) = x, g
    input_spatial, output_spatial = spatial_shape(x_shape, x_axes), spatial_shape(g_shape, g_axes)
    kernel_spatial, dilation = lax.result_spatial, tuple(lax.window_strides)
    axes = zip(input_spatial, output_spatial, kernel_spatial, strides, dilation, lows, strict=True)
    padding = tuple((low, d * (k - 1) + s * (o - 1) + 1 - n - low) for n, o, k, s, d, low in axes)
    # lax sums over its features, so they are the batch here, and its batch axes are the features.
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


def _adjoint_padding(kernel: Shape, dilation: Shape, padding: Pairs) -> Pairs:
    """The padding of a convolution of stride 1 as that of an input gradient, or back."""
    reach = [effective_extent(k, d) - 1 for k, d in zip(kernel, dilation, strict=True)]
    return tuple((r - low, r - high) for r, (low, high) in zip(reach, padding, strict=True))


def _activations(axes: Sequence[int]) -> tuple[int, ...]:
    """lax's axes in the order batch, spatial, features: ``[N, *S, C]``."""
    return (axes[0], *axes[2:], axes[1])


def _kernel(axes: Sequence[int]) -> tuple[int, ...]:
    """lax's axes in the order spatial, in-features, out-features: ``[*K, C/G, F]``."""
    return (*axes[2:], axes[1], axes[0])


def _summed_operand(axes: Sequence[int]) -> Rearrangement:
    """An operand of a filter gradient: its batch is lax's feature axis."""
    batch, features, *spatial = axes
    return Rearrangement((features, *spatial, batch))


def _adjoint(permutation: tuple[int, ...], groups: int) -> Rearrangement:
    """A kernel with its features transposed within each group, and reversed in space."""
    if groups > 1:
        return Rearrangement(permutation, reverse=True, groups=groups)
    *spatial, a, b = permutation
    return Rearrangement((*spatial, b, a), reverse=True)
