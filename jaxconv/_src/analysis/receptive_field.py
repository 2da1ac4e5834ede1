"""Receptive fields: which input pixels one output pixel of a function depends on."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from jax.extend.core import JaxprEqn, Literal

from ..geometry.spec import ConvSpec
from .dependencies import Demand, Interval, demanded, read_by_conv
from .jaxprs import flattened, trace

# Outputs differ by where they fall between the pixels of an enlarged input, and fields repeat with
# the enlargement: this many neighbours meet every case up to 64-fold.
PERIOD = 64
NOTHING = (0, -1)  # the interval without pixels, of an output that depends on none


@dataclasses.dataclass(frozen=True)
class AxisField:
    """One axis: ``size`` pixels seen, ``stride`` between the fields of neighbouring outputs.

    ``offset`` is the first pixel that output 0 sees; negative ones lie in the padding.
    """

    size: int
    stride: int | Fraction
    offset: int


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The fields of all spatial axes; ``field[i]`` is one axis."""

    axes: tuple[AxisField, ...]

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def stride(self) -> tuple[int | Fraction, ...]:
        return tuple(axis.stride for axis in self.axes)

    @property
    def offset(self) -> tuple[int, ...]:
        return tuple(axis.offset for axis in self.axes)

    def __getitem__(self, index: int) -> AxisField:
        return self.axes[index]

    def __len__(self) -> int:
        return len(self.axes)

    def __str__(self) -> str:
        stride = ", ".join(map(str, self.stride)) + ("," if len(self) == 1 else "")
        return f"size {self.size}, stride ({stride}), offset {self.offset}"


def receptive_field(
    fn: Callable[..., Any] | Sequence[ConvSpec], *args: Any, **kwargs: Any
) -> ReceptiveField:
    """The input pixels that one output pixel of ``fn(*args)`` depends on, axis by axis.

    The function is traced, not run. Its first argument with ``[N, *S, C]`` is the input, its first
    result with as many axes the output. Operations that mix whole axes, such as a global mean or a
    softmax over space, see the whole input. An output that depends on no pixel has size 0.

    Args:
        fn: A JAX function or module of one image, sequence or volume, or a sequence of
            ``ConvSpec`` applied one after the other.
        *args: Its arguments: arrays or ``jax.ShapeDtypeStruct``.
        **kwargs: Its keyword arguments.

    Returns:
        A ``ReceptiveField``: per axis ``size`` in pixels, ``stride`` in pixels an output pixel (a
        ``Fraction`` where the function enlarges), and ``offset`` of the first output's first pixel.

    Raises:
        TypeError: ``fn`` is neither callable nor a sequence of specs.
        ValueError: The function has no input or output with spatial axes, of known extents and
            with pixels, or no spec is given.

    >>> import jax.numpy as jnp, jaxconv
    >>> kernel = jnp.ones((3, 3, 1, 1))
    >>> dilated = lambda x: jaxconv.conv(jaxconv.conv(x, kernel), kernel, dilation=2)
    >>> receptive_field(dilated, jnp.ones((1, 32, 32, 1))).size
    (7, 7)

    Source: A. Araujo, W. Norris, J. Sim, "Computing receptive fields of convolutional neural
    networks" (2019).
    """
    if not callable(fn):
        return _of_specs(fn)
    jaxpr = trace(fn, *args, **kwargs)
    flat = flattened(jaxpr)
    source = _spatial(jaxpr.invars, "argument")
    result = _spatial([v for v in flat.outvars if not isinstance(v, Literal)], "result")
    if result.aval.ndim != source.aval.ndim:
        raise ValueError(
            f"receptive_field: the result must have the argument's spatial axes, but got "
            f"{result.aval.shape} from {source.aval.shape}"
        )

    return field_of(flat.eqns, source, result)


