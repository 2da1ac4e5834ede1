"""Convolution and its two gradients."""

from __future__ import annotations

from typing import Any

import jax

from ..geometry import checks, resolve
from ..geometry.padding import PaddingLike
from ..geometry.spec import Operator
from ..primitives.call import apply, convolve, options

Array = jax.Array


def conv(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    strides: Any = 1,
    padding: PaddingLike = "SAME",
    dilation: Any = 1,
    groups: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    implementation: str | None = None,
) -> Array:
    """Convolution in one, two or three dimensions, with strides, dilation and groups.

    The kernel is not flipped (cross-correlation, as in every deep-learning library):

        y[n, o, f] = bias[f] + sum over t, c of  x[n, s*o + d*t - low, c] * kernel[t, c, f]

    with ``c`` over the in-features of the group of ``f``. The semantics are those of
    ``lax.conv_general_dilated``.

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example; floating or complex.
        kernel: ``[*K, C/groups, F]``, of the dtype of ``x``; its rank gives the number of spatial
            axes. Features are group-major.
        bias: ``[F]``, of the dtype of ``x``, or None.
        strides: Pixels between neighbouring outputs: a positive int, or one for each axis.
        padding: ``"SAME"``, ``"SAME_LOWER"``, ``"VALID"``, ``"FULL"``, ``"CAUSAL"``,
            ``"CIRCULAR"``, ``"REFLECT"``, ``"REPLICATE"``, an int, or a sequence with one entry
            for each axis: a name, an int or a ``(low, high)`` pair. Negative values crop.
        dilation: Pixels between neighbouring taps: a positive int, or one for each axis. 1 is no
            gap; texts that count the skipped pixels call that 0.
        groups: The number of groups; it divides C and F.
        precision: None, a ``jax.lax.Precision``, its name, or a pair of these.
        preferred_element_type: The dtype to accumulate in and return; at least as wide as x's.
        implementation: None to let dispatch choose, or the name of a kernel to force.

    Returns:
        ``[N, *O, F]`` (``[*O, F]`` where ``x`` is one example) of the dtype of ``x`` or
        ``preferred_element_type``, ``O = (S + low + high - dilation*(K-1) - 1) // strides + 1``.
        NaN and infinity of ``x`` reach what they reach in ``lax``. Those of ``kernel`` reach every
        output that multiplies them by an entry; zeros of the padding may be left out, as XLA's CPU
        leaves them out in float64 but not in float32.

    Raises:
        ValueError: A shape or value does not fit; the message says which and how to mend it.
        TypeError: Something is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> conv(x, jnp.ones((3, 3, 1, 1)), padding="VALID")[0, :, :, 0]
    Array([[45., 54.],
           [81., 90.]], dtype=float32)

    Source: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning" (2016).
    """
    call, x, kernel, bias = checks.arrays("conv", x=x, kernel=kernel, bias=bias)
    chosen = (precision, preferred_element_type, implementation)
    return convolve(call, x, kernel, bias, (strides, padding, dilation, groups), chosen)


def conv_input_grad(
    g: Any,
    kernel: Any,
    input_spatial: Any,
    *,
    strides: Any = 1,
    padding: PaddingLike = "SAME",
    dilation: Any = 1,
    groups: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    implementation: str | None = None,
) -> Array:
    """The gradient of ``conv`` in its input: ``d/dx <g, conv(x, kernel)>``.

        dx[n, s*o + d*t - low, c] = sum over o, t, f of  g[n, o, f] * kernel[t, c, f]

    Args:
        g: ``[N, *O, F]``, or ``[*O, F]`` for one example: the cotangent of the output.
        kernel: ``[*K, C/groups, F]``, of the dtype of ``g``.
        input_spatial: The spatial extents of the input, which strides leave open.
        strides, padding, dilation, groups: The convolution's.
        precision, preferred_element_type, implementation: As in ``conv``.

    Returns:
        ``[N, *S, C]`` with ``S = input_spatial``, of the dtype of ``g`` or
        ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit, such as ``g`` not having the output's shape.
        TypeError: Something is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> conv_input_grad(jnp.ones((1, 4, 2)), jnp.ones((3, 5, 2)), (7,), strides=2).shape
    (1, 7, 5)

    Source: the derivation at the head of ``jaxconv.primitives``.
    """
    call, g, kernel = checks.arrays("conv_input_grad", g=g, kernel=kernel)
    static = resolve.input_grad(
        call, g.shape, kernel.shape, input_spatial, strides, padding, dilation, groups
    )
    chosen = options(call, g.dtype, precision, preferred_element_type, implementation)
    return apply(Operator.INPUT_GRAD, g, kernel, static, chosen)


def conv_filter_grad(
    x: Any,
    g: Any,
    kernel_spatial: Any,
    *,
    strides: Any = 1,
    padding: PaddingLike = "SAME",
    dilation: Any = 1,
    groups: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    implementation: str | None = None,
) -> Array:
    """The gradient of ``conv`` in its kernel: ``d/dkernel <g, conv(x, kernel)>``.

        dkernel[t, c, f] = sum over n, o of  x[n, s*o + d*t - low, c] * g[n, o, f]

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example.
        g: ``[N, *O, F]``, or ``[*O, F]``: the cotangent of the output, of the dtype of ``x``.
        kernel_spatial: The spatial extents of the kernel, which strides leave open.
        strides, padding, dilation, groups: The convolution's.
        precision, preferred_element_type, implementation: As in ``conv``.

    Returns:
        ``[*K, C/groups, F]`` with ``K = kernel_spatial``, of the dtype of ``x`` or
        ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit, such as ``g`` not having the output's shape.
        TypeError: Something is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> conv_filter_grad(jnp.ones((1, 7, 5)), jnp.ones((1, 4, 2)), (3,), strides=2).shape
    (3, 5, 2)

    Source: the derivation at the head of ``jaxconv.primitives``.
    """
    call, x, g = checks.arrays("conv_filter_grad", x=x, g=g)
    static = resolve.filter_grad(
        call, x.shape, g.shape, kernel_spatial, strides, padding, dilation, groups
    )
    chosen = options(call, x.dtype, precision, preferred_element_type, implementation)
    return apply(Operator.FILTER_GRAD, x, g, static, chosen)
