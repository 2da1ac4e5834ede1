"""Receptive fields: which input pixels one output pixel of a function depends on."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from jax.extend.core import JaxprEqn, Literal

from ..geometry import checks
from ..geometry.checks import Call
from ..geometry.spec import ConvSpec
from .dependencies import Interval, Region, Whole, needed_regions, read_by_conv
from .jaxprs import flattened, trace
from .tables import Table, Tabled

# If a function enlarges its input n-fold, n neighboring outputs have different fields, because
# they lie differently between input pixels; then the fields repeat. Up to so many are compared.
MAX_ENLARGEMENT = 64
EMPTY = (0, -1)  # the field of an output that depends on no pixel


@dataclasses.dataclass(frozen=True)
class AxisField:
    """The field on one axis, in input pixels.

    ``size`` is how many pixels an output depends on, ``stride`` the distance between the fields of
    neighboring outputs, and ``offset`` the first pixel of output 0; if negative, it is padding.
    If ``whole``, every output counts as depending on all pixels of the axis, from pixel 0, and
    ``through`` names the operations of the traced program that read it whole.
    """

    size: int
    stride: int | Fraction
    offset: int
    whole: bool = False
    through: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """Why the field is the whole axis; empty if it is not."""
        through = f" (through {', '.join(self.through)})" if self.through else ""
        return f"whole input{through}" if self.whole else ""


@dataclasses.dataclass(frozen=True, repr=False)
class ReceptiveField(Tabled):
    """The field on all spatial axes; ``field[i]`` is the one on axis ``i``. Prints as a table."""

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

    def parts(self) -> list[Table]:
        head = ("axis", "size", "stride", "offset")
        rows = [(at, axis.size, axis.stride, axis.offset) for at, axis in enumerate(self.axes)]
        if not any(axis.whole for axis in self.axes):
            return [Table(head, rows)]
        noted = [(*row, axis.note) for row, axis in zip(rows, self.axes, strict=True)]
        return [Table((*head, "note"), noted)]

    def __str__(self) -> str:
        """One line."""
        stride = ", ".join(map(str, self.stride)) + ("," if len(self) == 1 else "")
        notes = [f"axis {at}: {axis.note}" for at, axis in enumerate(self.axes) if axis.whole]
        field = f"size {self.size}, stride ({stride}), offset {self.offset}"
        return "; ".join((field, *notes))


def receptive_field(
    fn: Callable[..., Any] | Sequence[ConvSpec], *args: Any, **kwargs: Any
) -> ReceptiveField:
    """The input pixels that one output pixel of ``fn(*args)`` depends on, axis by axis.

    The function is traced, not run. Its input is the first argument, its output the first result
    with shape ``[N, *S, C]``. Operations that mix whole axes, such as a global mean or a softmax
    over space, see the whole input. So do operations that the analysis does not know, such as loops
    and callbacks; the field may therefore be too large, but never too small. The result names these
    operations. All branches of a cond count. If an output depends on no pixel, the size is 0.

    Args:
        fn: A JAX function or module of one image, sequence or volume, or a sequence of
            ``ConvSpec`` applied one after the other.
        *args: Its arguments: arrays or ``jax.ShapeDtypeStruct``.
        **kwargs: Its keyword arguments.

    Returns:
        A ``ReceptiveField``: per axis ``size`` in pixels, ``stride`` in input pixels per output
        pixel (a ``Fraction`` if the function enlarges its input), ``offset``, the first pixel
        that the first output depends on, and ``whole``, whether it is the whole axis; then the
        stride and offset are 0, and ``through`` names the operations that read it whole.

    Raises:
        TypeError: ``fn`` is neither callable nor a sequence of specs.
        ValueError: No argument or no result has such a shape, their numbers of axes differ, their
            extents are symbolic or 0, or no spec is given.

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
    eqns: Sequence[JaxprEqn], source: Any, result: Any, neighbors: int = MAX_ENLARGEMENT
) -> ReceptiveField:
    """The field of the variable ``result`` of a flat program in ``source``; both ``[N, *S, C]``.

    Fields of ``neighbors`` outputs are compared.
    """
    rank = source.aval.ndim - 2
    nothing: Region = (EMPTY,) * (rank + 2)

    @functools.cache
    def region_read(index: int) -> Region:
        pixel: Region = (Whole(), *((index, index),) * rank, Whole())
        return needed_regions(eqns, {result: pixel}).get(source, nothing)

    fields = [lambda i, axis=axis: region_read(i)[axis + 1] for axis in range(rank)]
    return _measure(fields, source.aval.shape[1:-1], result.aval.shape[1:-1], neighbors)


