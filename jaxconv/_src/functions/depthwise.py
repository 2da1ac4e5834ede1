"""Depthwise convolution: one filter bank per channel."""

from __future__ import annotations

import jax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..geometry import checks
from ..geometry.checks import AXES
from ..geometry.padding import PaddingLike
from ..geometry.types import ImplementationName, Ints
from ..keywords import checks_keywords
from ..primitives.call import Window, convolve_depthwise, options

Array = jax.Array
_AXES = {**AXES, "kernel": "*K 1 C*M"}


@checks_keywords("depthwise_conv")
def depthwise_conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: Ints = 1,
    padding: PaddingLike = "SAME",
    dilation: Ints = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> Array:
    """Depthwise convolution: one bank of ``M`` filters per channel, channels are not mixed.

        y[n, o, c*M + m] = bias[c*M + m]
            + sum over t of  x[n, s*o + d*t - low, c] * kernel[t, 0, c*M + m]

    It is ``conv`` with ``groups`` equal to the number of channels.

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example; floating or complex.
        kernel: ``[*K, 1, C*M]``, of the dtype of ``x``; feature order as in ``lax``.
        bias: ``[C*M]``, of the dtype of ``x``, or None.
        strides, padding, dilation, precision, preferred_element_type, implementation: As in
            ``conv``.

    Returns:
        ``[N, *O, C*M]``, of the dtype of ``x`` or ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit, including the layout of the kernel.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> depthwise_conv(jnp.ones((2, 8, 8, 5)), jnp.ones((3, 3, 1, 10))).shape
    (2, 8, 8, 10)

    Source: F. Chollet, "Xception: deep learning with depthwise separable convolutions" (2017).
    """
    call, (x, kernel), bias = checks.arrays(
        "depthwise_conv", axes=_AXES, x=x, kernel=kernel, bias=bias
    )
    checks.depthwise_kernel(call, "kernel", x.shape, kernel.shape)
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    return convolve_depthwise(call, x, kernel, bias, Window(strides, padding, dilation), keywords)
