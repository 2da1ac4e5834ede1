"""A network layer by layer: shapes, parameters, cost, implementations and receptive fields."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from ..geometry.spec import Operator
from .cost import Totals
from .deprecated import Renamed
from .equations import ConvEquation, Equation, Shape, conv_equation, intensity
from .explain import implementation_of
from .jaxprs import LOOPS, flattened, inner_jaxprs
from .receptive_field import field_of
from .tables import Table, format_shape
from .tracing import Argument, check_function, program

# How many neighboring outputs' fields are compared: enough for layers enlarged up to 4-fold.
NEIGHBOURS = 4
HEADER = (
    *("layer", "kind", "operands", "result", "runs", "parameters", "MACs", "bytes"),
    *("FLOP/byte", "implementation", "receptive field"),
)
ENTRIES = (
    *("name", "kind", "operands", "result", "runs", "parameters", "macs", "bytes"),
    *("intensity", "implementation", "receptive_field"),
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution or matrix product, or an operation with parameters that neither reads.

    ``name`` is the path of its parameters in the module, ``equation`` the operation of the traced
    program: a ``ConvEquation``, with ``operator`` and ``spec``, if it is a convolution.
    ``implementation`` is what computes it on the platform in use, with ``install`` in effect or not
    as it is now. ``receptive_field`` is the number of input pixels on each axis that one pixel of
    the result depends on; it is None if the result has no such axes, and in a loop.
    """

    name: str
    kind: str
    equation: Equation
    parameters: int
    implementation: str
    receptive_field: tuple[int, ...] | None

    kernel = Renamed("implementation")

    @property
    def operands(self) -> tuple[Shape, ...]:
        return self.equation.shapes[:-1]

    @property
    def result(self) -> Shape:
        return self.equation.shapes[-1]

    @property
    def runs(self) -> int:
        return self.equation.count

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all runs, those on padding included."""
        return self.equation.macs

    @property
    def bytes(self) -> int:
        """Bytes of operands plus result, each moved once per run; 0 if nothing is multiplied."""
        return self.equation.bytes if self.operands else 0

    @property
    def intensity(self) -> float:
        """Floating-point operations, two per multiply-accumulate, for each byte moved."""
        return intensity(self.macs, self.bytes)

    def as_dict(self) -> dict[str, Any]:
        entries = {name: getattr(self, name) for name in ENTRIES}
        return entries | {"kernel": self.implementation}  # the old name, see DEPRECATIONS.md

    def cells(self) -> tuple[object, ...]:
        operands = " ".join(map(format_shape, self.operands))
        figures = (self.runs, self.parameters, self.macs, self.bytes)
        intensity = f"{self.intensity:.1f}" if self.macs else ""
        field = format_shape(self.receptive_field) if self.receptive_field else ""
        head = (self.name, self.kind, operands, format_shape(self.result))
        return *head, *figures, intensity, self.implementation, field


@dataclasses.dataclass(frozen=True, repr=False)
class Summary(Totals):
    """The layers of a network in program order, and totals. Prints as a table."""

    layers: tuple[Layer, ...]

    def entries(self) -> Sequence[Layer]:
        return self.layers

    def as_dict(self) -> dict[str, Any]:
        """The layers and totals as plain lists, dicts and numbers."""
        return {"layers": [layer.as_dict() for layer in self.layers], **self.totals()}

    def parts(self) -> list[Table]:
        runs = sum(layer.runs for layer in self.layers)
        sums = (runs, self.parameters, self.macs, self.bytes, f"{self.intensity:.1f}")
        total = ("total", "", "", "", *sums, "", "")
        return [Table(HEADER, [*(layer.cells() for layer in self.layers), total])]


def summarize(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Summary:
    """Lists the layers of a network, and what each of them costs.

    The network is traced, not run. Its layers are its convolutions, jaxconv's and those of ``lax``,
    and its matrix products, wherever they are. Those in a scan count once per iteration, those in a
    while loop once, and all branches of a cond are listed. A parameter belongs to the layer that
    reads it, and a bias to the layer of its module; any others have a line of their own.

    Args:
        fn: A module of Flax (nnx or linen) or Equinox, whose trained arrays are the parameters; or
            a function. The first argument of a function that is an array is the input. All other
            floating-point arrays in its arguments are parameters; in a dict of Flax's collections,
            only those in ``"params"``. Arrays that a function closes over are not parameters.
        *args: Its arguments: arrays, ``jax.ShapeDtypeStruct`` or pytrees of them.
        **kwargs: Its keyword arguments.

    Returns:
        A ``Summary`` with one entry in ``layers`` per layer, and totals.

    Raises:
        TypeError: ``fn`` is not callable.

    >>> import jax.numpy as jnp, jaxconv
    >>> weights = {"first": jnp.ones((3, 3, 1, 8)), "then": jnp.ones((8, 4)), "bias": jnp.ones(4)}
    >>> def network(weights, x):
    ...     x = jaxconv.depthwise_conv(x, weights["first"], strides=2)
    ...     return jaxconv.pointwise_conv(x, weights["then"], weights["bias"])
    >>> summary = summarize(network, weights, jnp.ones((1, 32, 32, 8)))
    >>> [(layer.kind, layer.macs, layer.receptive_field) for layer in summary.layers]
    [('depthwise', 18432, (3, 3)), ('pointwise', 8192, (3, 3)), ('elementwise', 0, (3, 3))]
    >>> summary.parameters
    108

    Source: none; this is the project's own. Sources of the measures: see ``receptive_field`` and
    ``cost``.
    """
    check_function("summarize", fn)
    traced = program(fn, *args, **kwargs)
    arguments = dict(zip(traced.jaxpr.invars, traced.arguments, strict=True))
    flat = flattened(traced.jaxpr)
    origins: Origins = {
        variable: frozenset((variable,)) if argument.parameter or argument.path else None
        for variable, argument in arguments.items()
    }
    bare = (v for v, (path, trained) in arguments.items() if not (path or trained))
    source = next(bare, None)
    readings = []
    for at, reading in _readings(flat.eqns, origins, 1):
        field = None if at is None else _field(flat.eqns[: at + 1], source, reading)
        readings.append(dataclasses.replace(reading, field=field))
    return Summary(tuple(_layers(readings, arguments)))


# The arguments that a value was computed from; None if the input is among them.
Origin = frozenset[Any] | None
Origins = dict[Any, Origin]


@dataclasses.dataclass(frozen=True)
class _Reading:
    """An equation that multiplies, or that reads arguments in addition to the input."""

    eqn: JaxprEqn
    count: int
    reads: frozenset[Any]
    conv: ConvEquation | None
    field: tuple[int, ...] | None = None

    @property
    def multiplies(self) -> bool:
        """Whether it is a convolution or a matrix product."""
        return self.conv is not None or self.eqn.primitive.name == "dot_general"

    @property
    def result_size(self) -> int:
        return math.prod(self.eqn.outvars[0].aval.shape)  # pyright: ignore[reportAttributeAccessIssue]


def _readings(
    eqns: Sequence[JaxprEqn], origins: Origins, count: int
) -> Iterator[tuple[int | None, _Reading]]:
    """All readings in program order, each with its equation's index unless it is in a loop."""
    for at, eqn in enumerate(eqns):
        sources = [origins.get(v, frozenset()) for v in eqn.invars if not isinstance(v, Literal)]
        of_input = any(origin is None for origin in sources)
        reads = frozenset().union(*(origin for origin in sources if origin))
        origins.update(dict.fromkeys(eqn.outvars, None if of_input else reads))
        if eqn.primitive.name in LOOPS:
            for inner in inner_jaxprs(eqn):
                yield from ((None, reading) for reading in _inside(eqn, inner, origins, count))
            continue
        reading = _Reading(eqn, count, reads, conv_equation(eqn, count))
        if reading.multiplies or (of_input and reads):
            yield at, reading


