"""Caching static work by the values it is derived from, for the sake of eager calls."""

from __future__ import annotations

import functools
from collections.abc import Callable


def cached_by_value(function: Callable) -> Callable:
    """Caches ``function`` by its positional arguments where they are plain; lists become tuples.

    Symbolic dimensions of different scopes refuse to be compared, so they are not looked up.
    """
    cached = functools.lru_cache(maxsize=4096, typed=True)(function)

    @functools.wraps(function)
    def call(*args):
        if list in map(type, args):
            args = tuple(tuple(arg) if isinstance(arg, list) else arg for arg in args)
        try:
            return cached(*args) if _plain(args, top=True) else function(*args)
        except TypeError:  # an unhashable argument; its own check words the error
            return function(*args)

    return call


def _plain(values: tuple, top: bool = False) -> bool:
    """Whether nothing in these tuples equals something of another meaning, as True equals 1.

    At the top the cache tells types apart by itself. Plain loops, for the sake of eager calls: with
    generators the geometry of a causal convolution was looked up in 5.8 µs, so in 2.0.
    """
    for value in values:
        kind = type(value)
        if kind is int or kind is str:
            continue
        if isinstance(value, tuple):
            if not _plain(value):
                return False
        elif not top:
            return False
    return True
