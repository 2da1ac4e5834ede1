"""Transposed convolution."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from ..geometry import checks, resolve
from ..geometry.padding import PaddingLike
from ..geometry.spec import ConvSpec, Operator
from ..primitives.call import add_bias, apply, options

Array = jax.Array


def conv_transpose(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    strides: Any = 1,
    padding: PaddingLike = "SAME",
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    implementation: str | None = None,
) -> Array:
    """Transposed convolution: exactly the adjoint of ``conv`` with the same kernel and padding.

        y[n, s*o + d*t - low, c] = bias[c] + sum over o, t, f of  x[n, o, f] * kernel[t, c, f]

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example; floating or complex. It has the features
            that the forward convolution returns.
        kernel: ``[*K, F/groups, C]``, laid out as the forward convolution's, of the dtype of ``x``.
        bias: ``[F]``, or None.
        strides: Output pixels between the contributions of neighbouring inputs.
        padding: The forward convolution's, as in PyTorch and Keras: more padding, smaller output.
            ``"SAME"`` and ``"SAME_LOWER"`` give ``S * strides``. Border modes are refused.
        output_padding: Extra output extent at the end of each axis, at least 0 and less than the
            stride or the dilation; not beside ``"SAME"``.
        dilation, groups, precision, preferred_element_type, implementation: As in ``conv``.

    Returns:
        ``[N, *O, F]`` of the dtype of ``x`` or ``preferred_element_type``,
        ``O = (S-1)*strides + dilation*(K-1) + 1 - low - high + output_padding``.

    Raises:
        ValueError: A shape or value does not fit; a border mode.
        TypeError: Something is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> conv_transpose(jnp.ones((1, 14, 14, 8)), jnp.ones((4, 4, 3, 8)), strides=2).shape
    (1, 28, 28, 3)

    Source: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning" (2016),
    chapter 4.
    """
    call, x, kernel, bias = checks.arrays("conv_transpose", x=x, kernel=kernel, bias=bias)
    static = resolve.transpose(
        call, x.shape, kernel.shape, strides, padding, output_padding, dilation, groups
    )
    checks.bias(call, bias, static.spec.in_features)
    chosen = options(call, x.dtype, precision, preferred_element_type, implementation)
    x = _met_by_taps(x, static.spec)
    return add_bias(apply(Operator.INPUT_GRAD, x, kernel, static, chosen), bias)


def _met_by_taps(x, spec: ConvSpec):
    """``x`` without the pixels of an axis on which the kernel is empty, for none has an output."""
    for axis, k in enumerate(spec.kernel_spatial, start=x.ndim - 1 - spec.rank):
        if checks.known(k) and k == 0:
            x = lax.slice_in_dim(x, 0, 0, axis=axis)
    return x
