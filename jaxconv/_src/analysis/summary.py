"""A network layer by layer: shapes, parameters, multiply-accumulates, kernels, receptive fields."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from ..geometry.spec import Operator
from .cost import intensity, kind
from .explain import kernel_of
from .jaxprs import LOOPS, Found, find, flattened, inner_jaxprs
from .receptive_field import field_of
from .tables import Rows, Tabled, format_shape
from .tracing import Argument, check_function, program

# Neighbouring outputs whose fields are compared: enough for a layer enlarged up to 4-fold.
NEIGHBOURS = 4
HEADER = (
    *("layer", "kind", "operands", "result", "runs", "parameters", "MACs", "bytes"),
    *("FLOP/byte", "kernel", "receptive field"),
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution or matrix product, or parameters that neither reads; sums of all ``runs``.

    ``name`` is the path of its parameters in the module. ``macs`` counts those on padding too;
    ``bytes`` is operands plus result, each moved once. ``kernel`` is what computes it here.
    ``receptive_field`` is the number of input pixels, axis by axis, that one pixel of the result
    depends on, or None where the result has no such axes or stands in a loop.
    """

    name: str
    kind: str
    operands: tuple[tuple[int, ...], ...]
    result: tuple[int, ...]
    runs: int
    parameters: int
    macs: int
    bytes: int
    kernel: str
    receptive_field: tuple[int, ...] | None

    @property
    def intensity(self) -> float:
        """Floating-point operations, two a multiply-accumulate, for each byte moved."""
        return intensity(self.macs, self.bytes)

    def cells(self) -> tuple[object, ...]:
        field = format_shape(self.receptive_field) if self.receptive_field else ""
        operands = " ".join(map(format_shape, self.operands))
        sums = (self.runs, self.parameters, self.macs, self.bytes)
        intensity = f"{self.intensity:.1f}" if self.macs else ""
        head = (self.name, self.kind, operands, format_shape(self.result))
        return *head, *sums, intensity, self.kernel, field


@dataclasses.dataclass(frozen=True)
class Summary(Tabled):
    """The layers of a network in program order, and totals; prints as a table, in notebooks too."""

    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def bytes(self) -> int:
        return sum(layer.bytes for layer in self.layers)

    @property
    def intensity(self) -> float:
        return intensity(self.macs, self.bytes)

    def as_dict(self) -> dict[str, Any]:
        """The layers and totals as plain lists, dicts and numbers."""
        layers = [
            dataclasses.asdict(layer) | {"intensity": layer.intensity} for layer in self.layers
        ]
        totals = {"parameters": self.parameters, "macs": self.macs, "bytes": self.bytes}
        return {"layers": layers, **totals, "intensity": self.intensity}

    def table(self) -> tuple[Sequence[str], Rows]:
        sums = (sum(layer.runs for layer in self.layers), self.parameters, self.macs, self.bytes)
        total = ("total", "", "", "", *sums, f"{self.intensity:.1f}", "", "")
        return HEADER, [*(layer.cells() for layer in self.layers), total]


