"""Which elements of a function's arguments a part of its result depends on.

A region is an interval of indices on every axis of an array. Going backwards through the program,
each equation turns the regions of its results that are needed into the regions of its operands that
are needed. Where several paths meet, the regions are joined. Branches, skips, strides, pooling and
transposed convolutions therefore come out exactly, except that an interval fills the gaps of
dilation.

Regions may be too large, but never too small: an operation without a rule here is taken to read its
operands whole, and the names of such operations are kept with the axis.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax.core import ShapedArray
from jax.extend.core import JaxprEqn, Literal

from ..geometry.spec import ConvSpec, Operator
from ..interop.recognize import recognize_equation
from ..interop.recognized_operator import RecognizedOperator
from ..primitives.fused import fused_conv_p
from ..primitives.packed import packed_conv_p
from ..primitives.rules import OPERATORS
from ..primitives.segments import segments_p
from .jaxprs import flattened


@dataclasses.dataclass(frozen=True)
class Whole:
    """All indices of an axis; ``through`` are the names of the operations that read it whole."""

    through: frozenset[str] = frozenset()


Interval = tuple[int, int] | Whole  # first and last index, or the whole axis
Region = tuple[Interval, ...]


def needed_regions(eqns: Sequence[JaxprEqn], results: dict[Any, Region]) -> dict[Any, Region]:
    """For each variable of a flat program, the region that the regions in ``results`` depend on.

    Variables that they do not depend on are absent.
    """
    regions = dict(results)
    for eqn in reversed(eqns):
        for variable, read in _reads(eqn, regions):
            _add(regions, variable, read)
    return regions


def _add(regions: dict[Any, Region], variable: Any, region: Region) -> None:
    regions[variable] = _join(regions[variable], region) if variable in regions else region


def _join(a: Region, b: Region) -> Region:
    return tuple(_join_axis(p, q) for p, q in zip(a, b, strict=True))


def _join_axis(p: Interval, q: Interval) -> Interval:
    if isinstance(p, Whole) or isinstance(q, Whole):
        causes = (each.through for each in (p, q) if isinstance(each, Whole))
        return Whole(frozenset().union(*causes))
    return min(p[0], q[0]), max(p[1], q[1])


def _reads(eqn: JaxprEqn, regions: dict[Any, Region]) -> Iterator[tuple[Any, Region]]:
    """The operands that an equation reads for the needed regions, each with its own region."""
    operands = [(at, v) for at, v in enumerate(eqn.invars) if not isinstance(v, Literal)]
    results = [regions.get(variable) for variable in eqn.outvars]
    needed = [region for region in results if region is not None]
    if any(_is_mutable(v) for _, v in operands):
        # A write has no result that is read later: what is read is the mutable array itself.
        if needed or any(v in regions for _, v in operands if _is_mutable(v)):
            yield from ((v, _whole(eqn, v.aval)) for _, v in operands)
    elif not needed:
        return
    elif eqn.primitive.name == "cond":
        yield from _cond(eqn, results)
    elif eqn.primitive.name in _ITEM_BY_ITEM:
        yield from ((v, region) for at, v in operands if (region := results[at]) is not None)
    elif eqn.primitive.name == "concatenate":
        reads = ((v, _concatenate(eqn, at, needed[0])) for at, v in operands)
        yield from ((v, read) for v, read in reads if read is not None)
    elif eqn.primitive.name in ("split", "unstack"):
        (_, operand), rule = operands[0], _RULES[eqn.primitive.name]
        for at, region in enumerate(results):
            if region is not None:
                yield operand, rule(eqn, at, operand.aval, region)
    elif len({len(region) for region in needed}) > 1:
        yield from ((v, _whole(eqn, v.aval)) for _, v in operands)
    else:
        region = functools.reduce(_join, needed)
        yield from ((v, _operand(eqn, at, v.aval, region)) for at, v in operands)


def _is_mutable(variable: Any) -> bool:
    """Whether a variable is a mutable array, which equations may write to."""
    return not isinstance(variable.aval, ShapedArray)


def _whole(eqn: JaxprEqn, aval: Any) -> Region:
    return (_whole_axis(eqn),) * getattr(aval, "ndim", 0)


def _whole_axis(eqn: JaxprEqn) -> Whole:
    return Whole(frozenset((eqn.primitive.name,)))


def _cond(eqn: JaxprEqn, results: Sequence[Region | None]) -> Iterator[tuple[Any, Region]]:
    """The index of the branch, and what any of the branches reads."""
    index, *operands = eqn.invars
    if not isinstance(index, Literal):
        yield index, ()
    for branch in eqn.params["branches"]:
        flat = flattened(branch.jaxpr)
        needed: dict[Any, Region] = {}
        for variable, region in zip(flat.outvars, results, strict=True):
            if region is not None and not isinstance(variable, Literal):
                _add(needed, variable, region)
        reads = needed_regions(flat.eqns, needed)
        for inner, operand in zip(branch.jaxpr.invars, operands, strict=True):
            if inner in reads and not isinstance(operand, Literal):
                yield operand, reads[inner]


def _operand(eqn: JaxprEqn, position: int, aval: Any, region: Region) -> Region:
    """The region that an equation reads of one operand for this region of its results."""
    whole = _whole(eqn, aval)
    operator = OPERATORS.get(eqn.primitive)
    if operator is not None:
        return _jaxconv(operator, eqn.params["spec"], position, region, whole)
    if eqn.primitive in (fused_conv_p, packed_conv_p):
        return _fused(eqn, position, region, whole)
    if eqn.primitive is segments_p:
        return _segments(eqn, position, region, whole)
    name = eqn.primitive.name
    if name == "conv_general_dilated":
        return _lax(recognize_equation(eqn), position, region, whole)
    if not aval.ndim:
        return ()
    if name in _ELEMENTWISE:
        return _elementwise(eqn, aval, region)
    rule = _RULES.get(name)
    return whole if rule is None else rule(eqn, position, aval, region)


def _elementwise(eqn: JaxprEqn, aval: Any, region: Region) -> Region:
    """Axes of extent 1 are broadcast; whole if the shapes are not those of such an operation."""
    result: Any = eqn.outvars[0].aval
    pairs = list(zip(aval.shape, result.shape, strict=False))
    if aval.ndim != result.ndim or any(n not in (1, m) for n, m in pairs):
        return _whole(eqn, aval)
    whole = _whole_axis(eqn)
    axes = zip(pairs, region, strict=True)
    return tuple(interval if n == m else whole for (n, m), interval in axes)


def _fused(eqn: JaxprEqn, position: int, region: Region, whole: Region) -> Region:
    """A residual is read where the result is, the other operands as by a convolution."""
    if position < 2:
        return _jaxconv(Operator.CONV, eqn.params["spec"], position, region, whole)
    names = (*eqn.params["epilogue"].operands, "packed")
    return region if names[position - 2] == "residual" else whole


def _segments(eqn: JaxprEqn, position: int, region: Region, whole: Region) -> Region:
    """Of the steps, those of the same convolution without segments: ids may all be equal."""
    if position != 0:
        return whole
    spec = eqn.params["spec"]
    x: Any = eqn.invars[0].aval
    before = x.shape[1] - spec.input_spatial[0]
    low, high = spec.padding[0]
    moved = spec.replace(padding=((low - before, high),))
    return _jaxconv(Operator.CONV, moved, position, region, whole)


def _jaxconv(
    operator: Operator, spec: ConvSpec, position: int, region: Region, whole: Region
) -> Region:
    if position == 1 or operator is Operator.FILTER_GRAD:
        return whole
    read = read_by_conv if operator is Operator.CONV else _read_by_input_grad
    batch = len(spec.leading)
    spatial = (read(region[batch + 1 + axis], spec, axis) for axis in range(spec.rank))
    return (*region[: batch + 1], *spatial, whole[-1])


def _lax(conv: RecognizedOperator | str, position: int, region: Region, whole: Region) -> Region:
    if isinstance(conv, str) or position == 1 or conv.operator is Operator.FILTER_GRAD:
        return whole
    result = tuple(region[axis] for axis in conv.result.permutation)
    canonical = _jaxconv(conv.operator, conv.spec, position, result, whole)
    back = sorted(range(len(region)), key=conv.lhs.permutation.__getitem__)
    return tuple(canonical[axis] for axis in back)


def read_by_conv(interval: Interval, spec: ConvSpec, axis: int) -> Interval:
    """Output ``o`` reads pixels ``s*o - low`` to ``s*o - low + d*(k - 1)``."""
    if isinstance(interval, Whole):
        return interval
    low = spec.padding[axis][0]
    s, reach = spec.strides[axis], spec.effective_kernel[axis] - 1
    return interval[0] * s - low, interval[1] * s - low + reach


def _read_by_input_grad(interval: Interval, spec: ConvSpec, axis: int) -> Interval:
    """Pixel ``i`` reads ``g[o]`` where ``s*o + d*t - low = i`` for some tap ``t``."""
    if isinstance(interval, Whole):
        return interval
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
    whole = _whole_axis(eqn)
    return tuple(
        region[place] if aval.shape[axis] == shape[place] else whole
        for axis, place in enumerate(places)
    )


def _reshape(eqn, position, aval, region):
    """The region is kept on axes that a reshape leaves alone; others are read whole.

    Such an axis has the same extent, and as many elements before it.
    """
    if eqn.params["dimensions"] is not None:
        return _whole(eqn, aval)
    whole = _whole_axis(eqn)
    kept = dict(zip(_starts(eqn.outvars[0].aval.shape), region, strict=True))
    return tuple(kept.get(start, whole) for start in _starts(aval.shape))


def _starts(shape) -> list[tuple[int, int, int]]:
    """Per axis: elements before it, its extent, and its place among equal axes of extent 1."""
    starts = [(math.prod(shape[:axis]), extent) for axis, extent in enumerate(shape)]
    return [(*start, starts[:axis].count(start)) for axis, start in enumerate(starts)]


def _removed(name: str) -> Callable:
    """A rule for operations whose results lack the axes in the parameter ``name``."""

    def rule(eqn, position, aval, region):
        remaining, whole = iter(region), _whole_axis(eqn)
        removed = eqn.params[name]
        return tuple(whole if axis in removed else next(remaining) for axis in range(aval.ndim))

    return rule


def _mixed(name: str) -> Callable:
    """A rule for operations that mix the axes in the parameter ``name``, and no others."""

    def rule(eqn, position, aval, region):
        value, whole = eqn.params[name], _whole_axis(eqn)
        values = value if isinstance(value, tuple | list) else (value,)
        mixed = {axis % aval.ndim for axis in values}
        return tuple(whole if at in mixed else interval for at, interval in enumerate(region))

    return rule


def _fft(eqn, position, aval, region):
    count = len(eqn.params["fft_lengths"])
    return (*region[: aval.ndim - count], *_whole(eqn, aval)[aval.ndim - count :])


def _slice(eqn, position, aval, region):
    strides = eqn.params["strides"] or (1,) * aval.ndim
    starts = eqn.params["start_indices"]
    return tuple(
        interval
        if isinstance(interval, Whole)
        else (start + s * interval[0], start + s * interval[1])
        for interval, start, s in zip(region, starts, strides, strict=True)
    )


def _dynamic(eqn, position, aval, region):
    """An axis is kept if the slice has all of it: lax moves the slice's start to 0 there."""
    whole = _whole_axis(eqn)
    extents = zip(aval.shape, eqn.outvars[0].aval.shape, region, strict=True)
    return tuple(interval if n == m else whole for n, m, interval in extents)


