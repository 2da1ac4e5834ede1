"""A fourth primitive: a convolution and its epilogue in one pass.

    fused(x, k, s, b, r) = activation(conv(x, k) * s + b + r)

An implementation applies the epilogue while an output is still in registers. To every
transformation the primitive is the composition of ``conv`` and elementwise operations: its
derivatives contain only the three primitives of ``rules.py``, the derivative of the activation, and
for the primal value the fused primitive itself. With ``z`` the value before the activation,

    dz = conv(dx, k*s) + conv(x, dk*s) + db + dr
    dy = activation'(z) * dz

Where ``activation'(z)`` follows from ``y``, as for ReLU, ``z`` is never stored. Scaling the kernel
instead of the output keeps one pass over the activations out of every gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad

from .. import compat
from ..geometry.epilogue import Epilogue
from ..geometry.spec import ConvSpec, Operator
from ..kernels.xla.epilogue import activate, apply_epilogue, per_feature
from . import explicit_sharding, rules

Array = jax.Array

fused_conv_p = Primitive("fused_conv")


def bind_fused(
    x: Array,
    kernel: Array,
    operands: Sequence[Array],
    spec: ConvSpec,
    epilogue: Epilogue,
    *,
    dtype: Any,
    precision: Any = None,
    implementation: str | None = None,
    out_sharding: Any = None,
) -> Array:
    """The convolution followed by ``epilogue``, which reads ``operands``.

    Args:
        x: ``[N, *S, C]``.
        kernel: ``[*K, C/G, F]``.
        operands: The arrays of ``epilogue.operands``, in that order.
        spec: The convolution.
        epilogue: What follows it.
        dtype: That of the result.
        precision: As in ``lax``.
        implementation: The implementation to force, or None.
        out_sharding: In explicit sharding mode, the sharding of the result; otherwise None.
    """
    params = {"precision": precision, "implementation": implementation, "dtype": jnp.dtype(dtype)}
    arrays = (x, kernel, *operands)
    if (
        epilogue.trivial
        or out_sharding is not None
        or any(explicit_sharding.is_explicit(jax.typeof(array)) for array in arrays)
    ):
        # XLA propagates the shardings of the separate operations.
        params["out_sharding"] = out_sharding
        return decomposed(*arrays, spec=spec, epilogue=epilogue, **params)
    arrays = explicit_sharding.match_varying(*arrays)
    return fused_conv_p.bind(*arrays, spec=spec, epilogue=epilogue, **params)


def decomposed(
    x: Array, kernel: Array, *operands: Array, spec: ConvSpec, epilogue: Epilogue, **params: Any
) -> Array:
    """The definition: a convolution, then its epilogue as separate operations."""
    y = rules.bind(Operator.CONV, x, kernel, spec, **params)
    return apply_epilogue(y, epilogue, operands)


def _abstract_eval(x, kernel, *operands, spec, epilogue, **params):
    """The type of the convolution's result, which the epilogue does not change."""
    got = tuple(tuple(operand.shape) for operand in operands)
    expected = operand_shapes(spec, epilogue)
    if got != expected:
        raise ValueError(
            f"{fused_conv_p.name}: the operands of {epilogue} after {spec} have shapes "
            f"{expected}, but got {got}"
        )
    return rules.abstract_eval(
        Operator.CONV, fused_conv_p.name, x, kernel, spec=spec, out_sharding=None, **params
    )


def operand_shapes(spec: ConvSpec, epilogue: Epilogue) -> tuple[tuple[int, ...], ...]:
    """The shapes of the arrays that the epilogue reads."""
    features = (spec.out_features,)
    shapes = {"scale": features, "bias": features, "residual": spec.output_shape}
    return tuple(shapes[name] for name in epilogue.operands)


# activation'(z) * dz from y = activation(z) alone. The derivative is 0 where ReLU starts and where
# ReLU6 starts and ends, as in jax.nn and PyTorch.
_FROM_OUTPUT: dict[str, Callable[[Array, Array], Array]] = {
    "relu": lambda y, dz: jnp.where(y > 0, dz, jnp.zeros_like(dz)),
    "relu6": lambda y, dz: jnp.where((y > 0) & (y < 6), dz, jnp.zeros_like(dz)),
    "sigmoid": lambda y, dz: dz * (y * (1 - y)),
    "tanh": lambda y, dz: dz * ((1 + y) * (1 - y)),
}


