"""Pointwise (1×1) convolution."""

from __future__ import annotations

import math

import jax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..geometry import checks
from ..geometry.checks import AXES
from ..geometry.types import ImplementationName, Ints
from ..keywords import checks_keywords
from ..primitives.call import Window, convolve, options

Array = jax.Array
_AXES = {**AXES, "kernel": "*K C F or C F"}


@checks_keywords("pointwise_conv")
def pointwise_conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: Ints = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> Array:
    """Pointwise (1×1) convolution: one matrix product at every pixel.

        y[n, o, f] = bias[f] + sum over c of  x[n, s*o, c] * kernel[c, f]

    Args:
        x: ``[N, *S, C]`` or ``[*S, C]``; with a kernel ``[C, F]`` any ``[..., C]``; floating or
            complex.
        kernel: ``[1, …, 1, C, F]``, or ``[C, F]`` when ``strides`` is 1; of the dtype of ``x``.
        bias: ``[F]``, of the dtype of ``x``, or None.
        strides: Distance between neighboring outputs in pixels: a positive int, or one per axis.
        precision, preferred_element_type, implementation: As in ``conv``.

    Returns:
        ``[N, *O, F]`` with ``O = ceil(S / strides)``, or ``[..., F]``; of the dtype of ``x`` or
        ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> pointwise_conv(jnp.ones((2, 8, 8, 5)), jnp.ones((5, 3))).shape
    (2, 8, 8, 3)
    >>> pointwise_conv(jnp.ones((2, 8, 8, 5)), jnp.ones((1, 1, 5, 3)), strides=2).shape
    (2, 4, 4, 3)

    Source: M. Lin, Q. Chen, S. Yan, "Network in network" (2014).
    """
    call, (x, kernel), bias = checks.arrays(
        "pointwise_conv", axes=_AXES, x=x, kernel=kernel, bias=bias
    )
    checks.pointwise_kernel(call, x.shape, kernel.shape, strides)
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    if kernel.ndim > 2:
        return convolve(call, x, kernel, bias, Window(strides), keywords)
    pixels = x if 3 <= x.ndim <= 5 else _with_one_spatial_axis(x)
    kernel = kernel.reshape(*(1,) * (pixels.ndim - 2), *kernel.shape)
    y = convolve(call, pixels, kernel, bias, Window(), keywords)
    return y if pixels is x else y.reshape(*x.shape[:-1], y.shape[-1])


def _with_one_spatial_axis(x: Array) -> Array:
    """``x [N, ..., C]`` as ``[N, L, C]``; the first axis stays, and so does its sharding."""
    first = x.shape[:-1][:1] or (1,)
    return x.reshape(*first, math.prod(x.shape[1:-1]), x.shape[-1])
