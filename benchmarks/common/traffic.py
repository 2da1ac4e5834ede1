"""What a compiled program sends between devices, read from its text."""

from __future__ import annotations

import collections
import math
import re
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "collective-permute", "all-gather", "reduce-scatter", "all-to-all")


class Traffic(NamedTuple):
    """All collectives of one kind: how many, their arrays' bytes, and what one device sends.

    ``payload`` counts the whole array that a collective gives each device, or takes from it where
    it scatters; ``sent`` what leaves a device where all of them form a ring, the least there can
    be.
    """

    count: int
    payload: int
    sent: float


def traffic(text: str, devices: int) -> dict[str, Traffic]:
    """By kind, of a program in which each collective is among all ``devices``."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    names = "|".join(COLLECTIVES)
    for results, name, start in re.findall(rf" = (.*?) ({names})(-start)?\(", text):
        sizes = _sizes(results)
        # Operands, then results; XLA for TPU leaves an all-reduce's operands out.
        if start and (name != "all-reduce" or results.startswith("((")):
            sizes = sizes[len(sizes) // 2 :]
        found[name].append(sum(sizes) * (devices if name == "reduce-scatter" else 1))
    return {
        name: Traffic(len(found[name]), sum(found[name]), sum(found[name]) * _share(name, devices))
        for name in COLLECTIVES
        if name in found
    }


def _sizes(results: str) -> list[int]:
    """Bytes of each array; what has no axes beside others is a semaphore."""
    arrays = re.findall(r"([a-z]+)(\d*)\[([\d,]*)\]", results)
    return [
        math.prod(int(n) for n in shape.split(",") if n) * max(int(bits or 8) // 8, 1)
        for kind, bits, shape in arrays
        if shape or kind != "u"
    ]


def _share(name: str, devices: int) -> float:
    """What a device sends of each byte: all but its own part, twice where it comes back summed."""
    if name == "collective-permute":
        return 1.0
    return (devices - 1) / devices * (2 if name == "all-reduce" else 1)
