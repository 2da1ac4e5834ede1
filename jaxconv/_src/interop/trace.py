"""Tracing a function of pytrees to a program of its arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr

from ..pytrees import Structure, split

# Raised by jax if a function needs the values of its arguments, not only their types.
UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def call_on_arrays(
    fn: Callable, structure: Structure, arrays: list, *, function: str = "accelerate"
) -> tuple[Structure, list]:
    """Calls ``fn``, with its arguments and its result split as by ``pytrees.split``.

    Errors name the public ``function``.
    """
    args, kwargs = structure.with_arrays(arrays)
    objects = jax.tree.leaves((args, kwargs), is_leaf=_is_object)
    # Flattening twice tells which leaves an object keeps: others are new arrays every time, and
    # cannot show a change.
    before, again = jax.tree.leaves(objects), jax.tree.leaves(objects)
    result = fn(*args, **kwargs)
    after = jax.tree.leaves(objects)
    if len(before) != len(after) or any(
        a is b and b is not c for a, b, c in zip(before, again, after, strict=True)
    ):
        raise ValueError(
            f"{function}: fn changes an object among its arguments in place, but the change would "
            "be lost; pass the state as arrays and return the new state (for flax.nnx: split the "
            "module outside of fn and merge it inside)"
        )
    return split(result)


def _is_object(node: Any) -> bool:
    """Whether a node is not a plain container; of those, ``fn`` gets a copy."""
    return not isinstance(node, dict | list | tuple | None)


def trace(fn_on_arrays: Callable, args: tuple, kwargs: dict) -> tuple[ClosedJaxpr, Structure, list]:
    """The program of a function, the structure of its result, and the arrays in its arguments.

    ``fn_on_arrays`` is the function as ``call_on_arrays`` calls it.
    """
    structure, arrays = split((args, kwargs))
    for other in filter(None, structure.others):
        _check_hashable(other[1])
    program, (result, _) = jax.make_jaxpr(fn_on_arrays, return_shape=True)(structure, arrays)
    return program, result, arrays


def _check_hashable(leaf: Any) -> None:
    try:
        hash(leaf)
    except Exception:  # TypeError, or what the object raises
        raise TypeError(
            f"accelerate: every leaf of the arguments must be an array or hashable, so that fn is "
            f"traced again when it changes, but got a {type(leaf).__qualname__}; pass a hashable "
            f"value, such as a tuple or a frozenset"
        ) from None
