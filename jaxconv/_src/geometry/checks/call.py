"""One call of a public function: its name, the shapes of its arrays, and the names of their axes.

The axes of an array are written as in a docstring, ``"*K C/G F"``. ``*S`` stands for the spatial
axes (``W``, ``H W`` or ``D H W``) and ``*K`` for the kernel's extents; ``or`` separates the layouts
that an array may have.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..spec import Shape

MAX_SHOWN = 500  # characters of one argument in an error
SPATIAL = {1: ("W",), 2: ("H", "W"), 3: ("D", "H", "W")}

AXES: Mapping[str, str] = MappingProxyType(
    {
        "x": "N *S C or *S C",
        "g": "N *S F or *S F",
        "kernel": "*K C/G F",
        "bias": "F",
    }
)
CAUSAL_AXES: Mapping[str, str] = MappingProxyType(
    {
        "x": "N L C or L C",
        "state": "N (K-1)*d C",
        "initial_state": "N (K-1)*d C or (K-1)*d C",
        "kernel": "K C/G F",
        "bias": "F",
    }
)


class Call(tuple):
    """A function's name and the shapes of its arrays, for error messages.

    A tuple of those, so that what is derived from a call can be cached by it. The names of the axes
    are only for messages and take no part in the comparison.
    """

    axes: Mapping[str, str]

    def __new__(cls, function: str, /, axes: Mapping[str, str] = AXES, **shapes: Shape):
        self = super().__new__(cls, (function, *shapes.items()))
        self.axes = axes
        return self

    @property
    def function(self) -> str:
        return self[0]

    def error(self, message: str, error: type[Exception] = ValueError) -> Exception:
        """The exception to raise: the message with the function's name and all the arrays."""
        shapes = dict(self[1:])
        kernels = [name for name in shapes if "*K" in self.axes.get(name, "")]
        ranks = [len(shapes[name]) - 2 for name in kernels]
        rank = next((rank for rank in ranks if rank in SPATIAL), None)
        arrays = [
            self._describe(name, shape, len(shape) - 2 if name in kernels else rank)
            for name, shape in shapes.items()
        ]
        got = f". Got {', '.join(arrays)}." if arrays else ""
        return error(f"{self.function}: {message}{got}")

    def _describe(self, name: str, shape: Shape, rank: int | None) -> str:
        for layout in self.layouts(name, len(shape) - 2 if rank is None else rank):
            if len(layout) == len(shape):
                return f"{name} [{', '.join(layout)}] = {tuple(shape)}"
        return f"{name} {tuple(shape)}"

    def layouts(self, name: str, rank: int) -> list[tuple[str, ...]]:
        """The names of an array's axes, for each layout that it may have."""
        layouts = self.axes[name].split(" or ") if name in self.axes else ()
        return [_expand(each, rank) for each in layouts if rank in SPATIAL or not _spatial(each)]

    def last_axes(self, name: str) -> tuple[str, str]:
        """The names of a kernel's last two axes."""
        *_, before, last = self.axes[name].split()
        return before, last


def shown(value: Any) -> str:
    """``repr(value)`` for an error, also of what is long or has no valid ``repr``."""
    try:
        text = repr(value)
    except Exception:  # an object's own, or the limit of Python for ints of thousands of digits
        return f"an object of type {type(value).__qualname__}"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def _spatial(layout: str) -> bool:
    return any(axis in ("*S", "*K") for axis in layout.split())


def _expand(layout: str, rank: int) -> tuple[str, ...]:
    """A layout with the names of ``rank`` spatial axes written out.

    >>> _expand("*K C/G F", 2)
    ('KH', 'KW', 'C/G', 'F')
    """
    spatial = SPATIAL.get(rank, ())
    expanded: dict[str, tuple[str, ...]] = {
        "*S": spatial,
        "*K": tuple(f"K{axis}" for axis in spatial),
    }
    return tuple(each for axis in layout.split() for each in expanded.get(axis, (axis,)))
