"""Dynamic convolution: a kernel for each example."""

from __future__ import annotations

import jax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..geometry import checks, resolve
from ..geometry.checks import AXES, Call
from ..geometry.padding import PaddingLike
from ..geometry.spec import Operator
from ..geometry.types import ImplementationName, Ints
from ..keywords import checks_keywords
from ..primitives.call import add_bias, apply, options

Array = jax.Array
_AXES = {**AXES, "kernel": "N *K C/G F", "bias": "F or N F"}


@checks_keywords("dynamic_conv")
def dynamic_conv(
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
    """Convolution of each example with its own kernel, which another network may compute.

        y[n] = conv(x[n], kernel[n], bias or bias[n])

    It is one convolution with an axis of examples, as ``jax.vmap`` makes it, and so are both of its
    gradients.

    Args:
        x: ``[N, *S, C]``, floating or complex.
        kernel: ``[N, *K, C/groups, F]``, of the dtype of ``x``.
        bias: ``[F]`` for all examples or ``[N, F]``, of the dtype of ``x``, or None.
        strides, padding, dilation, groups: As in ``conv``.
        precision, preferred_element_type, implementation: As in ``conv``.

    Returns:
        ``[N, *O, F]``, of the dtype of ``x`` or ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit. Errors of the convolution give the shapes of one
            example.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    Attention over ``B`` kernels, whose weights depend on the example:

    >>> import jax, jax.numpy as jnp
    >>> x, kernels = jnp.ones((2, 8, 8, 3)), jnp.ones((4, 3, 3, 3, 5))  # B = 4
    >>> weights = jax.nn.softmax(jnp.mean(x, axis=(1, 2)) @ jnp.ones((3, 4)))
    >>> dynamic_conv(x, jnp.tensordot(weights, kernels, 1)).shape
    (2, 8, 8, 5)

    Source: X. Jia et al., "Dynamic filter networks" (2016); Y. Chen et al., "Dynamic convolution:
    attention over convolution kernels" (2020).
    """
    call, (x, kernel), bias = checks.arrays("dynamic_conv", _AXES, x=x, kernel=kernel, bias=bias)
    if not 4 <= kernel.ndim <= 6 or x.ndim != kernel.ndim - 1:
        raise call.error(
            f"kernel must be [N, *K, C/G, F] and x [N, *S, C], with 1 to 3 spatial axes, but they "
            f"have {kernel.ndim} and {x.ndim} axes; use conv for one kernel for all examples"
        )
    if checks.known(x.shape[0], kernel.shape[0]) and x.shape[0] != kernel.shape[0]:
        raise call.error(
            f"kernel must have one kernel for each of the N = {x.shape[0]} examples of x, but has "
            f"{kernel.shape[0]}"
        )
    example = Call("dynamic_conv", x=x.shape[1:], kernel=kernel.shape[1:])
    resolved = resolve.conv(
        example, x.shape[1:], kernel.shape[1:], strides, padding, dilation, groups
    )
    if bias is not None and bias.shape != (x.shape[0], kernel.shape[-1]):
        checks.bias(call, bias, kernel.shape[-1])
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)

    def convolve(x: Array, kernel: Array) -> Array:
        return apply(Operator.CONV, x, kernel, resolved, keywords)

    y = jax.vmap(convolve)(x, kernel)
    if bias is None or bias.ndim == 1:
        return add_bias(y, bias)
    return y + bias.astype(y.dtype).reshape(len(bias), *(1,) * (y.ndim - 2), bias.shape[-1])
