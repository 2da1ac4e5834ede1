"""Batching: every mapped operand folds into the batch or into the features.

A map over ``B`` adds an axis to some of x, k and g in ``T(x, k, g)``, always to the result. Two or
all three of them carry it, and which ones says where it goes, whichever operator is mapped:

    x and g      k is shared           into the batch            N   -> B*N
    k and g      x is shared           into the out-features     F/G -> B*F/G
    x and k      g is shared           into the in-features      C/G -> B*C/G
    all          nothing is shared     into the groups           G   -> B*G

So per-example filter gradients are one grouped convolution's, and the family stays closed.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax.interpreters import batching

from ..geometry.spec import ConvSpec, Operator
from .rules import PRIMITIVES, RESULT, ROLES, bind


def _batch(operator: Operator, operands, axes, *, spec: ConvSpec, **params):
    mapped = [
        (role, operand, axis)
        for role, operand, axis in zip(ROLES[operator], operands, axes, strict=True)
        if axis is not None
    ]
    size = mapped[0][1].shape[mapped[0][2]]
    if isinstance(size, int) and size == 0:
        return jnp.zeros((0, *spec.result_shape(operator)), params["dtype"]), 0
    shared = "xkg".translate({ord(role): None for role, *_ in mapped}).replace(RESULT[operator], "")
    values = dict(zip(ROLES[operator], operands, strict=True))
    for role, operand, axis in mapped:
        values[role] = _fold(jnp.moveaxis(operand, axis, 0), *_place(shared, role, spec))
    a, b = values.values()
    result = bind(operator, a, b, _widened(shared, spec, size), **params)
    return _unfold(result, size, *_place(shared, RESULT[operator], spec))


def _place(shared: str, role: str, spec: ConvSpec) -> tuple[int, int]:
    """The axis of ``role`` that the mapped axis folds into, and how many groups stay outside it."""
    last = spec.rank + 1
    match shared:
        case "k":
            return 0, 1
        case "x":
            return last, spec.groups
        case "g":  # a kernel's own axis of in-features holds one group's
            return (spec.rank, 1) if role == "k" else (last, spec.groups)
        case _:
            return last, 1


def _widened(shared: str, spec: ConvSpec, size: int) -> ConvSpec:
    match shared:
        case "k":
            return spec.replace(batch=spec.batch * size)
        case "x":
            return spec.replace(out_features=spec.out_features * size)
        case "g":
            return spec.replace(in_features=spec.in_features * size)
        case _:
            return spec.replace(
                in_features=spec.in_features * size,
                out_features=spec.out_features * size,
                groups=spec.groups * size,
            )


def _fold(array, axis: int, outer: int):
    """``[B, …, outer*rest, …] -> […, outer*B*rest, …]``"""
    size, *shape = array.shape
    split = (size, *shape[:axis], outer, shape[axis] // outer, *shape[axis + 1 :])
    merged = (*shape[:axis], size * shape[axis], *shape[axis + 1 :])
    return jnp.moveaxis(array.reshape(split), 0, axis + 1).reshape(merged)


def _unfold(array, size: int, axis: int, outer: int):
    """``[…, outer*B*rest, …] -> […, B, outer*rest, …]``, and the place of the mapped axis."""
    shape = array.shape
    split = (*shape[:axis], outer, size, shape[axis] // (outer * size), *shape[axis + 1 :])
    apart = (*shape[:axis], size, shape[axis] // size, *shape[axis + 1 :])
    return jnp.swapaxes(array.reshape(split), axis, axis + 1).reshape(apart), axis


for _operator, _primitive in PRIMITIVES.items():
    batching.primitive_batchers[_primitive] = functools.partial(_batch, _operator)
