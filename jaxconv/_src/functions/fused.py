"""Convolution with its bias, scale, residual and activation in one pass."""

from __future__ import annotations

from types import MappingProxyType

import jax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..geometry import checks, resolve
from ..geometry.checks import Call
from ..geometry.checks.call import AXES
from ..geometry.epilogue import Epilogue
from ..geometry.padding import PaddingLike
from ..geometry.resolve import ResolvedConv
from ..geometry.types import Activation, ImplementationName, Ints
from ..keywords import checks_keywords
from ..primitives.call import options
from .epilogue import activation_fields, apply_fused

Array = jax.Array

_AXES = MappingProxyType({**AXES, "scale": "F", "residual": "N *O F or *O F"})


@checks_keywords("fused_conv")
def fused_conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    scale: ArrayLike | None = None,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    negative_slope: float = 0.01,
    strides: Ints = 1,
    padding: PaddingLike = "SAME",
    dilation: Ints = 1,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> Array:
    """Convolution followed by a scale, a bias, a residual and an activation, in one pass.

        y = activation(conv(x, kernel) * scale + bias + residual)

    Each part is optional. The CPU engine applies them while an output is still in registers, so the
    output is written once; elsewhere XLA fuses them. Derivatives of every order and mode are those
    of the separate operations.

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example; floating, or complex without an
            activation.
        kernel: ``[*K, C/groups, F]``, of the dtype of ``x``.
        bias: ``[F]``, of the dtype of ``x``, or None.
        scale: ``[F]``, of the dtype of ``x``, or None. With ``bias`` it expresses a normalization
            with fixed statistics.
        residual: An array of the shape of the output and the dtype of ``x``, or None.
        activation: None or the name of an activation: ``"relu"``, ``"relu6"``, ``"leaky_relu"``,
            ``"silu"`` (``"swish"``), ``"gelu_tanh"`` (``"gelu"``), ``"gelu_exact"``,
            ``"sigmoid"``, ``"hard_swish"`` (``"hard_silu"``) or ``"tanh"``; or the function of
            ``jax.nn`` itself, such as ``jax.nn.relu``.
        negative_slope: The slope of ``"leaky_relu"`` for negative values.
        strides, padding, dilation, groups: As in ``conv``.
        precision, preferred_element_type, implementation: As in ``conv``. Float16 and bfloat16 are
            accumulated in float32; the CPU engine also applies the epilogue in float32, and rounds
            once.

    Returns:
        ``[N, *O, F]`` (``[*O, F]`` if ``x`` is one example) of the dtype of ``x`` or
        ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit, or ``activation`` is none of these.
        TypeError: An argument is not an array, dtypes are mixed or not floating or complex, or an
            activation is asked for with a complex dtype.

    >>> import jax.numpy as jnp
    >>> x, kernel = jnp.ones((1, 4, 2)), -jnp.ones((3, 2, 1))
    >>> fused_conv(x, kernel, jnp.array([5.0]), activation="relu")[0, :, 0]
    Array([1., 0., 0., 1.], dtype=float32)

    Source: the epilogues of cuDNN's and oneDNN's convolutions.
    """
    others = {"scale": scale, "residual": residual}
    present = {name: value for name, value in others.items() if value is not None}
    call, (x, kernel, *rest), bias = checks.arrays(
        "fused_conv", _AXES, x=x, kernel=kernel, bias=bias, **present
    )
    arrays = dict(zip(present, rest, strict=True))
    if bias is not None:
        arrays["bias"] = bias
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    resolved = resolve.conv(call, x.shape, kernel.shape, strides, padding, dilation, groups)
    _check_operands(call, arrays, resolved)
    epilogue = Epilogue(
        **dict.fromkeys(arrays, True),
        **activation_fields(call, activation, x.dtype, negative_slope),
    )
    return apply_fused(x, kernel, arrays, resolved, epilogue, keywords)


def _check_operands(call: Call, arrays: dict[str, Array], resolved: ResolvedConv) -> None:
    """Scale and bias have one entry per feature; a residual has the shape of the output."""
    output = resolved.spec.output_shape
    for name, array in arrays.items():
        if name != "residual":
            checks.per_feature(call, name, array, resolved.spec.out_features)
        elif tuple(array.shape) != (expected := output if resolved.batched else output[1:]):
            raise call.error(
                f"residual must have the shape of the output, {expected}, but got "
                f"{tuple(array.shape)}; broadcast it with jnp.broadcast_to, or pass one value per "
                "feature as bias"
            )
