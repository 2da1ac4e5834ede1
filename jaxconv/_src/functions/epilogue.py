"""What follows the products of a convolution: reading the arguments, and binding one pass."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp

from ..geometry import checks, resolve
from ..geometry.checks import Call
from ..geometry.epilogue import ACTIVATIONS, ALIASES, Epilogue
from ..geometry.resolve import ResolvedConv
from ..geometry.spec import Operator
from ..primitives.call import Options, Window, check_forced, convolve, with_borders
from ..primitives.fused import bind_fused

Array = jax.Array
Fields = dict[str, Any]  # of ``Epilogue``

# By identity: a function of jax.nn stands for the activation of its name.
_JAX_FUNCTIONS = {
    jax.nn.relu: "relu",
    jax.nn.relu6: "relu6",
    jax.nn.leaky_relu: "leaky_relu",
    jax.nn.silu: "silu",
    jax.nn.gelu: "gelu_tanh",
    jax.nn.sigmoid: "sigmoid",
    jax.nn.hard_swish: "hard_swish",
    jax.nn.tanh: "tanh",
    jnp.tanh: "tanh",
}


def convolve_activated(
    call: Call,
    x: Array,
    kernel: Array,
    bias: Array | None,
    window: Window,
    fields: Fields,
    keywords: Options,
) -> Array:
    """``convolve``, followed by the activation of ``activation_fields`` in the same pass."""
    if not fields:
        return convolve(call, x, kernel, bias, window, keywords)
    resolved = resolve.conv(call, x.shape, kernel.shape, *window)
    checks.bias(call, bias, resolved.spec.out_features)
    operands = {} if bias is None else {"bias": bias}
    epilogue = Epilogue(bias=bias is not None, **fields)
    return apply_fused(x, kernel, operands, resolved, epilogue, keywords)


def apply_fused(
    x: Array,
    kernel: Array,
    operands: dict[str, Array],
    resolved: ResolvedConv,
    epilogue: Epilogue,
    keywords: Options,
) -> Array:
    """Binds the primitive; if the call is unbatched, activations come and go without N."""
    spec, forced = resolved.spec, keywords.implementation
    if forced is not None:
        check_forced(keywords.call, forced, Operator.CONV, spec, keywords.dtype)
    if not resolved.batched:
        x = x[None]
        operands = {k: v[None] if k == "residual" else v for k, v in operands.items()}
    result = bind_fused(
        with_borders(x, resolved.borders) if resolved.bordered else x,
        kernel,
        [operands[name] for name in epilogue.operands],
        spec,
        epilogue,
        dtype=keywords.dtype,
        precision=keywords.precision,
        implementation=forced,
    )
    return result if resolved.batched else result[0]


def activation_fields(
    call: Call, activation: Any, dtype: Any, negative_slope: Any = 0.01
) -> Fields:
    """The fields of ``Epilogue`` that describe the activation."""
    if activation is None:
        return {}
    name = _activation_name(call, activation)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise call.error(
            f'activation "{name}" is not defined for {dtype}; apply it to real arrays, or pass '
            "activation=None",
            TypeError,
        )
    if name != "leaky_relu":
        return {"activation": name}
    if isinstance(negative_slope, bool) or not isinstance(negative_slope, int | float):
        raise call.error(
            f"negative_slope must be a number known at trace time, but got "
            f"{checks.shown(negative_slope)}",
            TypeError,
        )
    if not abs(negative_slope) <= sys.float_info.max:
        raise call.error(f"negative_slope must be finite, but got {checks.shown(negative_slope)}")
    return {"activation": name, "negative_slope": float(negative_slope)}


def _activation_name(call: Call, activation: Any) -> str:
    if isinstance(activation, str):
        name = ALIASES.get(activation.lower(), activation.lower())
    else:
        name = next((n for f, n in _JAX_FUNCTIONS.items() if f is activation), None)
    if name not in ACTIVATIONS:
        names = ", ".join(f'"{each}"' for each in (*ACTIVATIONS, *ALIASES))
        raise call.error(
            f"activation must be None, one of {names}, or one of these functions of jax.nn, but "
            f"got {checks.shown(activation)}; apply any other function to the result of conv"
        )
    return name
