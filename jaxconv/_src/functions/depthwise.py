"""Depthwise convolution: one filter bank per channel."""

from __future__ import annotations

from typing import Any

import jax

from ..geometry import checks
from ..geometry.padding import PaddingLike
from ..primitives.call import convolve_depthwise

Array = jax.Array


def depthwise_conv(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    strides: Any = 1,
    padding: PaddingLike = "SAME",
    dilation: Any = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    implementation: str | None = None,
) -> Array:
    """Depthwise convolution: every in-feature has its own ``M`` filters and meets no other.

        y[n, o, c*M + m] = bias[c*M + m]
            + sum over t of  x[n, s*o + d*t - low, c] * kernel[t, 0, c*M + m]

    It is ``conv`` with ``groups`` equal to the number of in-features.

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example; floating or complex.
        kernel: ``[*K, 1, C*M]``, of the dtype of ``x``; feature order as in ``lax``.
        bias: ``[C*M]``, or None.
        strides, padding, dilation, precision, preferred_element_type, implementation: As in
            ``conv``.

    Returns:
        ``[N, *O, C*M]``, of the dtype of ``x`` or ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit, the kernel's layout included.
        TypeError: Something is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> depthwise_conv(jnp.ones((2, 8, 8, 5)), jnp.ones((3, 3, 1, 10))).shape
    (2, 8, 8, 10)

    Source: F. Chollet, "Xception: deep learning with depthwise separable convolutions" (2017).
    """
    call, x, kernel, bias = checks.arrays("depthwise_conv", x=x, kernel=kernel, bias=bias)
    checks.depthwise_kernel(call, "kernel", x.shape, kernel.shape)
    chosen = (precision, preferred_element_type, implementation)
    return convolve_depthwise(call, x, kernel, bias, (strides, padding, dilation), chosen)
