"""A primitive for the depthwise causal convolution of packed sequences, with bias and activation.

    y = activation(T(x, k) + b)

where T sums the taps that read a step of the same segment. T is linear in x and in k, so with
``z`` the value before the activation,

    dz = T(dx, k) + T(x, dk) + db,    dy = activation'(z) * dz

The first two are the primitive itself. Its transposes are those of its definition in plain XLA.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from .. import compat
from ..geometry.epilogue import NO_EPILOGUE, Epilogue
from ..geometry.spec import ConvSpec
from ..kernels.xla.epilogue import activate, per_feature
from ..kernels.xla.segments import depthwise
from . import explicit_sharding

Array = jax.Array

segments_p = Primitive("causal_conv_segments")


def bind_segments(
    x: Array,
    kernel: Array,
    ids: Array,
    *bias: Array,
    spec: ConvSpec,
    epilogue: Epilogue,
    dtype: Any,
    implementation: str | None = None,
) -> Array:
    """The depthwise causal convolution ``spec`` within segments, then bias and activation.

    Args:
        x: ``[N, P+L, C]``, of which the first P steps have no outputs.
        kernel: ``[K, 1, F]``.
        ids: ``[N, P+L]``, integers.
        bias: ``[F]`` if ``epilogue.bias``.
        spec: The convolution of the last L steps.
        epilogue: The bias and activation.
        dtype: That of the result.
        implementation: "taps" to force plain XLA, or None.
    """
    arrays = (x, kernel, ids, *bias)
    params = {"spec": spec, "epilogue": epilogue, "dtype": jnp.dtype(dtype)}
    if any(explicit_sharding.is_explicit(jax.typeof(array)) for array in arrays):
        return depthwise(*arrays, **params)  # XLA propagates the shardings
    arrays = explicit_sharding.match_varying(*arrays)
    return segments_p.bind(*arrays, implementation=implementation, **params)


def definition(*arrays: Array, implementation: str | None, **params: Any) -> Array:
    """The same in plain XLA."""
    del implementation
    return depthwise(*arrays, **params)


def _abstract_eval(x, kernel, ids, *bias, spec, epilogue, dtype, implementation):
    del kernel, ids, bias, epilogue, implementation
    return x.update(shape=spec.output_shape, dtype=dtype, weak_type=False)


def _jvp(primals, tangents, *, epilogue: Epilogue, **params):
    x, kernel, ids, *bias = primals
    dx, dk, _, *dbias = tangents
    linear = functools.partial(bind_segments, ids=ids, epilogue=NO_EPILOGUE, **params)
    terms = []
    if not isinstance(dx, ad.Zero):
        terms.append(linear(dx, kernel))
    if not isinstance(dk, ad.Zero):
        terms.append(linear(x, dk))
    result = jax.ShapeDtypeStruct(params["spec"].output_shape, params["dtype"])
    for each in dbias:
        if not isinstance(each, ad.Zero):
            terms.append(jnp.broadcast_to(per_feature(each, result), result.shape))
    dz = functools.reduce(jnp.add, terms)
    z_only = epilogue.replace(activation=None, negative_slope=0.0)
    z = bind_segments(x, kernel, ids, *bias, epilogue=z_only, **params)
    return jax.jvp(functools.partial(activate, epilogue=epilogue), (z,), (dz,))


def _transpose(cotangent, *operands, **params):
    """That of the definition: without bias and activation, linear in x and in the kernel."""
    (at,) = (i for i, operand in enumerate(operands) if ad.is_undefined_primal(operand))

    def function(value):
        return definition(*operands[:at], value, *operands[at + 1 :], **params)

    (result,) = jax.linear_transpose(function, operands[at].aval)(cotangent)
    return [result if i == at else None for i in range(len(operands))]


def _batch(operands, axes, *, spec: ConvSpec, **params):
    """Mapped sequences fold into the batch; mapped kernels and biases need the definition."""
    size = next(a.shape[i] for a, i in zip(operands, axes, strict=True) if i is not None)
    x, kernel, ids, *bias = operands
    if any(axis is not None for axis in (axes[1], *axes[3:])) or (
        isinstance(size, int) and size == 0
    ):
        compute = functools.partial(definition, spec=spec, **params)
        return jax.vmap(compute, in_axes=tuple(axes), axis_size=size)(*operands), 0
    x, ids = (_folded(a, axis, size) for a, axis in ((x, axes[0]), (ids, axes[2])))
    folded = spec.replace(batch=spec.batch * size)
    y = bind_segments(x, kernel, ids, *bias, spec=folded, **params)
    return y.reshape(size, spec.batch, *y.shape[1:]), 0


def _folded(array: Array, axis: int | None, size: int) -> Array:
    """``[B, N, …] -> [B*N, …]``"""
    if axis is None:
        array = jnp.broadcast_to(array, (size, *array.shape))
    else:
        array = jnp.moveaxis(array, axis, 0)
    return array.reshape(size * array.shape[1], *array.shape[2:])


segments_p.def_impl(functools.partial(compat.apply_primitive, segments_p))
segments_p.def_abstract_eval(_abstract_eval)
ad.primitive_jvps[segments_p] = _jvp
ad.primitive_transposes[segments_p] = _transpose
batching.primitive_batchers[segments_p] = _batch
compat.add_taylor_rule_of(segments_p, definition)
compat.add_nan_check(segments_p)
