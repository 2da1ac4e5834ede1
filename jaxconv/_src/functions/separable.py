"""Depthwise separable convolution."""

from __future__ import annotations

import jax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..geometry import checks
from ..geometry.checks import AXES
from ..geometry.padding import PaddingLike
from ..geometry.types import ImplementationName, Ints
from ..keywords import checks_keywords
from ..primitives.call import Window, convolve, convolve_depthwise, options

Array = jax.Array
_AXES = {
    **AXES,
    "depthwise_kernel": "*K 1 C*M",
    "pointwise_kernel": "*K C*M F or C*M F",
}


@checks_keywords("separable_conv")
def separable_conv(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: Ints = 1,
    padding: PaddingLike = "SAME",
    dilation: Ints = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> Array:
    """Depthwise separable convolution: filter each channel in space, then mix the channels.

        y = pointwise_conv(depthwise_conv(x, depthwise_kernel), pointwise_kernel, bias)

    With multiplier ``M = 1`` it costs ``1/F + 1/prod(K)`` of the dense convolution with the same
    input and output shapes.

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example; floating or complex.
        depthwise_kernel: ``[*K, 1, C*M]``, of the dtype of ``x``.
        pointwise_kernel: ``[1, …, 1, C*M, F]`` or ``[C*M, F]``, of the dtype of ``x``.
        bias: ``[F]``, of the dtype of ``x``, or None.
        strides, padding, dilation: As in ``conv``, for the depthwise part.
        precision, preferred_element_type, implementation: As in ``conv``, for both parts.

    Returns:
        ``[N, *O, F]``, of the dtype of ``x`` or ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> x = jnp.ones((1, 20, 20, 8))
    >>> separable_conv(x, jnp.ones((3, 3, 1, 8)), jnp.ones((8, 32)), padding="VALID").shape
    (1, 18, 18, 32)

    Source: L. Sifre, "Rigid-motion scattering for image classification" (2014), section 6.2;
    A. Howard et al., "MobileNets" (2017).
    """
    call, (x, depthwise_kernel, pointwise_kernel), bias = checks.arrays(
        "separable_conv",
        axes=_AXES,
        x=x,
        depthwise_kernel=depthwise_kernel,
        pointwise_kernel=pointwise_kernel,
        bias=bias,
    )
    checks.depthwise_kernel(call, "depthwise_kernel", x.shape, depthwise_kernel.shape)
    checks.separable_kernel(call, depthwise_kernel.shape, pointwise_kernel.shape)
    checks.bias(call, bias, pointwise_kernel.shape[-1])
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    window = Window(strides, padding, dilation)
    y = convolve_depthwise(call, x, depthwise_kernel, None, window, keywords)
    rank = depthwise_kernel.ndim - 2
    kernel = pointwise_kernel.reshape(*(1,) * rank, *pointwise_kernel.shape[-2:])
    bias = None if bias is None else bias.astype(y.dtype)
    return convolve(call, y, kernel.astype(y.dtype), bias, Window(), keywords)
