"""The collectives of a compiled program, read from its text."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "collective-permute", "all-gather", "reduce-scatter", "all-to-all")


class Array(NamedTuple):
    """One result of a collective, on one device."""

    size: int
    itemsize: int

    @property
    def bytes(self) -> int:
        return self.size * self.itemsize


@dataclasses.dataclass(frozen=True)
class Traffic:
    """All collectives of one kind: their number, their arrays' bytes, and what one device sends.

    ``payload`` counts the whole array that a collective gives each device, or takes from each when
    it scatters. ``sent`` is what leaves a device if all devices form a ring, which is the minimum.
    """

    count: int
    payload: int
    sent: float


def collectives(text: str) -> Iterator[tuple[str, list[Array]]]:
    """The kind and the results of each collective, in program order."""
    kinds = "|".join(COLLECTIVES)
    for results, kind, start in re.findall(rf" = (.*?) ({kinds})(-start)?\(", text):
        arrays = _arrays(results)
        # Asynchronous ones list operands, then results; XLA for TPU omits an all-reduce's operands.
        if start and (kind != "all-reduce" or results.startswith("((")):
            arrays = arrays[len(arrays) // 2 :]
        yield kind, arrays


def traffic(text: str, devices: int) -> dict[str, Traffic]:
    """By kind, for a program in which each collective spans all ``devices``."""
    payloads: dict[str, list[int]] = {}
    for kind, arrays in collectives(text):
        copies = devices if kind == "reduce-scatter" else 1
        payloads.setdefault(kind, []).append(copies * sum(array.bytes for array in arrays))
    return {
        kind: Traffic(len(found), sum(found), sum(found) * _sent_share(kind, devices))
        for kind in COLLECTIVES
        if (found := payloads.get(kind))
    }


def _arrays(results: str) -> list[Array]:
    """The arrays of a result or of a tuple of results, without semaphores (unsigned scalars)."""
    return [
        Array(math.prod(int(n) for n in shape.split(",") if n), max(int(bits or 8) // 8, 1))
        for kind, bits, shape in re.findall(r"([a-z]+)(\d*)\[([\d,]*)\]", results)
        if shape or kind != "u"
    ]


def _sent_share(kind: str, devices: int) -> float:
    """Bytes sent per byte of payload: all but the device's own part, twice for an all-reduce."""
    if kind == "collective-permute":
        return 1.0
    return (devices - 1) / devices * (2 if kind == "all-reduce" else 1)
