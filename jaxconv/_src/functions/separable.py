"""Depthwise separable convolution."""

from __future__ import annotations

from typing import Any

import jax

from ..geometry import checks
from ..geometry.padding import PaddingLike
from ..primitives.call import convolve, convolve_depthwise

Array = jax.Array


def separable_conv(
    x: Any,
    depthwise_kernel: Any,
    pointwise_kernel: Any,
    bias: Any = None,
    *,
    strides: Any = 1,
    padding: PaddingLike = "SAME",
    dilation: Any = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    implementation: str | None = None,
) -> Array:
    """Depthwise separable convolution: space first, a filter a feature; then features, a matrix.

        y = pointwise_conv(depthwise_conv(x, depthwise_kernel), pointwise_kernel, bias)

    It costs ``1/F + 1/prod(K)`` of the dense convolution of the same shapes (multiplier 1).

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example; floating or complex.
        depthwise_kernel: ``[*K, 1, C*M]``, of the dtype of ``x``.
        pointwise_kernel: ``[1, …, 1, C*M, F]`` or ``[C*M, F]``, of the dtype of ``x``.
        bias: ``[F]``, or None.
        strides, padding, dilation: As in ``conv``, of the depthwise part.
        precision, preferred_element_type, implementation: As in ``conv``, of both parts.

    Returns:
        ``[N, *O, F]``, of the dtype of ``x`` or ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: Something is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> x = jnp.ones((1, 20, 20, 8))
    >>> separable_conv(x, jnp.ones((3, 3, 1, 8)), jnp.ones((8, 32)), padding="VALID").shape
    (1, 18, 18, 32)

    Source: L. Sifre, "Rigid-motion scattering for image classification" (2014), section 6.2;
    A. Howard et al., "MobileNets" (2017).
    """
    call, x, depthwise_kernel, pointwise_kernel, bias = checks.arrays(
        "separable_conv",
        x=x,
        depthwise_kernel=depthwise_kernel,
        pointwise_kernel=pointwise_kernel,
        bias=bias,
    )
    checks.depthwise_kernel(call, "depthwise_kernel", x.shape, depthwise_kernel.shape)
    checks.separable_kernel(call, depthwise_kernel.shape, pointwise_kernel.shape)
    chosen = (precision, preferred_element_type, implementation)
    checks.bias(call, bias, pointwise_kernel.shape[-1])
    y = convolve_depthwise(call, x, depthwise_kernel, None, (strides, padding, dilation), chosen)
    rank = depthwise_kernel.ndim - 2
    kernel = pointwise_kernel.reshape(*(1,) * rank, *pointwise_kernel.shape[-2:])
    bias = None if bias is None else bias.astype(y.dtype)
    return convolve(call, y, kernel.astype(y.dtype), bias, (1, "VALID", 1, 1), chosen)
