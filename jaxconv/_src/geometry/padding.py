"""The padding names and forms, resolved to explicit pairs or to a border that must be materialized.

    "SAME"          output extent ceil(n/s), zeros split evenly, the odd one at the end
    "SAME_LOWER"    the same with the odd zero at the beginning
    "VALID"         no padding
    "FULL"          d*(k-1) zeros on both sides: every output that touches the input
    "CAUSAL"        d*(k-1) zeros before: output i reads no input after i*s
    "CIRCULAR"      the input repeats periodically
    "REFLECT"       the input mirrored about its edge pixels
    "REPLICATE"     the edge pixels repeated
    p               p zeros on both sides
    (low, high)     low zeros before and high after; negative values crop

Names may be written in lower case, as in Keras and PyTorch. The three border modes pad
``(d*(k-1))//2`` before and the rest of ``d*(k-1)`` after, as Flax does.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np

from .checks.call import shown
from .checks.sizes import MAX_ENTRIES, count, index, keys, sequence, traced_hint
from .spec import MAX_STEP, Pairs, Shape, effective_extent

BORDERS = {"CIRCULAR": "wrap", "REFLECT": "reflect", "REPLICATE": "edge"}
NAMES = ("SAME", "SAME_LOWER", "VALID", "FULL", "CAUSAL", *BORDERS)

# For type checkers and editors; at run time names of any case are accepted.
PaddingName = Literal[
    "SAME",
    "SAME_LOWER",
    "VALID",
    "FULL",
    "CAUSAL",
    "CIRCULAR",
    "REFLECT",
    "REPLICATE",
    "same",
    "same_lower",
    "valid",
    "full",
    "causal",
    "circular",
    "reflect",
    "replicate",
]
PaddingLike = PaddingName | int | Sequence[PaddingName | int | tuple[int, int]]


class PaddingError(ValueError):
    """What is wrong, in one sentence; the public function adds its name and the shapes."""


@dataclasses.dataclass(frozen=True)
class Border:
    """What ``numpy.pad`` must add to one axis before the convolution."""

    mode: str
    low: int
    high: int


@dataclasses.dataclass(frozen=True)
class Padding:
    """``pairs`` of zeros for the convolution, and the border to materialize on each axis."""

    pairs: Pairs
    borders: tuple[Border | None, ...]

    def bordered(self, spatial: Shape) -> Shape:
        """The spatial extents once the borders are materialized."""
        return tuple(
            n if border is None or _is_zero(n) else n + border.low + border.high
            for n, border in zip(spatial, self.borders, strict=True)
        )


def _is_zero(n: int) -> bool:
    """An empty axis has nothing to repeat and stays empty; a symbolic extent is not empty."""
    return isinstance(n, int) and n == 0


def resolve(
    padding: Any, spatial: Shape, kernel_spatial: Shape, strides: Shape, dilation: Shape
) -> Padding:
    """The padding of every axis, whichever way ``padding`` is written.

    >>> resolve("SAME", (5, 6), (3, 3), (1, 2), (1, 1)).pairs
    ((1, 1), (0, 1))
    """
    entries = axis_entries(padding, len(kernel_spatial))
    axes = zip(entries, spatial, kernel_spatial, strides, dilation, strict=True)
    resolved = [_resolve_axis(*axis) for axis in axes]
    return Padding(tuple(pair for pair, _ in resolved), tuple(border for _, border in resolved))


def axis_entries(padding: Any, rank: int) -> tuple[str | tuple[int, int], ...]:
    """One name (in upper case) or ``(low, high)`` pair per axis."""
    if isinstance(padding, str):
        name = _name(padding)
        if name == "CAUSAL" and rank > 1:
            raise PaddingError(
                f'padding "CAUSAL" is ambiguous for {rank} spatial axes; give one entry per axis, '
                f"such as {('CAUSAL', *('SAME',) * (rank - 1))}"
            )
        return (name,) * rank
    if _is_int(padding):
        return (_pair(padding),) * rank
    entries = _entries(padding)
    if entries is None:
        raise PaddingError(
            f"padding must be a name, an int or a sequence with one entry per axis, but got "
            f"{shown(padding)}{traced_hint(padding)}"
        )
    if len(entries) != rank:
        hint = ""
        if rank == 1 and len(entries) == 2 and all(map(_is_int, entries)):
            pair = tuple(map(index, entries))
            hint = f"; write a (low, high) pair for the only axis as [{pair}]"
        raise PaddingError(
            f"padding must have one entry per spatial axis ({rank}), but got {count(entries)}: "
            f"{shown(padding)}{hint}"
        )
    return tuple(_name(entry) if isinstance(entry, str) else _pair(entry) for entry in entries)


def _entries(padding: Any) -> tuple[Any, ...] | None:
    """The entries of a sequence, an iterator or an array of any rank; None for all else."""
    if isinstance(padding, Iterator):
        padding = tuple(itertools.islice(padding, MAX_ENTRIES))
    elif isinstance(padding, np.ndarray | jax.Array) and padding.ndim > 1 and not keys(padding):
        padding = tuple(padding)
    return sequence(padding)


def _name(name: str) -> str:
    if name.upper() in NAMES:
        return name.upper()
    close = difflib.get_close_matches(name.upper(), NAMES, 1, 0.5)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    raise PaddingError(f"padding must be one of {', '.join(NAMES)}, but got {shown(name)}{hint}")


def _is_int(value: Any) -> bool:
    return index(value) is not None


def _pair(entry: Any) -> tuple[int, int]:
    if _is_int(entry):
        return _bounded(entry), _bounded(entry)
    pair = sequence(entry) or ()
    if len(pair) != 2 or not all(map(_is_int, pair)):
        raise PaddingError(
            f"padding entries must be names, ints or (low, high) pairs of ints, but got "
            f"{shown(entry)}{traced_hint(entry, *pair)}"
        )
    return _bounded(pair[0]), _bounded(pair[1])


def _bounded(value: Any) -> int:
    number = index(value) or 0
    if abs(number) > MAX_STEP:
        raise PaddingError(
            f"padding must be at most {MAX_STEP:,} per side, but got {shown(number)}"
        )
    return number


def _resolve_axis(
    entry: str | tuple[int, int], n: int, k: int, s: int, d: int
) -> tuple[tuple[int, int], Border | None]:
    if not isinstance(entry, str):
        return entry, None
    reach = effective_extent(k, d) - 1 if k else 0
    match entry:
        case "VALID":
            return (0, 0), None
        case "FULL":
            return (reach, reach), None
        case "CAUSAL":
            return (reach, 0), None
        case "SAME" | "SAME_LOWER":
            total = _same_total(n, reach, s)
            small, large = total // 2, total - total // 2
            return ((small, large) if entry == "SAME" else (large, small)), None
        case _:
            return (0, 0), Border(BORDERS[entry], reach // 2, reach - reach // 2)


def _same_total(n: int, reach: int, s: int) -> int:
    """Zeros that make the output extent ``ceil(n/s)``: ``(ceil(n/s)-1)*s + reach + 1 - n``."""
    if s == 1:  # also the form in which a symbolic n cancels
        return reach
    total = (-(-n // s) - 1) * s + reach + 1 - n
    return max(total, 0) if isinstance(total, int) else total.max(0)  # a symbolic dimension