def field_of(
    eqns: Sequence[JaxprEqn], source: Any, result: Any, period: int | None = None
) -> ReceptiveField:
    """The field of one variable of a flat program, in another; both ``[N, *S, C]``."""
    rank = source.aval.ndim - 2

    @functools.cache
    def field(index: int) -> Demand:
        demand: Demand = (None, *((index, index),) * rank, None)
        demands = demanded(eqns, {result: demand})
        return demands[source] if source in demands else (NOTHING,) * (rank + 2)

    fields = [lambda i, axis=axis: field(i)[axis + 1] for axis in range(rank)]
    shapes = source.aval.shape[1:-1], result.aval.shape[1:-1]
    return _measure(fields, *shapes, period or PERIOD)


def _of_specs(specs: Any) -> ReceptiveField:
    if not isinstance(specs, Sequence) or not all(isinstance(spec, ConvSpec) for spec in specs):
        given = type(specs).__qualname__
        raise TypeError(
            f"receptive_field: give a function and its arguments, or a sequence of ConvSpec, but "
            f"got {given}"
        )
    if not specs:
        raise ValueError("receptive_field: give one ConvSpec or more, but got none")
    if len({spec.rank for spec in specs}) > 1:
        raise ValueError("receptive_field: the specs must have the same number of spatial axes")

    def field(index: int, axis: int) -> Interval:
        interval: Interval = (index, index)
        for spec in reversed(specs):
            interval = read_by_conv(interval, spec, axis)
        return interval

    rank = specs[0].rank
    fields = [lambda i, axis=axis: field(i, axis) for axis in range(rank)]
    return _measure(fields, specs[0].input_spatial, specs[-1].output_spatial)


def _spatial(variables: Sequence[Any], what: str) -> Any:
    for variable in variables:
        if 3 <= getattr(variable.aval, "ndim", 0) <= 5:
            return _known(variable, what)
    raise ValueError(f"receptive_field: no {what} is [N, *S, C] with 1 to 3 spatial axes")


def _known(variable: Any, what: str) -> Any:
    shape = variable.aval.shape
    if not all(isinstance(n, int) for n in shape[1:-1]):
        raise ValueError(
            f"receptive_field: spatial extents must be known, but those of the {what} are symbolic "
            f"{shape}; trace the function on extents like those it will see"
        )
    return variable


def _measure(
    fields: Sequence[Callable[[int], Interval]],
    inputs: Sequence[int],
    outputs: Sequence[int],
    longest: int = PERIOD,
) -> ReceptiveField:
    axes = zip(fields, inputs, outputs, strict=True)
    return ReceptiveField(tuple(_measure_axis(*axis, longest) for axis in axes))


def _measure_axis(
    field: Callable[[int], Interval], inputs: int, outputs: int, longest: int
) -> AxisField:
    """Measures about the middle, where no materialised border is in the way."""
    if not outputs:
        raise ValueError(
            "receptive_field: the result must have pixels, but a spatial axis is empty"
        )
    half = outputs - outputs // 2
    count = next(p for p in range(longest, 0, -1) if longest % p == 0 and p <= half)
    start = (outputs - count) // 2
    windows = [field(start + i) for i in range(count + 1)]
    known = [window for window in windows if window is not None]
    if windows[0] is None or windows[-1] is None:
        return AxisField(inputs, 0, 0)
    stride = _stride([low for low, _ in known])
    size = max(high - low + 1 for low, high in known[:count])
    offset = min(
        math.floor(window[0] - stride * (start + i)) for i, window in enumerate(windows) if window
    )
    return AxisField(size, stride.numerator if stride.denominator == 1 else stride, offset)


def _stride(lows: Sequence[int]) -> Fraction:
    """Input pixels an output, of fields that begin at ``lows``: those of the shortest period."""
    steps = [
        {later - low for low, later in zip(lows, lows[period:], strict=False)}
        for period in range(1, len(lows))
    ]
    period, step = next((p, each) for p, each in enumerate(steps, 1) if len(each) == 1)
    return Fraction(step.pop(), period)