def _scatter(eqn, position, aval, region):
    """The first operand is the array that the others change somewhere."""
    return region if position == 0 else _whole(eqn, aval)


def _pad(eqn, position, aval, region):
    config = eqn.params["padding_config"]
    return tuple(
        interval
        if isinstance(interval, Whole)
        else (-((low - interval[0]) // (inner + 1)), (interval[1] - low) // (inner + 1))
        for interval, (low, _, inner) in zip(region, config, strict=True)
    )


def _window(eqn, position, aval, region):
    """Like a convolution of an operand that is dilated by ``e``."""
    params = eqn.params
    axes = zip(
        region,
        params["window_dimensions"],
        params["window_strides"],
        params["padding"],
        params["window_dilation"],
        params["base_dilation"],
        strict=True,
    )
    return tuple(
        interval
        if isinstance(interval, Whole)
        else (-((low - interval[0] * s) // e), (interval[1] * s - low + d * (k - 1)) // e)
        for interval, k, s, (low, _), d, e in axes
    )


def _dot(eqn, position, aval, region):
    """The result has the batch axes, then both operands' free axes; the others are summed."""
    contracting, batch = (sides[position] for sides in eqn.params["dimension_numbers"])
    free = [axis for axis in range(aval.ndim) if axis not in (*contracting, *batch)]
    first = len(batch) if position == 0 else len(region) - len(free)
    places = {axis: place for place, axis in enumerate(batch)}
    places |= {axis: first + at for at, axis in enumerate(free)}
    whole = _whole_axis(eqn)
    return tuple(region[places[axis]] if axis in places else whole for axis in range(aval.ndim))


def _concatenate(eqn, position: int, region: Region) -> Region | None:
    """The part of the region that lies in this operand; None if there is none."""
    axis = eqn.params["dimension"]
    interval = region[axis]
    if isinstance(interval, Whole):
        return region
    extents = [variable.aval.shape[axis] for variable in eqn.invars]
    start = sum(extents[:position])
    low, high = max(interval[0] - start, 0), min(interval[1] - start, extents[position] - 1)
    return (*region[:axis], (low, high), *region[axis + 1 :]) if low <= high else None


def _split(eqn, result: int, aval, region):
    """The part of the operand that the region of one of the results is."""
    axis, start = eqn.params["axis"], sum(map(int, eqn.params["sizes"][:result]))
    interval = region[axis]
    if isinstance(interval, Whole):
        return region
    return (*region[:axis], (interval[0] + start, interval[1] + start), *region[axis + 1 :])


def _unstack(eqn, result: int, aval, region):
    axis = eqn.params["axis"]
    return (*region[:axis], (result, result), *region[axis:])


def _stack(eqn, position, aval, region):
    axis = eqn.params["axis"]
    return (*region[:axis], *region[axis + 1 :])


def _tile(eqn, position, aval, region):
    whole = _whole_axis(eqn)
    axes = zip(eqn.params["reps"], region, strict=True)
    return tuple(interval if count == 1 else whole for count, interval in axes)


# Result i of these is operand i.
_ITEM_BY_ITEM = frozenset(("device_put", "optimization_barrier"))

_RULES: dict[str, Callable] = {
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _removed("dimensions"),
    "slice": _slice,
    "dynamic_slice": _dynamic,
    "dynamic_update_slice": _dynamic,
    "pad": _pad,
    "split": _split,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "dot_general": _dot,
    "fft": _fft,
    "reduce": _removed("dimensions"),
    "rev": _mixed("dimensions"),
    "sort": _mixed("dimension"),
    "top_k": _mixed("axis"),
    **dict.fromkeys(("argmax", "argmin"), _removed("axes")),
    **{f"reduce_{name}": _removed("axes") for name in ("sum", "max", "min", "prod")},
    **{f"reduce_{name}": _removed("axes") for name in ("and", "or", "xor")},
    **{f"cum{name}": _mixed("axis") for name in ("sum", "prod", "max", "min", "logsumexp")},
    **{f"scatter{name}": _scatter for name in ("", "-add", "-sub", "-mul", "-min", "-max")},
    **{f"reduce_window{name}": _window for name in ("", "_max", "_min", "_sum")},
    "select_and_gather_add": _window,
}

# Entry i of their results depends on entry i of every operand alone. Only what is listed is taken
# for elementwise: equal shapes prove nothing, as those of a sort show.
_ELEMENTWISE = frozenset(
    (
        *("abs", "neg", "sign", "floor", "ceil", "round", "is_finite", "not"),
        *("add", "add_any", "sub", "mul", "mulhi", "div", "rem", "pow", "integer_pow", "square"),
        *("sqrt", "rsqrt", "cbrt", "reciprocal", "exp", "exp2", "expm1", "log", "log1p"),
        *("sin", "cos", "tan", "asin", "acos", "atan", "atan2"),
        *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "logistic"),
        *("erf", "erfc", "erf_inv", "lgamma", "digamma", "polygamma", "zeta"),
        *("igamma", "igammac", "igamma_grad_a"),
        *("regularized_incomplete_beta", "bessel_i0e", "bessel_i1e"),
        *("real", "imag", "complex", "conj", "nextafter", "reduce_precision"),
        *("max", "min", "clamp", "select_n"),
        *("eq", "ne", "ge", "gt", "le", "lt", "eq_to", "le_to", "lt_to"),
        *("and", "or", "xor", "population_count", "clz"),
        *("shift_left", "shift_right_logical", "shift_right_arithmetic"),
        *("convert_element_type", "bitcast_convert_type", "copy", "zeros_like"),
        *("stop_gradient", "name", "sharding_constraint", "layout_constraint", "reshard", "pvary"),
    )
)
