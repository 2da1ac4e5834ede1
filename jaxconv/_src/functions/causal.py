"""Causal convolution in time, and its streaming form: any chunking equals the whole."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..geometry import checks
from ..primitives.call import convolve

Array = jax.Array


def causal_conv(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    strides: Any = 1,
    dilation: Any = 1,
    groups: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    implementation: str | None = None,
) -> Array:
    """Causal convolution: no output depends on an input after it.

        y[n, i, f] = bias[f] + sum over t, c of  x[n, s*i - d*(K-1-t), c] * kernel[t, c, f]

    with zeros before the first input; the last tap reads the present.

    Args:
        x: ``[N, L, C]``, or ``[L, C]`` for one example; floating or complex.
        kernel: ``[K, C/groups, F]``, of the dtype of ``x``.
        bias: ``[F]``, or None.
        strides: Steps between neighbouring outputs, a positive int.
        dilation: Steps between neighbouring taps, a positive int.
        groups: The number of groups; C of them make the convolution depthwise.
        precision, preferred_element_type, implementation: As in ``conv``.

    Returns:
        ``[N, ceil(L/strides), F]``, of the dtype of ``x`` or ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: Something is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> causal_conv(jnp.arange(4.0).reshape(1, 4, 1), jnp.ones((2, 1, 1)))[0, :, 0]
    Array([0., 1., 3., 5.], dtype=float32)

    Source: A. van den Oord et al., "WaveNet: a generative model for raw audio" (2016).
    """
    call, x, kernel, bias = checks.arrays("causal_conv", x=x, kernel=kernel, bias=bias)
    checks.causal_kernel(call, kernel.shape)
    return convolve(
        call,
        x,
        kernel,
        bias,
        (strides, "CAUSAL", dilation, groups),
        (precision, preferred_element_type, implementation),
    )


def causal_conv_init(
    kernel: Any, batch_size: int, *, dilation: Any = 1, groups: int = 1, dtype: Any = None
) -> Array:
    """The streaming state before the first input: zeros, as ``causal_conv`` pads.

    Args:
        kernel: ``[K, C/groups, F]``; only its shape and dtype matter.
        batch_size: N, at least 0.
        dilation: Steps between neighbouring taps, a positive int.
        groups: The number of groups.
        dtype: The dtype of the inputs to come; by default the kernel's.

    Returns:
        ``[N, (K-1)*dilation, C]``: the inputs that the next output still needs, oldest first.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: ``kernel`` is not a floating or complex array, or ``dtype`` no such dtype.

    >>> import jax.numpy as jnp
    >>> causal_conv_init(jnp.ones((3, 8, 4)), 2, dilation=4).shape
    (2, 8, 8)

    Source: T. Paine et al., "Fast WaveNet generation algorithm" (2016).
    """
    call, kernel = checks.arrays("causal_conv_init", kernel=kernel)
    shape = checks.causal_state_shape(call, kernel.shape, batch_size, dilation, groups)
    return jnp.zeros(shape, kernel.dtype if dtype is None else checks.inexact(call, "dtype", dtype))


def causal_conv_step(
    state: Any,
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    dilation: Any = 1,
    groups: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """The outputs for the next ``L`` inputs of a stream, and the state after them.

    Feeding a sequence in chunks of any lengths gives what ``causal_conv`` at stride 1 gives for
    the whole; the cost of a step does not depend on what came before.

    Args:
        state: ``[N, (K-1)*dilation, C]``, from ``causal_conv_init`` or the previous step.
        x: ``[N, L, C]`` with L at least 1, of the dtype of ``state``.
        kernel: ``[K, C/groups, F]``, of the dtype of ``x``.
        bias: ``[F]``, or None.
        dilation, groups, precision, preferred_element_type, implementation: As in ``causal_conv``.

    Returns:
        ``y [N, L, F]`` and the new state, shaped as the old.

    Raises:
        ValueError: A shape or value does not fit, such as a state of another kernel's length.
        TypeError: Something is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> kernel, state = jnp.ones((2, 1, 1)), jnp.zeros((1, 1, 1))
    >>> for value in (1.0, 2.0, 3.0):
    ...     y, state = causal_conv_step(state, jnp.full((1, 1, 1), value), kernel)
    >>> float(y[0, 0, 0])
    5.0

    Source: T. Paine et al., "Fast WaveNet generation algorithm" (2016).
    """
    call, state, x, kernel, bias = checks.arrays(
        "causal_conv_step", state=state, x=x, kernel=kernel, bias=bias
    )
    checks.causal_state(call, state.shape, x.shape, kernel.shape, dilation, groups)
    seen = lax.concatenate([state, x], 1)
    y = convolve(
        call,
        seen,
        kernel,
        bias,
        (1, "VALID", dilation, groups),
        (precision, preferred_element_type, implementation),
    )
    return y, lax.slice_in_dim(seen, x.shape[1], None, axis=1)
