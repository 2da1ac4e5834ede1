"""Checks of a ``ConvSpec`` that the caller made."""

from __future__ import annotations

from typing import Any

from ..spec import MAX_ELEMENTS, MAX_STEP, ConvSpec
from .call import SPATIAL, Call, shown
from .sizes import index, integer, sequence

_PER_AXIS = ("input_spatial", "kernel_spatial", "strides", "padding", "dilation")


def spec(call: Call, value: ConvSpec) -> None:
    """Every field is an int or has one entry per spatial axis, in the range of a valid call."""
    entries = {name: sequence(getattr(value, name)) for name in _PER_AXIS}
    rank = len(entries["kernel_spatial"] or ())
    for name, each in entries.items():
        if each is None or len(each) != rank or rank not in SPATIAL:
            raise call.error(
                f"{name} of a ConvSpec must be a tuple with one entry for each of 1 to 3 spatial "
                f"axes, as many as kernel_spatial has, but got {shown(getattr(value, name))}"
            )
        for entry in each:
            _check_entry(call, name, entry)
    for name in ("batch", "in_features", "out_features", "groups"):
        minimum = 1 if name == "groups" else 0
        integer(call, f"{name} of a ConvSpec", getattr(value, name), minimum, MAX_ELEMENTS)


def _check_entry(call: Call, name: str, entry: Any) -> None:
    described = f"{name} of a ConvSpec"
    if name == "padding":
        pair = sequence(entry) or ()
        sides = [index(side) for side in pair]
        if len(pair) != 2 or any(side is None or abs(side) > MAX_STEP for side in sides):
            raise call.error(
                f"{described} must have (low, high) pairs of ints of at most {MAX_STEP:,}, but got "
                f"{shown(entry)}"
            )
    elif name in ("strides", "dilation"):
        integer(call, described, entry)
    else:
        integer(call, described, entry, 0, MAX_ELEMENTS)
