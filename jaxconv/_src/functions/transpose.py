"""Transposed convolution."""

from __future__ import annotations

import jax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..geometry import checks, resolve
from ..geometry.checks import AXES
from ..geometry.padding import PaddingLike
from ..geometry.spec import ConvSpec, Operator
from ..geometry.types import ImplementationName, Ints
from ..keywords import checks_keywords
from ..primitives.call import add_bias, apply, options

Array = jax.Array
_AXES = {**AXES, "kernel": "*K F/G C"}


@checks_keywords("conv_transpose")
def conv_transpose(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: Ints = 1,
    padding: PaddingLike = "SAME",
    output_padding: Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> Array:
    """Transposed convolution: exactly the adjoint of ``conv`` with the same kernel and padding.

        y[n, s*i + d*t - low, f] = bias[f] + sum over i, t, c of  x[n, i, c] * kernel[t, f, c]

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example; floating or complex. It has the shape of
            the forward convolution's output.
        kernel: ``[*K, F/groups, C]``, of the dtype of ``x``: the kernel of the forward convolution,
            which maps F to C.
        bias: ``[F]``, of the dtype of ``x``, or None.
        strides: Distance between the contributions of neighboring inputs, in output pixels: a
            positive int, or one per axis.
        padding: That of the forward convolution, as in PyTorch and Keras: more padding gives a
            smaller output. ``"SAME"`` and ``"SAME_LOWER"`` give ``S * strides``. The border modes
            ``"CIRCULAR"``, ``"REFLECT"`` and ``"REPLICATE"`` are not supported.
        output_padding: Extra output extent at the end of each axis: an int of at least 0 and less
            than the stride or the dilation, or one per axis; only 0 with ``"SAME"``.
        dilation, groups, precision, preferred_element_type, implementation: As in ``conv``.

    Returns:
        ``[N, *O, F]`` of the dtype of ``x`` or ``preferred_element_type``, with
        ``O = (S-1)*strides + dilation*(K-1) + 1 - low - high + output_padding``.

    Raises:
        ValueError: A shape or value does not fit, or the padding is a border mode.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> conv_transpose(jnp.ones((1, 14, 14, 8)), jnp.ones((4, 4, 3, 8)), strides=2).shape
    (1, 28, 28, 3)

    Source: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning" (2016),
    chapter 4.
    """
    call, (x, kernel), bias = checks.arrays(
        "conv_transpose", axes=_AXES, x=x, kernel=kernel, bias=bias
    )
    resolved = resolve.transpose(
        call, x.shape, kernel.shape, strides, padding, output_padding, dilation, groups
    )
    checks.bias(call, bias, resolved.spec.in_features)
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    x = _without_unused_axes(x, resolved.spec)
    return add_bias(apply(Operator.INPUT_GRAD, x, kernel, resolved, keywords), bias)


def _without_unused_axes(x: Array, spec: ConvSpec) -> Array:
    """``x`` with no pixels on axes where the kernel is empty: the spec's output has none there."""
    for axis, k in enumerate(spec.kernel_spatial, start=x.ndim - 1 - spec.rank):
        if checks.known(k) and k == 0:
            x = lax.slice_in_dim(x, 0, 0, axis=axis)
    return x
