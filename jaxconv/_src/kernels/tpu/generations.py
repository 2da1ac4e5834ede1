"""The TPU generations: what the choice of tiles depends on."""

from __future__ import annotations

from typing import NamedTuple

MIB = 1 << 20


class Generation(NamedTuple):
    """One core's VMEM, and how much work its registers leave room for."""

    vmem: int
    cores: int  # that share a grid
    sums: int  # registers of sums that leave the compiler enough for the operands
    filters: int  # multiply-accumulates in one straight line of a filter gradient
    turns: int  # pieces of rows in one straight line


# The largest figures with which the compiler spills no registers; see docs/design/measurements.md.
GENERATIONS = {
    "v4": Generation(16 * MIB, 2, 8, 64, 1),
    "v5e": Generation(128 * MIB, 1, 16, 256, 4),
    "v5p": Generation(64 * MIB, 2, 16, 128, 4),
    "v6e": Generation(128 * MIB, 1, 16, 256, 4),
    "v7x": Generation(64 * MIB, 1, 16, 256, 4),
}

# What an unknown TPU is taken for: the generation with the least VMEM.
SMALLEST = "v4"


def generation_of(device_kind: str) -> str:
    """The generation of a kind of device.

    >>> generation_of("TPU v5 lite"), generation_of("TPU v6e"), generation_of("TPU7x")
    ('v5e', 'v6e', 'v7x')
    """
    words = device_kind.lower().removeprefix("tpu").strip()
    name = {"v5 lite": "v5e", "v5": "v5p", "v6 lite": "v6e", "7x": "v7x"}.get(words, words)
    return name if name in GENERATIONS else SMALLEST
