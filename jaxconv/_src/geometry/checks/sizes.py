"""Checks of sizes: ints, extents per axis, ranks, groups."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from ..spec import MAX_ELEMENTS, MAX_STEP, Shape
from .call import SPATIAL, Call, shown
from .foreign_layouts import layout_hint

# Sequences of ints to Python, but not what a caller means by one int per axis.
_NOT_PER_AXIS = (str, bytes, bytearray, memoryview)
MAX_ENTRIES = 9


def integer(call: Call, name: str, value: Any, minimum: int = 1, maximum: int = MAX_STEP) -> int:
    number = index(value)
    if number is None or number < minimum:
        kind = "a positive int" if minimum == 1 else f"an int of at least {minimum}"
        raise call.error(f"{name} must be {kind}, but got {shown(value)}{traced_hint(value)}")
    if number > maximum:
        raise call.error(f"{name} must be at most {maximum:,}, but got {shown(number)}")
    return number


def flag(call: Call, name: str, value: Any) -> bool:
    """A bool, or 0 or 1."""
    if not isinstance(value, bool | np.bool_) and index(value) not in (0, 1):
        raise call.error(
            f"{name} must be True or False, but got {shown(value)}{traced_hint(value)}"
        )
    return bool(value)


def index(value: Any) -> int | None:
    """The int that this is or holds; None for bools and for everything else."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except Exception:  # TypeError, or what the object's own conversion raises
        return None


def traced_hint(*values: Any) -> str:
    """The fix for a traced array in the place of an int: it must be known while tracing."""
    if not any(isinstance(value, Tracer) for value in values):
        return ""
    return (
        "; it is traced, but must be a Python int known at trace time: close over it, or list the "
        "argument in static_argnums or static_argnames of jax.jit"
    )


def size(call: Call, name: str, value: Any) -> Any:
    """An extent: an int of at least 0, or a symbolic dimension."""
    if jax.export.is_symbolic_dim(value):
        return value
    return integer(call, name, value, minimum=0, maximum=MAX_ELEMENTS)


def elements(
    call: Call, name: str, shape: Shape, fix: str = "check the padding, strides and dilation"
) -> None:
    """Checks that an array of this shape could exist; the product must not overflow in XLA."""
    if known(*shape) and math.prod(shape) > MAX_ELEMENTS:
        raise call.error(
            f"{name} would have shape {shape}, more than the {MAX_ELEMENTS:,} entries that "
            f"memory can address; {fix}"
        )


def sizes(call: Call, name: str, value: Any, rank: int) -> Shape:
    """One extent per spatial axis; one extent alone is for all of them."""
    if jax.export.is_symbolic_dim(value):
        symbolic: Any = value
        return (symbolic,) * rank
    entries = sequence(value)
    if entries is not None and len(entries) == rank:
        return tuple(size(call, name, entry) for entry in entries)
    return per_axis(call, name, value, rank, minimum=0)


def per_axis(call: Call, name: str, value: Any, rank: int, minimum: int = 1) -> Shape:
    """One int per spatial axis; one int alone is for all of them."""
    entries = sequence(value)
    if entries is None:
        return (integer(call, name, value, minimum),) * rank
    if len(entries) != rank:
        raise call.error(
            f"{name} must be an int or have one int per spatial axis ({rank}), but got "
            f"{count(entries)}: {shown(value)}"
        )
    return tuple(integer(call, name, entry, minimum) for entry in entries)


def per_axis_of_input(call: Call, name: str, value: Any, x_shape: Shape) -> Shape:
    """One positive int per spatial axis, where no kernel says how many axes are spatial.

    One int alone is for both axes of ``x [N, H, W, C]``, and ambiguous otherwise.
    """
    entries = sequence(value)
    if entries is None:
        number = integer(call, name, value)
        if len(x_shape) != 4:
            raise call.error(
                f"{name} = {number} does not say which axes of x are spatial unless x is "
                f"[N, H, W, C]; give one int per spatial axis, such as ({number},) for "
                f"[N, W, C] or ({number}, {number}) for [H, W, C]"
            )
        return (number, number)
    if len(entries) not in SPATIAL or len(x_shape) - len(entries) not in (1, 2):
        raise call.error(
            f"{name} must be an int for x [N, H, W, C], or have one int for each of the 1 to 3 "
            f"spatial axes of x [N, *S, C] or [*S, C], but got {shown(value)}"
        )
    return tuple(integer(call, name, entry) for entry in entries)


def sequence(value: Any) -> tuple[Any, ...] | None:
    """The entries of a sequence or 1-D array, one per axis; None for strings and all else.

    Of a long sequence, such as a ``range``, only the first entries: always more than axes.
    """
    if isinstance(value, _NOT_PER_AXIS):
        return None
    if isinstance(value, Sequence) or (getattr(value, "ndim", None) == 1 and not keys(value)):
        return tuple(itertools.islice(value, MAX_ENTRIES))
    return None


def keys(value: Any) -> bool:
    """Whether this is an array of random keys, which raises an ``AssertionError`` if iterated."""
    return isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.extended)


def count(entries: tuple[Any, ...]) -> str:
    """How many entries ``sequence`` found, for errors."""
    return f"{len(entries)} or more" if len(entries) == MAX_ENTRIES else str(len(entries))


def spatial_rank(call: Call, kernel_ndim: int, name: str = "kernel") -> int:
    """The number of spatial axes of a kernel."""
    if kernel_ndim - 2 not in SPATIAL:
        raise call.error(
            f"{name} must be [*K, {', '.join(call.last_axes(name))}] with 1 to 3 spatial axes, "
            f"that is 3 to 5 axes in total, but it has {kernel_ndim}"
        )
    return kernel_ndim - 2


def batched(call: Call, name: str, shape: Shape, rank: int) -> Shape:
    """``shape`` with its batch axis, which a single example may leave out."""
    if len(shape) == rank + 2:
        return shape
    if len(shape) == rank + 1:
        return (1, *shape)
    whole, example = (", ".join(layout) for layout in call.layouts(name, rank))
    raise call.error(
        f"{name} must be [{whole}] or, unbatched, [{example}] for a kernel with {rank} spatial "
        f"{'axis' if rank == 1 else 'axes'}, but it has {len(shape)} axes"
    )


def group_count(call: Call, groups: Any, out_features: int) -> int:
    groups = integer(call, "groups", groups)
    if known(out_features) and out_features % groups:
        raise call.error(
            f"the number of features must be a multiple of groups, but F % groups = "
            f"{out_features} % {groups} = {out_features % groups}{layout_hint(call, groups)}"
        )
    return groups


def known(*sizes: Any) -> bool:
    """Whether none of the sizes is symbolic."""
    return all(isinstance(size, int) for size in sizes)
