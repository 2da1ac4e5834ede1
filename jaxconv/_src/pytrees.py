"""Splitting a pytree into its arrays and everything else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Structure:
    """A pytree without its arrays.

    ``others`` has None for every leaf that is an array, and the type and value of every other leaf:
    with the type, because 1 == True.
    """

    tree: Any
    others: tuple

    def with_arrays(self, arrays: Iterable) -> Any:
        """The pytree with these arrays."""
        remaining = iter(arrays)
        leaves = (next(remaining) if other is None else other[1] for other in self.others)
        return jax.tree.unflatten(self.tree, leaves)


def is_array(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray):
        return _traceable(leaf)
    return isinstance(leaf, jax.Array | jax.Ref)


def is_array_like(leaf: Any) -> bool:
    """Whether a leaf has a shape and a dtype; so do ``jax.ShapeDtypeStruct`` and NumPy scalars."""
    if not (isinstance(getattr(leaf, "shape", None), tuple) and hasattr(leaf, "dtype")):
        return False
    return not isinstance(leaf, np.ndarray | np.generic) or _traceable(leaf)


def _traceable(leaf: np.ndarray | np.generic) -> bool:
    """Whether jax accepts an array of NumPy: not of objects, text or swapped bytes, nor masked."""
    if isinstance(leaf, np.ma.MaskedArray):
        return False
    return leaf.dtype.isnative and (jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == np.bool_)


def split(tree: Any, is_array: Callable[[Any], bool] = is_array) -> tuple[Structure, list[Any]]:
    """A pytree without its arrays, and these."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = [leaf for leaf in leaves if is_array(leaf)]
    others = (None if is_array(leaf) else (type(leaf), leaf) for leaf in leaves)
    return Structure(structure, tuple(others)), arrays


def path_text(path: tuple[Any, ...]) -> str:
    """``layers[0].conv.kernel``, also if some of these are keys of dicts."""
    words = [
        f".{key.key}" if isinstance(getattr(key, "key", None), str) else str(key) for key in path
    ]
    return "".join(words).removeprefix(".")
