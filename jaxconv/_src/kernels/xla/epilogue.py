"""The epilogue of a fused convolution in plain XLA: the definition, and the fallback."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ...geometry.epilogue import Epilogue

Array = jax.Array


def apply_epilogue(y: Array, epilogue: Epilogue, operands: tuple[Array, ...]) -> Array:
    """``activation(y * scale + bias + residual)`` in the dtype of ``y``."""
    values = dict(zip(epilogue.operands, operands, strict=True))
    if "scale" in values:
        y = y * per_feature(values["scale"], y)
    if "bias" in values:
        y = y + per_feature(values["bias"], y)
    if "residual" in values:
        y = y + values["residual"].astype(y.dtype)
    return activate(y, epilogue)


def per_feature(values: Array, y: Array | jax.ShapeDtypeStruct) -> Array:
    """``values [F]`` with the rank and dtype of ``y``."""
    return lax.expand_dims(values.astype(y.dtype), range(y.ndim - 1))


def activate(z: Array, epilogue: Epilogue) -> Array:
    """The activation of ``z``; gradients are those of ``jax.nn``."""
    if epilogue.activation is None:
        return z
    if epilogue.activation == "leaky_relu":
        return jnp.where(z >= 0, z, z * jnp.asarray(epilogue.negative_slope, z.dtype))
    return _FUNCTIONS[epilogue.activation](z)


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    # Its gradient at exactly 0 and 6 is 0; that of jax.nn.relu6 is one half.
    "relu6": lambda z: jnp.where(z >= 6, jnp.full_like(z, 6), jax.nn.relu(z)),
    "silu": jax.nn.silu,
    "gelu_tanh": lambda z: jax.nn.gelu(z, approximate=True),
    "gelu_exact": lambda z: jax.nn.gelu(z, approximate=False),
    "sigmoid": jax.nn.sigmoid,
    "hard_swish": jax.nn.hard_swish,
    "tanh": jnp.tanh,
}
