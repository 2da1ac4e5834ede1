"""The convolutions as pure functions: standard, depthwise, pointwise, separable, transposed."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax import lax

from . import checks, geometry
from .operators import add_bias, apply, convolve, convolve_depthwise, options
from .padding import PaddingLike
from .spec import ConvSpec, Operator

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
    static = geometry.transpose(
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
    static = geometry.input_grad(
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
    static = geometry.filter_grad(
        call, x.shape, g.shape, kernel_spatial, strides, padding, dilation, groups
    )
    chosen = options(call, x.dtype, precision, preferred_element_type, implementation)
    return apply(Operator.FILTER_GRAD, x, g, static, chosen)
