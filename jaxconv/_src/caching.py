"""Caching of static work by value, so that eager calls stay cheap."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


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
        try:
            return cached(*args) if _plain(args, top=True) else function(*args)
        except TypeError:  # an unhashable argument; the check of that argument words the error
            return function(*args)

    return call


def _plain(values: tuple[Any, ...], top: bool = False) -> bool:
    """Whether no entry of these tuples equals a value of another meaning, as ``True == 1``.

    At the top level the cache itself distinguishes types. Plain loops instead of generators: an
    eager causal convolution's lookup takes 2.0 µs instead of 5.8.
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