def _inside(eqn: JaxprEqn, inner: Jaxpr, origins: Origins, count: int) -> Iterator[_Reading]:
    """A loop's body takes the last of the loop's operands; a branch, all but the cond's index."""
    operands = eqn.invars[len(eqn.invars) - len(inner.invars) :]
    bound: Origins = {
        variable: frozenset() if isinstance(operand, Literal) else origins.get(operand, frozenset())
        for variable, operand in zip(inner.invars, operands, strict=True)
    }
    repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    for _, reading in _readings(flattened(inner).eqns, bound, count * repeats):
        yield reading


def _layers(readings: Sequence[_Reading], arguments: dict[Any, Argument]) -> Iterator[Layer]:
    """The convolutions and matrix products, and the other readings that own parameters."""
    owned: dict[int | None, list[Any]] = {}
    for variable, argument in arguments.items():
        if argument.parameter:
            owned.setdefault(_owner(variable, readings, arguments), []).append(variable)
    for at, reading in enumerate(readings):
        own = owned.get(at, [])
        if reading.multiplies or own:
            yield _layer(reading, own, arguments)
    for variable in owned.get(None, []):
        equation = _equation((variable,), macs=0, count=0)
        yield Layer(arguments[variable].path, "unused", equation, _size([variable]), "", None)


