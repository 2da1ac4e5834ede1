"""Bytes that a compiled TPU program moves between HBM and VMEM, read from its text.

XLA keeps some arrays of a program in VMEM, marked ``S(1)`` in their layouts, and prefetches others.
An operation is taken to move those of its operands and results that are in HBM.
"""

from __future__ import annotations

import math
import re

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (.*?) ([\w\-]+)\((.*?)\)(?:,|$)")
_ARRAY = re.compile(r"([a-z]+\d+)\[([\d,]*)\]\{([\d,]*)([^}]*)\}")
_TILE = re.compile(r"T\((\d+)(?:,(\d+))?\)")
_FREE = ("parameter", "bitcast", "constant", "tuple", "get-tuple-element", "copy-done")


def moved(text: str, kernel: list[int]) -> int:
    """Bytes that the program ``text`` moves.

    ``kernel`` lists the bytes that jaxconv's kernel copies of each operand and of its result.
    """
    entry = text[text.index("\nENTRY ") :].splitlines()[2:]
    total, hbm = 0, {}
    for line in entry:
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        name, result, operation, operands = match.groups()
        hbm[name] = [_bytes(*array) for array in _ARRAY.findall(result)]
        if operation in _FREE:
            continue
        arrays = [hbm[operand][0] for operand in re.findall(r"%([\w.\-]+)", operands)]
        if operation == "custom-call" and "tpu_custom_call" in line:
            arrays.append(hbm[name][0])
            total += sum(n for n, here in zip(kernel, arrays, strict=True) if here)
        else:  # an asynchronous copy's results are the copy, the source and a flag
            total += sum(arrays) + hbm[name][0]
    return total


def _bytes(kind: str, shape: str, order: str, layout: str) -> int:
    """Bytes of an array in its padded layout; 0 if it is not in HBM."""
    if "S(" in layout:
        return 0
    dims = [int(n) for n in shape.split(",") if n]
    physical = [dims[int(axis)] for axis in reversed([a for a in order.split(",") if a])]
    tile = _TILE.search(layout)
    for back, extent in enumerate(
        reversed([int(n) for n in tile.groups() if n] if tile else []), 1
    ):
        if back <= len(physical):
            physical[-back] = -(-physical[-back] // extent) * extent
    return math.prod(physical) * int(re.sub(r"\D", "", kind)) // 8
