"""Calls of the engine in a program, named in profiles after what they compute.

``jax.ffi.ffi_call`` would do, but names every call ``ffi_call``: XLA names an operation after the
primitive that it was lowered from. So there is one primitive per name.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from ... import compat
from ...geometry.spec import ConvSpec, Shape


def engine_call(
    target: str, spec: ConvSpec, shape: Shape, dtype: Any, *operands: Any, **attributes: Any
) -> Any:
    """The result of the handler ``target``, of this shape and dtype.

    ``spec`` names the call. ``attributes`` are NumPy scalars, bools and tuples of ints, which
    become int64 arrays.
    """
    result = jax.ShapeDtypeStruct(shape, dtype)
    primitive = _primitive(target, f"{target}_{spec.label.replace(' ', '_')}")
    return primitive.bind(*operands, result=result, attributes=tuple(attributes.items()))


@functools.cache
def _primitive(target: str, name: str) -> Primitive:
    primitive = Primitive(name)
    primitive.def_impl(functools.partial(compat.apply_primitive, primitive))
    primitive.def_abstract_eval(_abstract_eval)
    mlir.register_lowering(primitive, functools.partial(_lower, target), platform="cpu")
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    return primitive


def _abstract_eval(*operands: Any, result: Any, **_: Any) -> ShapedArray:
    return operands[0].update(shape=result.shape, dtype=result.dtype, weak_type=False)


def _batch(
    primitive: Primitive, operands: Any, axes: Any, *, result: Any, attributes: tuple
) -> tuple[Any, int]:
    """A leading axis is one of examples, which the handlers of the three operators support."""
    pairs = list(zip(operands, axes, strict=True))
    size = next(array.shape[axis] for array, axis in pairs if axis is not None)
    leading = [
        jnp.broadcast_to(array, (size, *array.shape))
        if axis is None
        else jnp.moveaxis(array, axis, 0)
        for array, axis in pairs
    ]
    result = jax.ShapeDtypeStruct((size, *result.shape), result.dtype)
    return primitive.bind(*leading, result=result, attributes=attributes), 0


def _lower(target: str, ctx: Any, *operands: Any, result: Any, attributes: tuple) -> Any:
    arrays = {
        name: np.array(value, np.int64) if isinstance(value, tuple) else value
        for name, value in attributes
    }
    return jax.ffi.ffi_lowering(target)(ctx, *operands, **arrays)