def _derivative_from_output(epilogue: Epilogue) -> Callable[[Array, Array], Array] | None:
    """``f(y, dz) = dy``, or None if the derivative needs the value before the activation."""
    if epilogue.activation is None:
        return lambda y, dz: dz
    slope = epilogue.negative_slope
    if epilogue.activation == "leaky_relu" and slope > 0:
        return lambda y, dz: jnp.where(y >= 0, dz, dz * jnp.asarray(slope, dz.dtype))
    return _FROM_OUTPUT.get(epilogue.activation)


def _jvp(primals, tangents, *, spec, epilogue, **params):
    names = ("x", "kernel", *epilogue.operands)
    moved = {at: t for at, t in enumerate(tangents) if not isinstance(t, ad.Zero)}
    if any(names[at] == "scale" for at in moved):  # its tangent needs the convolution itself
        definition = functools.partial(decomposed, spec=spec, epilogue=epilogue, **params)
        return jvp_in(definition, primals, moved)
    values = dict(zip(names, primals, strict=True))
    moved = {names[at]: tangent for at, tangent in moved.items()}
    dz = _affine_tangent(values, moved, spec, params)
    from_output = _derivative_from_output(epilogue)
    x, kernel, *operands = primals
    if from_output is not None:
        y = bind_fused(x, kernel, operands, spec, epilogue, **params)
        return y, from_output(y, dz)
    z_only = epilogue.replace(activation=None, negative_slope=0.0)
    z = bind_fused(x, kernel, operands, spec, z_only, **params)
    return jax.jvp(functools.partial(activate, epilogue=epilogue), (z,), (dz,))


def _affine_tangent(values: dict, moved: dict, spec: ConvSpec, params: dict) -> Array:
    """The tangent of ``conv(x, kernel) * scale + bias + residual``, with a constant scale."""
    dtype = params["dtype"]
    conv = functools.partial(rules.bind, Operator.CONV, spec=spec, **params)

    def scaled(kernel):
        return kernel * per_feature(values["scale"], kernel) if "scale" in values else kernel

    terms = []
    if "x" in moved:
        terms.append(conv(moved["x"], scaled(values["kernel"])))
    if "kernel" in moved:
        terms.append(conv(values["x"], scaled(moved["kernel"])))
    if "residual" in moved:
        terms.append(moved["residual"].astype(dtype))
    if "bias" in moved:
        result = jax.ShapeDtypeStruct(spec.output_shape, dtype)
        terms.append(jnp.broadcast_to(per_feature(moved["bias"], result), result.shape))
    return functools.reduce(jnp.add, terms)


def jvp_in(
    function: Callable[..., Array], primals: Sequence[Array], tangents: Mapping[int, Array]
) -> tuple[Array, Array]:
    """The JVP of ``function`` in the arguments that have a tangent, by their positions."""

    def of_moved(*values: Array) -> Array:
        arrays = dict(enumerate(primals)) | dict(zip(tangents, values, strict=True))
        return function(*arrays.values())

    return jax.jvp(of_moved, [primals[at] for at in tangents], list(tangents.values()))


def _transpose(cotangent, *operands, **params):
    """Without an activation, the fused convolution is linear in some operands."""
    return transpose_of(functools.partial(decomposed, **params), cotangent, operands)


def transpose_of(
    definition: Callable[..., Array], cotangent: Array, operands: Sequence[Any]
) -> list[Any]:
    """The cotangents of the undefined operands, in which ``definition`` is linear."""
    linear = [i for i, operand in enumerate(operands) if ad.is_undefined_primal(operand)]

    def function(*changing):
        arrays = list(operands)
        for i, value in zip(linear, changing, strict=True):
            arrays[i] = value
        return definition(*arrays)

    transposed = jax.linear_transpose(function, *(operands[i].aval for i in linear))
    results = dict(zip(linear, transposed(cotangent), strict=True))
    return [results.get(i) for i in range(len(operands))]


fused_conv_p.def_impl(functools.partial(compat.apply_primitive, fused_conv_p))
fused_conv_p.def_abstract_eval(_abstract_eval)
ad.primitive_jvps[fused_conv_p] = _jvp
ad.primitive_transposes[fused_conv_p] = _transpose
compat.add_taylor_rule_of(fused_conv_p, decomposed)
compat.add_nan_check(fused_conv_p)
