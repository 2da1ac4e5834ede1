"""Caching of static work by value, so that eager calls stay cheap."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")

MAX_DEPTH = 4  # of tuples: a call holds its arrays' names with their shapes
HASHABLE = (type(None), bool, int, float, np.generic)


def cached_by_value(function: Callable[..., Result]) -> Callable[..., Result]:
    """Caches ``function`` by its positional arguments where they are plain; lists become tuples.

    Arguments with symbolic dimensions are not looked up: those of different scopes cannot be
    compared.
    """
    cached: Any = functools.lru_cache(maxsize=4096, typed=True)(function)

    @functools.wraps(function)
    def call(*args: Any) -> Result:
        if list in map(type, args):
            args = tuple(tuple(arg) if isinstance(arg, list) else arg for arg in args)
        return cached(*args) if _plain(args) else function(*args)

    return call


def _plain(values: tuple[Any, ...], depth: int = 0) -> bool:
    """Whether no entry of these tuples equals a value of another meaning, as ``True == 1``.

    At the top level the cache itself distinguishes types, so that None and the like can be cached.
    Plain loops instead of generators: an eager causal convolution's lookup takes 2.0 µs instead of
    5.8.
    """
    for value in values:
        kind = type(value)
        if kind is int or kind is str:
            continue
        if isinstance(value, tuple):
            if depth == MAX_DEPTH or not _plain(value, depth + 1):
                return False
        elif depth or not isinstance(value, HASHABLE):
            return False
    return True
