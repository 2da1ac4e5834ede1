"""Old names of results' attributes, which work and warn until they are removed.

The policy and the list of them are in ``DEPRECATIONS.md``.
"""

from __future__ import annotations

import warnings
from typing import Any


class Renamed:
    """An attribute under its old name, which warns and returns the attribute ``new``."""

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self.message = f"{owner.__name__}.{name} is deprecated; use {owner.__name__}.{self.new}"

    def __get__(self, result: Any, owner: type) -> Any:
        if result is None:
            return self
        warnings.warn(self.message, DeprecationWarning, stacklevel=2)
        return getattr(result, self.new)
