"""Pointwise (1×1) convolution."""

from __future__ import annotations

import math
from typing import Any

import jax

from ..geometry import checks
from ..primitives.call import convolve

Array = jax.Array


def pointwise_conv(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    strides: Any = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    implementation: str | None = None,
) -> Array:
    """Pointwise (1×1) convolution: one matrix product at every pixel.

        y[n, o, f] = bias[f] + sum over c of  x[n, s*o, c] * kernel[c, f]

    Args:
        x: ``[N, *S, C]`` or ``[*S, C]``; beside a kernel ``[C, F]`` any ``[..., C]``.
        kernel: ``[1, …, 1, C, F]``, or ``[C, F]`` where ``strides`` is 1.
        bias: ``[F]``, or None.
        strides: Pixels between neighbouring outputs: a positive int, or one for each axis.
        precision, preferred_element_type, implementation: As in ``conv``.

    Returns:
        ``[N, *O, F]`` with ``O = ceil(S / strides)``, or ``[..., F]``; of the dtype of ``x`` or
        ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: Something is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> pointwise_conv(jnp.ones((2, 8, 8, 5)), jnp.ones((5, 3))).shape
    (2, 8, 8, 3)
    >>> pointwise_conv(jnp.ones((2, 8, 8, 5)), jnp.ones((1, 1, 5, 3)), strides=2).shape
    (2, 4, 4, 3)

    Source: M. Lin, Q. Chen, S. Yan, "Network in network" (2014).
    """
    call, x, kernel, bias = checks.arrays("pointwise_conv", x=x, kernel=kernel, bias=bias)
    checks.pointwise_kernel(call, x.shape, kernel.shape, strides)
    chosen = (precision, preferred_element_type, implementation)
    if kernel.ndim > 2:
        return convolve(call, x, kernel, bias, (strides, "VALID", 1, 1), chosen)
    pixels = x if 3 <= x.ndim <= 5 else _in_lines(x)
    kernel = kernel.reshape(*(1,) * (pixels.ndim - 2), *kernel.shape)
    y = convolve(call, pixels, kernel, bias, (1, "VALID", 1, 1), chosen)
    return y if pixels is x else y.reshape(*x.shape[:-1], y.shape[-1])


def _in_lines(x):
    """``x [N, ..., C]`` as ``[N, L, C]``: the first axis stays, and with it what shards it."""
    first = x.shape[:-1][:1] or (1,)
    return x.reshape(*first, math.prod(x.shape[1:-1]), x.shape[-1])
