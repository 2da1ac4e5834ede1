"""Which elements of a function's arguments a part of its result depends on.

Found from the program, backwards: a demand is an interval of indices on every axis of an array, and
each equation turns the demand on its result into demands on its operands. Where several paths meet
the demands are joined, so branches, skips, strides, pooling and transposed convolutions come out
exactly, up to the gaps of dilation, which an interval fills. What no rule knows is read whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax.extend.core import JaxprEqn, Literal

from ..geometry.spec import ConvSpec, Operator
from ..interop.recognise import recognise_equation
from ..interop.recognised_operator import RecognisedOperator
from ..primitives.rules import OPERATORS

Interval = tuple[int, int] | None  # None: the whole axis, or nothing known, which is as much
Demand = tuple[Interval, ...]


def demanded(eqns: Sequence[JaxprEqn], demands: dict[Any, Demand]) -> dict[Any, Demand]:
    """The demands on all variables of a flat program, from those on its results.

    What no result depends on has none.
    """
    for eqn in reversed(eqns):
        wanted = [demands.get(variable) for variable in eqn.outvars]
        demand = next((demand for demand in wanted if demand is not None), None)
        if demand is not None:
            for variable, read in _operands(eqn, demand):
                demands[variable] = _join(demands.get(variable), read)
    return demands


def _join(a: Demand | None, b: Demand) -> Demand:
    if a is None:
        return b
    return tuple(
        None if p is None or q is None else (min(p[0], q[0]), max(p[1], q[1]))
        for p, q in zip(a, b, strict=True)
    )


def _operands(eqn: JaxprEqn, demand: Demand) -> Iterator[tuple[Any, Demand]]:
    for position, variable in enumerate(eqn.invars):
        if isinstance(variable, Literal):
            continue
        if eqn.primitive.name == "concatenate":
            read = _concatenate(eqn, position, demand)
        else:
            read = _operand(eqn, position, variable.aval, demand)
        if read is not None:
            yield variable, read


def _operand(eqn: JaxprEqn, position: int, aval: Any, demand: Demand) -> Demand:
    """The demand on one operand; whatever no rule knows is read whole."""
    whole: Demand = (None,) * aval.ndim
    operator = OPERATORS.get(eqn.primitive)
    if operator is not None:
        return _family(operator, eqn.params["spec"], position, demand) or whole
    if eqn.primitive.name == "conv_general_dilated":
        return _lax(recognise_equation(eqn), position, demand) or whole
    rule = _RULES.get(eqn.primitive.name)
    if rule is not None:
        return rule(eqn, position, aval, demand) if position == 0 else whole
    if eqn.primitive.name in _MIXING:
        return whole
    result: Any = eqn.outvars[0].aval
    return _elementwise(aval.shape, result.shape, demand) or whole


def _elementwise(shape, result, demand: Demand) -> Demand | None:
    """Axes of extent 1 are broadcast; anything else of another shape is not elementwise."""
    if len(shape) != len(result) or any(
        n not in (1, m) for n, m in zip(shape, result, strict=True)
    ):
        return None
    return tuple(
        None if n != m else interval for n, m, interval in zip(shape, result, demand, strict=True)
    )


def _family(operator: Operator, spec: ConvSpec, position: int, demand: Demand) -> Demand | None:
    if position == 1 or operator is Operator.FILTER_GRAD:
        return None
    read = read_by_conv if operator is Operator.CONV else _read_by_input_grad
    spatial = (read(demand[axis + 1], spec, axis) for axis in range(spec.rank))
    return (demand[0], *spatial, None)


def _lax(found: RecognisedOperator | str, position: int, demand: Demand) -> Demand | None:
    if isinstance(found, str) or position == 1:
        return None
    result = tuple(demand[axis] for axis in found.result.permutation)
    canonical = _family(found.operator, found.spec, position, result)
    if canonical is None:
        return None
    back = sorted(range(len(demand)), key=found.lhs.permutation.__getitem__)
    return tuple(canonical[axis] for axis in back)


def read_by_conv(interval: Interval, spec: ConvSpec, axis: int) -> Interval:
    if interval is None:
        return None
    low = spec.padding[axis][0]
    s, reach = spec.strides[axis], spec.effective_kernel[axis] - 1
    return interval[0] * s - low, interval[1] * s - low + reach


def _read_by_input_grad(interval: Interval, spec: ConvSpec, axis: int) -> Interval:
    """Pixel i gets ``g[o]`` with ``s*o + d*t - low = i`` for some tap t."""
    if interval is None:
        return None
    low, d, s = spec.padding[axis][0], spec.dilation[axis], spec.strides[axis]
    taps = range(spec.kernel_spatial[axis])
    hits = [
        (i + low - d * t) // s
        for i in range(interval[0], interval[1] + 1)
        for t in taps
        if (i + low - d * t) % s == 0
    ]
    return (min(hits), max(hits)) if hits else (interval[0] // s, interval[1] // s)


def _transpose(eqn, position, aval, demand):
    back = sorted(range(aval.ndim), key=eqn.params["permutation"].__getitem__)
    return tuple(demand[axis] for axis in back)


def _broadcast(eqn, position, aval, demand):
    places = eqn.params["broadcast_dimensions"]
    shape = eqn.outvars[0].aval.shape
    return tuple(
        demand[place] if aval.shape[axis] == shape[place] else None
        for axis, place in enumerate(places)
    )


def _reshape(eqn, position, aval, demand):
    """Axes that the reshape leaves alone: as large, with as many elements before them."""
    kept = dict(zip(_starts(eqn.outvars[0].aval.shape), demand, strict=True))
    return tuple(kept.get(start) for start in _starts(aval.shape))


def _starts(shape) -> list[tuple[int, int, int]]:
    """Elements before each axis, its extent, and which of equal ones it is (of extent 1)."""
    starts = [(math.prod(shape[:axis]), extent) for axis, extent in enumerate(shape)]
    return [(*start, starts[:axis].count(start)) for axis, start in enumerate(starts)]


def _reduce(eqn, position, aval, demand):
    remaining = iter(demand)
    axes = eqn.params["axes"]
    return tuple(None if axis in axes else next(remaining) for axis in range(aval.ndim))


def _squeeze(eqn, position, aval, demand):
    remaining = iter(demand)
    gone = eqn.params["dimensions"]
    return tuple(None if axis in gone else next(remaining) for axis in range(aval.ndim))


def _slice(eqn, position, aval, demand):
    strides = eqn.params["strides"] or (1,) * aval.ndim
    starts = eqn.params["start_indices"]
    return tuple(
        None if interval is None else (start + s * interval[0], start + s * interval[1])
        for interval, start, s in zip(demand, starts, strides, strict=True)
    )


def _pad(eqn, position, aval, demand):
    config = eqn.params["padding_config"]
    return tuple(
        None
        if interval is None
        else (-((low - interval[0]) // (inner + 1)), (interval[1] - low) // (inner + 1))
        for interval, (low, _, inner) in zip(demand, config, strict=True)
    )


def _window(eqn, position, aval, demand):
    params = eqn.params
    axes = zip(
        demand,
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


def _dot(eqn, position, aval, demand):
    """The left operand's free axes follow its batch axes in the result; others are summed."""
    (contracting, _), (batch, _) = eqn.params["dimension_numbers"]
    free = [axis for axis in range(aval.ndim) if axis not in (*contracting, *batch)]
    places = {axis: place for place, axis in enumerate((*batch, *free))}
    return tuple(demand[places[axis]] if axis in places else None for axis in range(aval.ndim))


def _concatenate(eqn, position: int, demand: Demand) -> Demand | None:
    """The part of the demand that falls on this operand; None where it all falls on others."""
    axis = eqn.params["dimension"]
    interval = demand[axis]
    if interval is None:
        return demand
    extents = [variable.aval.shape[axis] for variable in eqn.invars]
    start = sum(extents[:position])
    low, high = max(interval[0] - start, 0), min(interval[1] - start, extents[position] - 1)
    return (*demand[:axis], (low, high), *demand[axis + 1 :]) if low <= high else None


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
_MIXING = frozenset(
    ("rev", "sort", "cumsum", "cumprod", "cummax", "cummin", "gather", "fft", "scan", "while")
)