def _owner(variable: Any, readings: Sequence[_Reading], arguments: dict[Any, Argument]):
    """The index of the reading that a parameter is counted with; None if nothing reads it.

    This is the first product that reads it; otherwise, as for a bias, the last product that reads
    a parameter of the same module; otherwise the largest reading of that module.
    """
    readers = [at for at, reading in enumerate(readings) if variable in reading.reads]
    if products := [at for at in readers if readings[at].multiplies]:
        return products[0]
    module = _module(arguments[variable])
    siblings = [
        at
        for at, reading in enumerate(readings)
        if module and any(_module(arguments[other]) == module for other in reading.reads)
    ]
    if readers and (products := [at for at in siblings if readings[at].multiplies]):
        return products[-1]
    # The largest result is a normalization's own, rather than that of its running mean.
    return max(siblings or readers, key=lambda at: readings[at].result_size) if readers else None


def _module(argument: Argument) -> str:
    """The path of the module that holds an array: ``conv`` for ``conv.kernel``."""
    return argument.path.rpartition(".")[0]


def _size(variables: Sequence[Any]) -> int:
    return sum(math.prod(variable.aval.shape) for variable in variables)


def _layer(reading: _Reading, own: Sequence[Any], arguments: dict[Any, Argument]) -> Layer:
    owners = own or sorted(reading.reads, key=lambda variable: arguments[variable].path)
    name = next((_module(arguments[v]) or arguments[v].path for v in owners), "")
    kind, equation, implementation = _operation(reading)
    return Layer(name, kind, equation, _size(own), implementation, reading.field)


def _operation(reading: _Reading) -> tuple[str, Equation, str]:
    """A reading's kind, equation and implementation."""
    eqn, conv = reading.eqn, reading.conv
    if conv is not None:
        return conv.kind, conv, implementation_of(conv)
    if reading.multiplies:
        kind = "dense" if reading.reads else "matrix product"
        equation = _equation((*eqn.invars, *eqn.outvars), _dot_macs(eqn), reading.count)
        return kind, equation, eqn.primitive.name
    kind = "gather" if eqn.primitive.name == "gather" else "elementwise"
    return kind, _equation(eqn.outvars[:1], 0, reading.count), ""


def _equation(variables: Sequence[Any], macs: int, count: int) -> Equation:
    avals = [variable.aval for variable in variables]
    return Equation(
        shapes=tuple(tuple(aval.shape) for aval in avals),
        dtypes=tuple(aval.dtype for aval in avals),
        macs_per_run=macs,
        count=count,
    )


def _dot_macs(eqn: JaxprEqn) -> int:
    """Of one run: every entry of ``a`` meets every entry of ``b``'s free axes."""
    a, b = (v.aval.shape for v in eqn.invars)  # pyright: ignore[reportAttributeAccessIssue]
    (_, contracting), (_, batch) = eqn.params["dimension_numbers"]
    free = (n for axis, n in enumerate(b) if axis not in (*contracting, *batch))
    return math.prod(a) * math.prod(free)


def _field(eqns: Sequence[JaxprEqn], source: Any, reading: _Reading) -> tuple[int, ...] | None:
    result: Any = reading.eqn.outvars[0]
    if source is None or not 3 <= source.aval.ndim == result.aval.ndim <= 5:
        return None
    if reading.conv is not None and reading.conv.operator is Operator.FILTER_GRAD:
        return None
    return field_of(eqns, source, result, NEIGHBOURS).size