def summarize(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Summary:
    """Lists what a network is made of, layer by layer, and what each layer costs.

    The network is traced, not run. Its layers are its convolutions, the family's and lax's, and
    its matrix products, wherever they stand; those in a scan count once an iteration, a while
    loop's once, and all branches of a cond are listed. A parameter belongs to the layer that reads
    it, or to the one beside it, as a bias does; what belongs to none has a line of its own.

    Args:
        fn: A module of Flax (nnx or linen) or Equinox, whose trained arrays are the parameters; or
            a function. Of a function's arguments, the first array that is given by itself is the
            input, and all other floating arrays are parameters; in a dict with Flax's collections,
            those in ``"params"``. What a function closes over is none.
        *args: Its arguments: arrays, ``jax.ShapeDtypeStruct`` or pytrees of them.
        **kwargs: Its keyword arguments.

    Returns:
        A ``Summary`` with one entry in ``layers`` for each, and totals.

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

    Source: none; this is the project's own. ``receptive_field`` and ``cost`` name theirs.
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


# The arguments that a value was made of; None where the input, or a computation on it, is among it.
Origin = frozenset[Any] | None
Origins = dict[Any, Origin]


@dataclasses.dataclass(frozen=True)
class _Reading:
    """An equation that is a convolution or matrix product, or reads arguments beside the input."""

    eqn: JaxprEqn
    count: int
    reads: frozenset[Any]
    found: Found | None
    field: tuple[int, ...] | None = None

    @property
    def product(self) -> bool:
        return self.found is not None or self.eqn.primitive.name == "dot_general"


def _readings(
    eqns: Sequence[JaxprEqn], origins: Origins, count: int
) -> Iterator[tuple[int | None, _Reading]]:
    """All readings in program order, each with its equation's index where it is in no loop."""
    for at, eqn in enumerate(eqns):
        made_of = [origins.get(v, frozenset()) for v in eqn.invars if not isinstance(v, Literal)]
        of_input = any(origin is None for origin in made_of)
        reads = frozenset().union(*(origin for origin in made_of if origin))
        origins.update(dict.fromkeys(eqn.outvars, None if of_input else reads))
        if eqn.primitive.name in LOOPS:
            for inner in inner_jaxprs(eqn):
                yield from ((None, reading) for reading in _inside(eqn, inner, origins, count))
            continue
        reading = _Reading(eqn, count, reads, find(eqn, count))
        if reading.product or (of_input and reads):
            yield at, reading


def _inside(eqn: JaxprEqn, inner: Jaxpr, origins: Origins, count: int) -> Iterator[_Reading]:
    """A loop's body takes the last of the loop's operands; of a cond, all but the index."""
    operands = eqn.invars[len(eqn.invars) - len(inner.invars) :]
    bound: Origins = {
        variable: frozenset() if isinstance(operand, Literal) else origins.get(operand, frozenset())
        for variable, operand in zip(inner.invars, operands, strict=True)
    }
    repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    for _, reading in _readings(flattened(inner).eqns, bound, count * repeats):
        yield reading


def _layers(readings: Sequence[_Reading], arguments: dict[Any, Argument]) -> Iterator[Layer]:
    """The products, and of the other readings those that own parameters."""
    owned: dict[int | None, list[Any]] = {}
    for variable, argument in arguments.items():
        if argument.parameter:
            owned.setdefault(_owner(variable, readings, arguments), []).append(variable)
    for at, reading in enumerate(readings):
        own = owned.get(at, [])
        if reading.product or own:
            yield _layer(reading, own, arguments)
    for variable in owned.get(None, []):
        shape = variable.aval.shape
        nothing = (0, math.prod(shape), 0, 0, "", None)
        yield Layer(arguments[variable].path, "unused", (), shape, *nothing)


def _owner(variable: Any, readings: Sequence[_Reading], arguments: dict[Any, Argument]):
    """The reading that a parameter is counted with: a product of its own, of its module, or any."""
    readers = [at for at, reading in enumerate(readings) if variable in reading.reads]
    if products := [at for at in readers if readings[at].product]:
        return products[0]
    module = _module(arguments[variable])
    beside = [
        at
        for at, reading in enumerate(readings)
        if module and any(_module(arguments[other]) == module for other in reading.reads)
    ]
    if readers and (products := [at for at in beside if readings[at].product]):
        return products[-1]
    return max(beside or readers, key=lambda at: _size(readings[at])) if readers else None


def _size(reading: _Reading) -> int:
    """Of the result: a normalisation's own rather than its running mean's."""
    result: Any = reading.eqn.outvars[0].aval
    return math.prod(result.shape)


def _module(argument: Argument) -> str:
    """The path of what holds an array: ``layers[0].conv`` of ``layers[0].conv.kernel``."""
    return argument.path.rpartition(".")[0]


def _layer(reading: _Reading, own: Sequence[Any], arguments: dict[Any, Argument]) -> Layer:
    eqn, found = reading.eqn, reading.found
    avals: list[Any] = [variable.aval for variable in (*eqn.invars[:2], eqn.outvars[0])]
    shapes = [tuple(aval.shape) for aval in avals]
    moved = [math.prod(aval.shape) * np.dtype(aval.dtype).itemsize for aval in avals]
    owners = own or sorted(reading.reads, key=lambda variable: arguments[variable].path)
    return Layer(
        name=next((_module(arguments[v]) or arguments[v].path for v in owners), ""),
        kind=_kind(reading),
        operands=tuple(shapes[:2]) if reading.product else (),
        result=shapes[-1],
        runs=reading.count,
        parameters=sum(math.prod(variable.aval.shape) for variable in own),
        macs=reading.count * _macs(reading),
        bytes=reading.count * sum(moved) if reading.product else 0,
        kernel=kernel_of(found) if found else eqn.primitive.name if reading.product else "",
        receptive_field=reading.field,
    )


def _kind(reading: _Reading) -> str:
    found = reading.found
    if found is not None:
        return kind(found.operator, found.spec)
    if reading.product:
        return "dense" if reading.reads else "matrix product"
    return "gather" if reading.eqn.primitive.name == "gather" else "elementwise"


def _macs(reading: _Reading) -> int:
    """Of one run."""
    eqn, found = reading.eqn, reading.found
    if found is not None:
        return found.macs
    if not reading.product:
        return 0
    a, b = (v.aval.shape for v in eqn.invars)  # pyright: ignore[reportAttributeAccessIssue]
    (_, contracting), (_, batch) = eqn.params["dimension_numbers"]
    free = (n for axis, n in enumerate(b) if axis not in (*contracting, *batch))
    return math.prod(a) * math.prod(free)


def _field(eqns: Sequence[JaxprEqn], source: Any, reading: _Reading) -> tuple[int, ...] | None:
    result: Any = reading.eqn.outvars[0]
    found = reading.found
    if source is None or not 3 <= source.aval.ndim == result.aval.ndim <= 5:
        return None
    if found is not None and found.operator is Operator.FILTER_GRAD:
        return None
    return field_of(eqns, source, result, NEIGHBOURS).size
