"""Batching: the mapped axis folds into the batch, the channels or the features, or is an axis of
examples.

``vmap`` over ``B`` adds an axis to some operands of an operator, and to its result. So of x, k and
g in ``T(x, k, g)`` two or all three have the axis, and where it goes depends on which ones, not on
the operator:

    x and g      k is shared           into the batch         N   -> B*N
    k and g      x is shared           into the features      F/G -> B*F/G
    x and k      g is shared           into the channels      C/G -> B*C/G
    all          nothing is shared     into the examples      E   -> B*E

The result is again one of the three operators: per-example filter gradients, for example, are one
filter gradient with B examples. Only ``lowering.py`` decides how examples are computed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.interpreters import batching

from ..geometry.epilogue import Epilogue
from ..geometry.spec import ConvSpec, Operator
from .fused import bind_fused, decomposed, fused_conv_p
from .packed import bind_packed, packed_conv_p, unpacked
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
        values[role] = _fold(jnp.moveaxis(operand, axis, 0), shared, role, spec)
    a, b = values.values()
    result = bind(operator, a, b, _mapped_spec(shared, spec, size), **params)
    return _unfold(result, size, shared, RESULT[operator], spec)


def _batch_fused(operands, axes, *, spec: ConvSpec, epilogue: Epilogue, **params):
    """As ``_batch``; scale and bias fold as the features do, a residual as the result does."""
    names = ("x", "kernel", *epilogue.operands)
    mapped = {name for name, axis in zip(names, axes, strict=True) if axis is not None}
    size = next(a.shape[i] for a, i in zip(operands, axes, strict=True) if i is not None)
    shared = "".join(role for role, name in (("x", "x"), ("k", "kernel")) if name not in mapped)
    per_example = not shared or (shared == "k" and mapped & {"scale", "bias"})
    if shared == "xk" or per_example or (isinstance(size, int) and size == 0):
        compute = functools.partial(decomposed, spec=spec, epilogue=epilogue, **params)
        return jax.vmap(compute, in_axes=tuple(axes), axis_size=size)(*operands), 0
    x, kernel, *rest = (
        _fold_operand(name, operand, axis, size, shared, spec)
        for name, operand, axis in zip(names, operands, axes, strict=True)
    )
    result = bind_fused(x, kernel, rest, _mapped_spec(shared, spec, size), epilogue, **params)
    return _unfold(result, size, shared, "g", spec)


def _batch_packed(operands, axes, *, spec: ConvSpec, epilogue: Epilogue, **params):
    """Into the batch if the activations alone have the axis; otherwise the kernel is not packed."""
    names = ("x", "kernel", *epilogue.operands, "packed")
    mapped = {name for name, axis in zip(names, axes, strict=True) if axis is not None}
    size = next(a.shape[i] for a, i in zip(operands, axes, strict=True) if i is not None)
    if "x" not in mapped or mapped - {"x", "residual"} or (isinstance(size, int) and size == 0):
        compute = functools.partial(unpacked, spec=spec, epilogue=epilogue, **params)
        return jax.vmap(compute, in_axes=tuple(axes), axis_size=size)(*operands), 0
    x, kernel, *rest = (
        _fold_operand(name, operand, axis, size, "k", spec)
        for name, operand, axis in zip(names[:-1], operands[:-1], axes[:-1], strict=True)
    )
    mapped_spec = _mapped_spec("k", spec, size)
    result = bind_packed(x, kernel, rest, operands[-1], mapped_spec, epilogue, **params)
    return _unfold(result, size, "k", "g", spec)


def _fold_operand(name: str, operand, axis: int | None, size, shared: str, spec: ConvSpec):
    """One operand of a fused convolution with the mapped axis folded in."""
    role = {"x": "x", "kernel": "k"}.get(name, "g")
    if role == shared or (axis is None and shared == "k" and name != "residual"):
        return operand
    batched = (
        jnp.broadcast_to(operand, (size, *operand.shape))
        if axis is None
        else jnp.moveaxis(operand, axis, 0)
    )
    if name in ("scale", "bias"):
        return merge_axis(batched, 0, _folded_axis(shared, role, spec)[1])
    return _fold(batched, shared, role, spec)


def _folded_axis(shared: str, role: str, spec: ConvSpec) -> tuple[int, int]:
    """The axis of ``role`` that the mapped axis folds into, and its outer part in that axis.

    Axes are counted without that of examples. Channels and features are group-major: the mapped
    axis goes inside the groups.
    """
    last = spec.rank + 1
    match shared:
        case "k":
            return 0, 1
        case "x":
            return last, spec.groups
        case _:  # a kernel's axis of channels holds those of one group
            return (spec.rank, 1) if role == "k" else (last, spec.groups)


def _mapped_spec(shared: str, spec: ConvSpec, size: int) -> ConvSpec:
    """The spec of all ``size`` convolutions together."""
    match shared:
        case "k":
            return spec.replace(batch=spec.batch * size)
        case "x":
            return spec.replace(out_features=spec.out_features * size)
        case "g":
            return spec.replace(in_features=spec.in_features * size)
        case _:
            return spec.replace(examples=math.prod(spec.leading) * size)


def _fold(array, shared: str, role: str, spec: ConvSpec):
    """``array [B, …]`` with its first axis folded in."""
    if shared:
        axis, outer = _folded_axis(shared, role, spec)
        return merge_axis(array, len(spec.leading) + axis, outer)
    return array if spec.examples is None else merge_axis(array, 0, 1)


def _unfold(array, size, shared: str, role: str, spec: ConvSpec):
    """The result with its mapped axis, and where that is."""
    if shared:
        axis, outer = _folded_axis(shared, role, spec)
        return split_axis(array, size, len(spec.leading) + axis, outer)
    return (array, 0) if spec.examples is None else split_axis(array, size, 0, 1)


def examples_as_groups(run: Callable, spec: ConvSpec) -> Callable:
    """An operator of ``spec`` by ``run``, which computes that of ``spec.examples_as_groups``."""
    last = spec.rank + 1  # the channels or features of each of the three arrays

    def compute(a, b):
        a, b = (merge_axis(array, last, 1) for array in (a, b))
        result, axis = split_axis(run(a, b), spec.examples, last, 1)
        return jnp.moveaxis(result, axis, 0)

    return compute


def merge_axis(array, axis: int, outer: int):
    """``[B, …, outer*rest, …] -> […, outer*B*rest, …]``"""
    size, *shape = array.shape
    split = (size, *shape[:axis], outer, shape[axis] // outer, *shape[axis + 1 :])
    merged = (*shape[:axis], size * shape[axis], *shape[axis + 1 :])
    return jnp.moveaxis(array.reshape(split), 0, axis + 1).reshape(merged)


def split_axis(array, size, axis: int, outer: int):
    """``[…, outer*B*rest, …] -> […, B, outer*rest, …]``, and where the mapped axis is."""
    shape = array.shape
    split = (*shape[:axis], outer, size, shape[axis] // (outer * size), *shape[axis + 1 :])
    apart = (*shape[:axis], size, shape[axis] // size, *shape[axis + 1 :])
    return jnp.swapaxes(array.reshape(split), axis, axis + 1).reshape(apart), axis


for _operator, _primitive in PRIMITIVES.items():
    batching.primitive_batchers[_primitive] = functools.partial(_batch, _operator)
batching.primitive_batchers[fused_conv_p] = _batch_fused
batching.primitive_batchers[packed_conv_p] = _batch_packed
