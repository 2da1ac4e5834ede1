"""Which elements of a function's arguments a part of its result depends on.

A region is an interval of indices on every axis of an array. Going backwards through the program,
each equation turns the region of its result that is needed into the regions of its operands that
are needed. Where several paths meet, the regions are joined. Branches, skips, strides, pooling and
transposed convolutions therefore come out exactly, except that an interval fills the gaps of
dilation. An operation without a rule here is taken to read its operands whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax.extend.core import JaxprEqn, Literal

from ..geometry.spec import ConvSpec, Operator
from ..interop.recognize import recognize_equation
from ..interop.recognized_operator import RecognizedOperator
from ..primitives.fused import fused_conv_p
from ..primitives.rules import OPERATORS

Interval = tuple[int, int] | None  # first and last index; None: the whole axis, or unknown
Region = tuple[Interval, ...]


def needed_regions(eqns: Sequence[JaxprEqn], results: dict[Any, Region]) -> dict[Any, Region]:
    """For each variable of a flat program, the region that the regions in ``results`` depend on.

    Variables that they do not depend on are absent.
    """
    regions = dict(results)
    for eqn in reversed(eqns):
        of_results = [regions.get(variable) for variable in eqn.outvars]
        region = next((region for region in of_results if region is not None), None)
        if region is not None:
            for variable, read in _operands(eqn, region):
                regions[variable] = _join(regions.get(variable), read)
    return regions


def _join(a: Region | None, b: Region) -> Region:
    if a is None:
        return b
    return tuple(
        None if p is None or q is None else (min(p[0], q[0]), max(p[1], q[1]))
        for p, q in zip(a, b, strict=True)
    )


def _operands(eqn: JaxprEqn, region: Region) -> Iterator[tuple[Any, Region]]:
    for position, variable in enumerate(eqn.invars):
        if isinstance(variable, Literal):
            continue
        if eqn.primitive.name == "concatenate":
            read = _concatenate(eqn, position, region)
        else:
            read = _operand(eqn, position, variable.aval, region)
        if read is not None:
            yield variable, read


def _operand(eqn: JaxprEqn, position: int, aval: Any, region: Region) -> Region:
    """The region that an equation reads of one operand."""
    whole: Region = (None,) * aval.ndim
    operator = OPERATORS.get(eqn.primitive)
    if operator is not None:
        return _jaxconv(operator, eqn.params["spec"], position, region) or whole
    if eqn.primitive is fused_conv_p:
        return _fused(eqn, position, region) or whole
    if eqn.primitive.name == "conv_general_dilated":
        return _lax(recognize_equation(eqn), position, region) or whole
    rule = _RULES.get(eqn.primitive.name)
    if rule is not None:
        return rule(eqn, position, aval, region) if position == 0 else whole
    if eqn.primitive.name in _READ_WHOLE:
        return whole
    result: Any = eqn.outvars[0].aval
    return _elementwise(aval.shape, result.shape, region) or whole


def _elementwise(shape, result, region: Region) -> Region | None:
    """Axes of extent 1 are broadcast; None if the shapes are not those of such an operation."""
    if len(shape) != len(result) or any(
        n not in (1, m) for n, m in zip(shape, result, strict=True)
    ):
        return None
    return tuple(
        None if n != m else interval for n, m, interval in zip(shape, result, region, strict=True)
    )


def _fused(eqn: JaxprEqn, position: int, region: Region) -> Region | None:
    """A residual is read where the result is, the other operands as by a convolution."""
    names = ("x", "kernel", *eqn.params["epilogue"].operands)
    if names[position] == "residual":
        return region
    return _jaxconv(Operator.CONV, eqn.params["spec"], position, region) if position < 2 else None


def _jaxconv(operator: Operator, spec: ConvSpec, position: int, region: Region) -> Region | None:
    if position == 1 or operator is Operator.FILTER_GRAD:
        return None
    read = read_by_conv if operator is Operator.CONV else _read_by_input_grad
    spatial = (read(region[axis + 1], spec, axis) for axis in range(spec.rank))
    return (region[0], *spatial, None)


def _lax(conv: RecognizedOperator | str, position: int, region: Region) -> Region | None:
    if isinstance(conv, str) or position == 1:
        return None
    result = tuple(region[axis] for axis in conv.result.permutation)
    canonical = _jaxconv(conv.operator, conv.spec, position, result)
    if canonical is None:
        return None
    back = sorted(range(len(region)), key=conv.lhs.permutation.__getitem__)
    return tuple(canonical[axis] for axis in back)


def read_by_conv(interval: Interval, spec: ConvSpec, axis: int) -> Interval:
    """Output ``o`` reads pixels ``s*o - low`` to ``s*o - low + d*(k - 1)``."""
    if interval is None:
        return None
    low = spec.padding[axis][0]
    s, reach = spec.strides[axis], spec.effective_kernel[axis] - 1
    return interval[0] * s - low, interval[1] * s - low + reach


def _read_by_input_grad(interval: Interval, spec: ConvSpec, axis: int) -> Interval:
    """Pixel ``i`` reads ``g[o]`` where ``s*o + d*t - low = i`` for some tap ``t``."""
    if interval is None:
        return None
    low, d, s = spec.padding[axis][0], spec.dilation[axis], spec.strides[axis]
    taps = range(spec.kernel_spatial[axis])
    reads = [
        (i + low - d * t) // s
        for i in range(interval[0], interval[1] + 1)
        for t in taps
        if (i + low - d * t) % s == 0
    ]
    return (min(reads), max(reads)) if reads else (interval[0] // s, interval[1] // s)


def _transpose(eqn, position, aval, region):
    back = sorted(range(aval.ndim), key=eqn.params["permutation"].__getitem__)
    return tuple(region[axis] for axis in back)


def _broadcast(eqn, position, aval, region):
    places = eqn.params["broadcast_dimensions"]
    shape = eqn.outvars[0].aval.shape
    return tuple(
        region[place] if aval.shape[axis] == shape[place] else None
        for axis, place in enumerate(places)
    )


def _reshape(eqn, position, aval, region):
    """The region is kept on axes that a reshape leaves alone; others are read whole.

    Such an axis has the same extent, and as many elements before it.
    """
    kept = dict(zip(_starts(eqn.outvars[0].aval.shape), region, strict=True))
    return tuple(kept.get(start) for start in _starts(aval.shape))


def _starts(shape) -> list[tuple[int, int, int]]:
    """Per axis: elements before it, its extent, and its place among equal axes of extent 1."""
    starts = [(math.prod(shape[:axis]), extent) for axis, extent in enumerate(shape)]
    return [(*start, starts[:axis].count(start)) for axis, start in enumerate(starts)]


def _reduce(eqn, position, aval, region):
    remaining = iter(region)
    axes = eqn.params["axes"]
    return tuple(None if axis in axes else next(remaining) for axis in range(aval.ndim))


def _squeeze(eqn, position, aval, region):
    remaining = iter(region)
    removed = eqn.params["dimensions"]
    return tuple(None if axis in removed else next(remaining) for axis in range(aval.ndim))


def _slice(eqn, position, aval, region):
    strides = eqn.params["strides"] or (1,) * aval.ndim
    starts = eqn.params["start_indices"]
    return tuple(
        None if interval is None else (start + s * interval[0], start + s * interval[1])
        for interval, start, s in zip(region, starts, strides, strict=True)
    )


def _pad(eqn, position, aval, region):
    config = eqn.params["padding_config"]
    return tuple(
        None
        if interval is None
        else (-((low - interval[0]) // (inner + 1)), (interval[1] - low) // (inner + 1))
        for interval, (low, _, inner) in zip(region, config, strict=True)
    )


def _window(eqn, position, aval, region):
    params = eqn.params
    axes = zip(
        region,
        params["window_dimensions"],
        params["window_strides"],
        params["padding"],
        params["window_dilation"],
        strict=True,
    )
    return tuple(
        None if interval is None else (interval[0] * s - low, interval[1] * s - low + d * (k - 1))
        for interval, k, s, (low, _), d in axes
    )


def _dot(eqn, position, aval, region):
    """In the result the left operand's free axes follow its batch axes; the rest are summed."""
    (contracting, _), (batch, _) = eqn.params["dimension_numbers"]
    free = [axis for axis in range(aval.ndim) if axis not in (*contracting, *batch)]
    places = {axis: place for place, axis in enumerate((*batch, *free))}
    return tuple(region[places[axis]] if axis in places else None for axis in range(aval.ndim))


def _concatenate(eqn, position: int, region: Region) -> Region | None:
    """The part of the region that lies in this operand; None if there is none."""
    axis = eqn.params["dimension"]
    interval = region[axis]
    if interval is None:
        return region
    extents = [variable.aval.shape[axis] for variable in eqn.invars]
    start = sum(extents[:position])
    low, high = max(interval[0] - start, 0), min(interval[1] - start, extents[position] - 1)
    return (*region[:axis], (low, high), *region[axis + 1 :]) if low <= high else None


_RULES: dict[str, Callable] = {
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "slice": _slice,
    "pad": _pad,
    "dot_general": _dot,
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"), _reduce),
    **dict.fromkeys(("reduce_window_max", "reduce_window_sum", "reduce_window_min"), _window),
    "reduce_window": _window,
}
_READ_WHOLE = frozenset(
    ("rev", "sort", "cumsum", "cumprod", "cummax", "cummin", "gather", "fft", "scan", "while")
)
