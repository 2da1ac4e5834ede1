"""Convolution and its two gradients."""

from __future__ import annotations

import jax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..geometry import checks, resolve
from ..geometry.padding import PaddingLike
from ..geometry.spec import Operator
from ..geometry.types import ImplementationName, Ints
from ..keywords import checks_keywords
from ..primitives.call import Window, apply, convolve, options

Array = jax.Array


@checks_keywords("conv")
def conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: Ints = 1,
    padding: PaddingLike = "SAME",
    dilation: Ints = 1,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> Array:
    """Convolution in one, two or three dimensions, with strides, dilation and groups.

    The kernel is not flipped (cross-correlation, as in every deep-learning library):

        y[n, o, f] = bias[f] + sum over t, c of  x[n, s*o + d*t - low, c] * kernel[t, c, f]

    with ``c`` over the channels of the group of ``f``. The semantics are those of
    ``lax.conv_general_dilated``.

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example; floating or complex.
        kernel: ``[*K, C/groups, F]``, of the dtype of ``x``; its rank determines the number of
            spatial axes. Features are group-major.
        bias: ``[F]``, of the dtype of ``x``, or None.
        strides: Distance between neighboring outputs in pixels: a positive int, or one per axis.
        padding: ``"SAME"``, ``"SAME_LOWER"``, ``"VALID"``, ``"FULL"``, ``"CAUSAL"``,
            ``"CIRCULAR"``, ``"REFLECT"`` or ``"REPLICATE"``, in upper or lower case; an int; or a
            sequence with one entry per axis: a name, an int or a ``(low, high)`` pair. Negative
            values crop.
        dilation: Distance between neighboring taps in pixels: a positive int, or one per axis. 1
            means no gap; texts that count the skipped pixels call that 0.
        groups: The number of groups; it divides C and F.
        precision: None, a ``jax.lax.Precision``, its name, or a pair of these.
        preferred_element_type: The dtype to accumulate in and return; at least as wide as x's.
        implementation: None to let jaxconv choose, or the name of an implementation to force.

    Returns:
        ``[N, *O, F]`` (``[*O, F]`` if ``x`` is one example) of the dtype of ``x`` or
        ``preferred_element_type``, with
        ``O = (S + low + high - dilation*(K-1) - 1) // strides + 1``.
        NaN and infinity in ``x`` make exactly those outputs non-finite that read them. Those in
        ``kernel`` may also reach outputs of their feature where they meet zero padding only: some
        implementations skip such products, and others multiply by zero. ``"fft"`` spreads both.

    Raises:
        ValueError: A shape or value does not fit; the message says which one and how to fix it.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> conv(x, jnp.ones((3, 3, 1, 1)), padding="VALID")[0, :, :, 0]
    Array([[45., 54.],
           [81., 90.]], dtype=float32)

    Source: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning" (2016).
    """
    call, (x, kernel), bias = checks.arrays("conv", x=x, kernel=kernel, bias=bias)
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    return convolve(call, x, kernel, bias, Window(strides, padding, dilation, groups), keywords)


@checks_keywords("conv_input_grad")
def conv_input_grad(
    g: ArrayLike,
    kernel: ArrayLike,
    input_spatial: Ints,
    *,
    strides: Ints = 1,
    padding: PaddingLike = "SAME",
    dilation: Ints = 1,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> Array:
    """The gradient of ``conv`` with respect to its input: ``d/dx <g, conv(x, kernel)>``.

        dx[n, s*o + d*t - low, c] = sum over o, t, f of  g[n, o, f] * kernel[t, c, f]

    Args:
        g: ``[N, *O, F]``, or ``[*O, F]`` for one example: the cotangent of the output.
        kernel: ``[*K, C/groups, F]``, of the dtype of ``g``.
        input_spatial: The spatial extents of the input: an int, or one per axis. With strides they
            do not follow from the shape of ``g``.
        strides, padding, dilation, groups: Those of the convolution.
        precision, preferred_element_type, implementation: As in ``conv``.

    Returns:
        ``[N, *S, C]`` with ``S = input_spatial``, of the dtype of ``g`` or
        ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit, for example if ``g`` does not have the shape of
            the convolution's output.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> conv_input_grad(jnp.ones((1, 4, 2)), jnp.ones((3, 5, 2)), (7,), strides=2).shape
    (1, 7, 5)

    Source: the derivation at the top of ``jaxconv/_src/primitives/rules.py``.
    """
    call, (g, kernel), _ = checks.arrays("conv_input_grad", g=g, kernel=kernel)
    resolved = resolve.input_grad(
        call, g.shape, kernel.shape, input_spatial, strides, padding, dilation, groups
    )
    keywords = options(call, g.dtype, precision, preferred_element_type, implementation)
    return apply(Operator.INPUT_GRAD, g, kernel, resolved, keywords)


@checks_keywords("conv_filter_grad")
def conv_filter_grad(
    x: ArrayLike,
    g: ArrayLike,
    kernel_spatial: Ints,
    *,
    strides: Ints = 1,
    padding: PaddingLike = "SAME",
    dilation: Ints = 1,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> Array:
    """The gradient of ``conv`` with respect to its kernel: ``d/dkernel <g, conv(x, kernel)>``.

        dkernel[t, c, f] = sum over n, o of  x[n, s*o + d*t - low, c] * g[n, o, f]

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example.
        g: ``[N, *O, F]``, or ``[*O, F]``: the cotangent of the output, of the dtype of ``x``.
        kernel_spatial: The spatial extents of the kernel, one per axis; an int for one axis. With
            strides they do not follow from the other shapes.
        strides, padding, dilation, groups: Those of the convolution.
        precision, preferred_element_type, implementation: As in ``conv``.

    Returns:
        ``[*K, C/groups, F]`` with ``K = kernel_spatial``, of the dtype of ``x`` or
        ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit, for example if ``g`` does not have the shape of
            the convolution's output.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> conv_filter_grad(jnp.ones((1, 7, 5)), jnp.ones((1, 4, 2)), (3,), strides=2).shape
    (3, 5, 2)

    Source: the derivation at the top of ``jaxconv/_src/primitives/rules.py``.
    """
    call, (x, g), _ = checks.arrays("conv_filter_grad", x=x, g=g)
    resolved = resolve.filter_grad(
        call, x.shape, g.shape, kernel_spatial, strides, padding, dilation, groups
    )
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    return apply(Operator.FILTER_GRAD, x, g, resolved, keywords)
