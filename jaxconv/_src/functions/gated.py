"""Gated convolution."""

from __future__ import annotations

import jax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..geometry import checks
from ..geometry.checks import AXES
from ..geometry.padding import PaddingLike
from ..geometry.types import Activation, ImplementationName, Ints
from ..keywords import checks_keywords
from ..primitives.call import Window, options
from .epilogue import activation_fields, convolve_activated

Array = jax.Array
_AXES = {**AXES, "gate_kernel": "*K C/G F", "gate_bias": "F"}


@checks_keywords("gated_conv")
def gated_conv(
    x: ArrayLike,
    kernel: ArrayLike,
    gate_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    gate_bias: ArrayLike | None = None,
    *,
    activation: Activation = None,
    strides: Ints = 1,
    padding: PaddingLike = "SAME",
    dilation: Ints = 1,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> Array:
    """Convolution whose features are gated by those of a second convolution.

        y = activation(conv(x, kernel, bias)) * sigmoid(conv(x, gate_kernel, gate_bias))

    Each of the two runs in one pass with its bias and activation, as ``fused_conv`` does. Without
    an activation it is a gated linear unit.

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example; floating.
        kernel: ``[*K, C/groups, F]``, of the dtype of ``x``.
        gate_kernel: The shape and dtype of ``kernel``.
        bias, gate_bias: ``[F]``, of the dtype of ``x``, or None.
        activation: As in ``fused_conv``, for the features; None for none.
        strides, padding, dilation, groups: As in ``conv``, for both convolutions.
        precision, preferred_element_type, implementation: As in ``conv``.

    Returns:
        ``[N, *O, F]``, of the dtype of ``x`` or ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An argument is not an array, dtypes are mixed, or not floating.

    >>> import jax.numpy as jnp
    >>> x, kernel = jnp.ones((1, 4, 2)), jnp.ones((3, 2, 1))
    >>> gated_conv(x, kernel, 0 * kernel, padding="VALID")[0, :, 0]
    Array([3., 3.], dtype=float32)

    Source: Y. Dauphin et al., "Language modeling with gated convolutional networks" (2017),
    equation 1; J. Yu et al., "Free-form image inpainting with gated convolution" (2019),
    equation 2, with an activation.
    """
    gates = {} if gate_bias is None else {"gate_bias": gate_bias}
    call, (x, kernel, gate_kernel, *rest), bias = checks.arrays(
        "gated_conv", _AXES, x=x, kernel=kernel, gate_kernel=gate_kernel, bias=bias, **gates
    )
    if gate_kernel.shape != kernel.shape:
        raise call.error("gate_kernel must have the shape of kernel")
    if rest:
        checks.per_feature(call, "gate_bias", rest[0], kernel.shape[-1])
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    fields = activation_fields(call, activation, x.dtype)
    gate_fields = activation_fields(call, "sigmoid", x.dtype)
    window = Window(strides, padding, dilation, groups)
    y = convolve_activated(call, x, kernel, bias, window, fields, keywords)
    gate = rest[0] if rest else None
    return y * convolve_activated(call, x, gate_kernel, gate, window, gate_fields, keywords)
