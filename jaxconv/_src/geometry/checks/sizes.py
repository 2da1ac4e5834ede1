"""Checks of sizes: ints, extents per axis, ranks, groups."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ..spec import MAX_ELEMENTS, MAX_STEP, Shape
from .call import SPATIAL, Call


def integer(call: Call, name: str, value: Any, minimum: int = 1, maximum: int = MAX_STEP) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < minimum:
        kind = "a positive int" if minimum == 1 else f"an int of at least {minimum}"
        raise call.error(f"{name} must be {kind}, but got {value!r}")
    if number > maximum:
        raise call.error(f"{name} must be at most {maximum:,}, but got {number:,}")
    return number


def size(call: Call, name: str, value: Any) -> Any:
    """An extent: an int of at least 0, or a symbolic dimension."""
    if jax.export.is_symbolic_dim(value):
        return value
    return integer(call, name, value, minimum=0, maximum=MAX_ELEMENTS)


def elements(call: Call, name: str, shape: Shape) -> None:
    """Checks that an array of this shape could exist; the product must not overflow in XLA."""
    if known(*shape) and math.prod(shape) > MAX_ELEMENTS:
        raise call.error(
            f"{name} would have shape {shape}, more than the {MAX_ELEMENTS:,} entries that "
            f"memory can address; check the padding, strides and dilation"
        )


def sizes(call: Call, name: str, value: Any, rank: int) -> Shape:
    """One extent per spatial axis; one extent alone is for all of them."""
    entries: Any = value
    if jax.export.is_symbolic_dim(value):
        return (entries,) * rank
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == rank:
        return tuple(size(call, name, entry) for entry in entries)
    return per_axis(call, name, value, rank, minimum=0)


def per_axis(call: Call, name: str, value: Any, rank: int, minimum: int = 1) -> Shape:
    """One int per spatial axis; one int alone is for all of them."""
    if not is_sequence(value):
        return (integer(call, name, value, minimum),) * rank
    if len(value) != rank:
        raise call.error(
            f"{name} must be an int or have one int per spatial axis ({rank}), but got "
            f"{len(value)}: {tuple(value)}"
        )
    return tuple(integer(call, name, entry, minimum) for entry in value)


def is_sequence(value: Any) -> bool:
    """Whether this has one entry per axis: a sequence other than a string, or a 1-D array."""
    return not isinstance(value, str) and (isinstance(value, Sequence) or np.ndim(value) == 1)


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
            f"{out_features} % {groups} = {out_features % groups}"
        )
    return groups


def known(*sizes: Any) -> bool:
    """Whether none of the sizes is symbolic."""
    return all(isinstance(size, int) for size in sizes)
