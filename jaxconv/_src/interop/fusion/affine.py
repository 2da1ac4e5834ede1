"""Recognizes scales, biases and residuals: how an equation changes an affine value."""

from __future__ import annotations

from typing import Any

from jax.extend.core import JaxprEqn, Literal

from .flat import FlatProgram, dtype_of, shape_of
from .links import Affine, Link, NotFusibleError

OPERATIONS = ("neg", "add", "add_any", "sub", "mul", "div")


def affine_after(
    program: FlatProgram, eqn: JaxprEqn, position: int, link: Link, affine: Affine, dtype: Any
) -> Affine:
    """The affine function after one of ``OPERATIONS``, whose operand at ``position`` is the link.

    ``dtype`` is that of the convolution.
    """
    name = eqn.primitive.name
    if name == "neg":
        return affine.then("mul", -1.0)
    other = eqn.invars[1 - position]
    vector = _per_feature(program, other, link)
    if name in ("mul", "div"):
        if vector is None or (name == "div" and position == 1):
            raise NotFusibleError(f"the {_OTHER_OPERAND[name]} is not per feature")
        return affine.then(name, vector)
    if vector is not None:
        operation = {"sub": ("sub", "rsub")[position]}.get(name, "add")
        return affine.then(operation, vector)
    if name == "sub" and position == 0:
        raise NotFusibleError("the subtrahend is not per feature")
    if name == "sub":
        affine = affine.then("mul", -1.0)
    return affine.plus(_residual(program, other, link, dtype), link.views)


_OTHER_OPERAND = {"mul": "multiplier", "div": "divisor"}


def _per_feature(program: FlatProgram, atom: Any, link: Link) -> Any:
    """What holds one value per feature, or a single value; None if there is no such array."""
    shape = shape_of(atom)
    if all(_is_one(n) for n in shape):
        return atom
    if len(shape) == len(link.shape) and _only_axis(shape, range(len(shape)), link.feature_axis):
        return atom
    eqn = program.producer(atom)
    if eqn is None or eqn.primitive.name != "broadcast_in_dim" or len(eqn.invars) != 1:
        return None
    (source,) = eqn.invars
    axes = eqn.params["broadcast_dimensions"]
    return source if _only_axis(shape_of(source), axes, link.feature_axis) else None


def _only_axis(shape: tuple[Any, ...], axes: Any, axis: int) -> bool:
    """Whether all extents are 1, except on one axis."""
    return all(_is_one(n) or at == axis for at, n in zip(axes, shape, strict=True))


def _is_one(n: Any) -> bool:
    return isinstance(n, int) and n == 1


def _residual(program: FlatProgram, atom: Any, link: Link, dtype: Any) -> Any:
    """The array that is added, or what it was converted from, in the dtype of the convolution."""
    if isinstance(atom, Literal) or shape_of(atom) != link.shape:
        raise NotFusibleError("the addend is neither per feature nor of the shape of the result")
    if dtype_of(atom) == dtype:
        return atom
    eqn = program.producer(atom)
    if eqn is not None and eqn.primitive.name == "convert_element_type":
        (source,) = eqn.invars
        if dtype_of(source) == dtype:
            return source
    raise NotFusibleError(f"the residual is {dtype_of(atom).name} and the result {dtype.name}")
