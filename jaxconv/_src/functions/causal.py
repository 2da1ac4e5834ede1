"""Causal convolution in time, whole and as a stream: any chunking gives the same outputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..geometry import checks
from ..geometry.checks import CAUSAL_AXES
from ..geometry.types import ImplementationName, Ints
from ..primitives.call import Window, convolve, options

Array = jax.Array


def causal_conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: Ints = 1,
    dilation: Ints = 1,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> Array:
    """Causal convolution: no output depends on a later input.

        y[n, i, f] = bias[f] + sum over t, c of  x[n, s*i - d*(K-1-t), c] * kernel[t, c, f]

    with zeros before the first input; the last tap reads the present.

    Args:
        x: ``[N, L, C]``, or ``[L, C]`` for one example; floating or complex.
        kernel: ``[K, C/groups, F]``, of the dtype of ``x``.
        bias: ``[F]``, of the dtype of ``x``, or None.
        strides: Distance between neighboring outputs in steps, a positive int.
        dilation: Distance between neighboring taps in steps, a positive int.
        groups: The number of groups; ``groups=C`` makes the convolution depthwise.
        precision, preferred_element_type, implementation: As in ``conv``.

    Returns:
        ``[N, ceil(L/strides), F]``, of the dtype of ``x`` or ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> causal_conv(jnp.arange(4.0).reshape(1, 4, 1), jnp.ones((2, 1, 1)))[0, :, 0]
    Array([0., 1., 3., 5.], dtype=float32)

    Source: A. van den Oord et al., "WaveNet: a generative model for raw audio" (2016).
    """
    call, (x, kernel), bias = checks.arrays(
        "causal_conv", axes=CAUSAL_AXES, x=x, kernel=kernel, bias=bias
    )
    checks.causal_kernel(call, kernel.shape)
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    return convolve(call, x, kernel, bias, Window(strides, "CAUSAL", dilation, groups), keywords)


def causal_conv_init(
    kernel: ArrayLike,
    batch_size: int,
    *,
    dilation: Ints = 1,
    groups: int = 1,
    dtype: DTypeLike | None = None,
) -> Array:
    """The streaming state before the first input: zeros, like the padding of ``causal_conv``.

    Args:
        kernel: ``[K, C/groups, F]``; only its shape and dtype are used.
        batch_size: N, at least 0.
        dilation: Distance between neighboring taps in steps, a positive int.
        groups: The number of groups.
        dtype: The dtype of the inputs to come; by default that of the kernel.

    Returns:
        ``[N, (K-1)*dilation, C]``: the inputs that the next output still needs, oldest first.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: ``kernel`` is not an array, or it or ``dtype`` is not floating or complex.

    >>> import jax.numpy as jnp
    >>> causal_conv_init(jnp.ones((3, 8, 4)), 2, dilation=4).shape
    (2, 8, 8)

    Source: T. Paine et al., "Fast WaveNet generation algorithm" (2016).
    """
    call, (kernel,), _ = checks.arrays("causal_conv_init", axes=CAUSAL_AXES, kernel=kernel)
    shape = checks.causal_state_shape(call, kernel.shape, batch_size, dilation, groups)
    state_dtype = kernel.dtype if dtype is None else checks.inexact(call, "dtype", dtype)
    return jnp.zeros(shape, state_dtype)  # pyright: ignore[reportUnknownMemberType] (jax's stub)


def causal_conv_step(
    state: ArrayLike,
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    dilation: Ints = 1,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> tuple[Array, Array]:
    """The outputs for the next ``L`` inputs of a stream, and the state after them.

    Feeding a sequence in chunks of any length gives the same outputs as ``causal_conv`` of the
    whole sequence at stride 1. The cost of a step does not depend on the length of the past.

    Args:
        state: ``[N, (K-1)*dilation, C]``, from ``causal_conv_init`` or the previous step.
        x: ``[N, L, C]`` with L at least 1, of the dtype of ``state``.
        kernel: ``[K, C/groups, F]``, of the dtype of ``x``.
        bias: ``[F]``, of the dtype of ``x``, or None.
        dilation, groups, precision, preferred_element_type, implementation: As in ``causal_conv``.

    Returns:
        ``y [N, L, F]`` and the new state, of the same shape as the old one.

    Raises:
        ValueError: A shape or value does not fit, for example a state of another kernel's length.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> kernel, state = jnp.ones((2, 1, 1)), jnp.zeros((1, 1, 1))
    >>> for value in (1.0, 2.0, 3.0):
    ...     y, state = causal_conv_step(state, jnp.full((1, 1, 1), value), kernel)
    >>> float(y[0, 0, 0])
    5.0

    Source: T. Paine et al., "Fast WaveNet generation algorithm" (2016).
    """
    call, (state, x, kernel), bias = checks.arrays(
        "causal_conv_step", axes=CAUSAL_AXES, state=state, x=x, kernel=kernel, bias=bias
    )
    checks.causal_state(call, state.shape, x.shape, kernel.shape, dilation, groups)
    inputs = lax.concatenate([state, x], 1)
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    y = convolve(call, inputs, kernel, bias, Window(1, "VALID", dilation, groups), keywords)
    return y, lax.slice_in_dim(inputs, x.shape[1], None, axis=1)
