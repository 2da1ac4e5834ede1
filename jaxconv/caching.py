"""Caching static work by the values it is derived from, for the sake of eager calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def cached_by_value(function: Callable) -> Callable:
    """Caches ``function`` by its positional arguments where they are plain; lists become tuples.

    Symbolic dimensions of different scopes refuse to be compared, so they are not looked up.
    """
    cached = functools.lru_cache(maxsize=4096, typed=True)(function)

    @functools.wraps(function)
    def call(*args):
        args = tuple(tuple(arg) if isinstance(arg, list) else arg for arg in args)
        try:
            return cached(*args) if all(map(_plain, args)) else function(*args)
        except TypeError:  # an unhashable argument; its own check words the refusal
            return function(*args)

    return call


def _plain(value: Any) -> bool:
    """Whether ``value`` equals nothing of another meaning, as True equals 1."""
    if not isinstance(value, tuple):
        return True
    return all(
        _plain(entry) if isinstance(entry, tuple | str) else type(entry) is int for entry in value
    )