def _of_specs(specs: Any) -> ReceptiveField:
    several = isinstance(specs, Sequence) and not isinstance(specs, memoryview)
    if not several or not all(isinstance(spec, ConvSpec) for spec in specs):
        raise TypeError(
            f"receptive_field: give a function and its arguments, or a sequence of ConvSpec, but "
            f"got {type(specs).__qualname__}"
        )
    if not specs:
        raise ValueError("receptive_field: give one ConvSpec or more, but got none")
    for spec in specs:
        checks.spec(Call("receptive_field"), spec)
    if len(ranks := {spec.rank for spec in specs}) > 1:
        raise ValueError(
            f"receptive_field: all specs must have the same number of spatial axes, but got specs "
            f"with {' and '.join(map(str, sorted(ranks)))}"
        )

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
    raise ValueError(f"receptive_field: no {what} has shape [N, *S, C] with 1 to 3 spatial axes")


def _known(variable: Any, what: str) -> Any:
    shape = variable.aval.shape
    if not all(isinstance(n, int) for n in shape[1:-1]):
        raise ValueError(
            f"receptive_field: spatial extents must be known, but the {what} has the symbolic "
            f"shape {shape}; trace the function with typical extents"
        )
    return variable


def _measure(
    fields: Sequence[Callable[[int], Interval]],
    inputs: Sequence[int],
    outputs: Sequence[int],
    neighbors: int = MAX_ENLARGEMENT,
) -> ReceptiveField:
    axes = zip(fields, inputs, outputs, strict=True)
    return ReceptiveField(tuple(_measure_axis(*axis, neighbors) for axis in axes))


def _measure_axis(
    field: Callable[[int], Interval], inputs: int, outputs: int, neighbors: int
) -> AxisField:
    """Measures around the middle of the output, away from borders such as reflected ones."""
    if not outputs:
        raise ValueError(
            "receptive_field: the result must have pixels, but one of its spatial axes is empty"
        )
    half = outputs - outputs // 2
    count = next(n for n in range(neighbors, 0, -1) if neighbors % n == 0 and n <= half)
    start = (outputs - count) // 2
    windows = [field(start + i) for i in range(count + 1)]
    wholes = [window for window in windows if isinstance(window, Whole)]
    if wholes:
        through = frozenset().union(*(window.through for window in wholes))
        return AxisField(inputs, 0, 0, whole=True, through=tuple(sorted(through)))
    known = [window for window in windows if not isinstance(window, Whole)]
    stride = _stride([low for low, _ in known])
    size = max(high - low + 1 for low, high in known[:count])
    offset = min(math.floor(low - stride * (start + i)) for i, (low, _) in enumerate(known))
    return AxisField(size, stride.numerator if stride.denominator == 1 else stride, offset)


def _stride(lows: Sequence[int]) -> Fraction:
    """Input pixels per output, from the first pixels of neighboring fields.

    Their steps repeat with a period, and the shortest one that fits is taken.
    """
    steps = [
        {later - low for low, later in zip(lows, lows[period:], strict=False)}
        for period in range(1, len(lows))
    ]
    period, step = next((p, each) for p, each in enumerate(steps, 1) if len(each) == 1)
    return Fraction(step.pop(), period)
