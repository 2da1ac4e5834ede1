"""Every convolution of a traced program, the family's and lax's, wherever it stands."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from ..geometry.spec import ConvSpec, Operator
from ..interop.recognise import recognise_equation
from ..primitives.rules import OPERATORS
from .tracing import program


@dataclasses.dataclass(frozen=True)
class Found:
    """One convolution: what it is, how often it runs, and its operands' and result's dtypes.

    ``family`` says whether it is one of the family's primitives or lax's. What the family cannot
    express has no ``operator`` and no ``spec``, but a ``reason``. ``macs`` are those of one run.
    """

    operator: Operator | None
    spec: ConvSpec | None
    dtype: Any
    operand_dtypes: tuple[Any, Any]
    shapes: tuple[tuple[int, ...], ...]
    macs: int
    count: int
    family: bool
    implementation: str | None = None
    reason: str | None = None


def trace(fn: Callable, *args: Any, **kwargs: Any) -> Jaxpr:
    """The program of a function or module on these arguments; nothing is computed."""
    return program(fn, *args, **kwargs).jaxpr


def convolutions(jaxpr: Jaxpr, count: int = 1) -> Iterator[Found]:
    """All convolutions in program order; those in a scan count once an iteration."""
    for eqn in jaxpr.eqns:
        found = find(eqn, count)
        if found is not None:
            yield found
        repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        for inner in inner_jaxprs(eqn):
            yield from convolutions(inner, count * repeats)


def inner_jaxprs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs inside an equation: of a jit, a loop's body, every branch of a cond."""
    for value in eqn.params.values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            inner: Any = getattr(entry, "jaxpr", entry)
            if hasattr(inner, "eqns"):
                yield inner


@dataclasses.dataclass(frozen=True)
class Flat:
    """A program without calls: those of ``jit``, ``custom_jvp`` and the like are written out."""

    eqns: tuple[JaxprEqn, ...]
    outvars: tuple[Any, ...]


@dataclasses.dataclass(eq=False)
class _Variable:
    """A variable of a call's body; each call has its own, for programs share bodies."""

    aval: Any


LOOPS = ("scan", "while", "cond")


def flattened(jaxpr: Jaxpr) -> Flat:
    """The program with all calls but loops and branches written out."""
    eqns: list[JaxprEqn] = []
    outvars = _write_out(jaxpr, {}, eqns, fresh=False)
    return Flat(tuple(eqns), tuple(outvars))


def _write_out(jaxpr: Jaxpr, names: dict[Any, Any], eqns: list[JaxprEqn], fresh: bool) -> list:
    """Appends the equations under the names that their variables have outside."""

    def named(variable: Any) -> Any:
        return variable if isinstance(variable, Literal) else names.get(variable, variable)

    for eqn in jaxpr.eqns:
        operands: list[Any] = [named(variable) for variable in eqn.invars]
        body = _body(eqn)
        if body is not None:
            inside = dict(zip(body.invars, operands, strict=True))
            results = _write_out(body, inside, eqns, fresh=True)
            names.update(zip(eqn.outvars, results, strict=True))
            continue
        if fresh:
            names.update({variable: _Variable(variable.aval) for variable in eqn.outvars})
        eqns.append(eqn.replace(invars=operands, outvars=[named(v) for v in eqn.outvars]))
    return [named(variable) for variable in jaxpr.outvars]


def _body(eqn: JaxprEqn) -> Jaxpr | None:
    """The program that an equation calls once, on its own operands; None if it is no call."""
    inner = list(inner_jaxprs(eqn))
    if len(inner) != 1 or eqn.primitive.name in LOOPS:
        return None
    (body,) = inner
    return body if _shapes(body) == _shapes(eqn) else None


def _shapes(program: Any) -> list[list[tuple[int, ...]]]:
    sides = (program.invars, program.outvars)
    return [[getattr(v.aval, "shape", ()) for v in variables] for variables in sides]


def find(eqn: JaxprEqn, count: int) -> Found | None:
    """The convolution that an equation is, if it is one."""
    operator = OPERATORS.get(eqn.primitive)
    avals: list[Any] = [variable.aval for variable in (*eqn.invars, *eqn.outvars)]
    if operator is None and eqn.primitive.name != "conv_general_dilated":
        return None
    shapes = tuple(tuple(aval.shape) for aval in avals)
    common = {
        "dtype": avals[-1].dtype,
        "operand_dtypes": (avals[0].dtype, avals[1].dtype),
        "shapes": shapes,
        "count": count,
        "family": operator is not None,
    }
    if operator is not None:
        params = eqn.params
        forced, spec = params["implementation"], params["spec"]
        return Found(operator, spec, macs=spec.macs, implementation=forced, **common)
    recognised = recognise_equation(eqn)
    if isinstance(recognised, str):
        macs = _macs(shapes, eqn.params["dimension_numbers"].rhs_spec[0])
        return Found(None, None, macs=macs, reason=recognised, **common)
    spec = recognised.spec
    return Found(recognised.operator, spec, macs=spec.macs, **common)


def _macs(shapes: tuple[tuple[int, ...], ...], out_features: int) -> int:
    """Of a convolution by lax: every entry of the result sums the entries of one filter."""
    _, kernel, result = shapes
    entries = (n for axis, n in enumerate(kernel) if axis != out_features)
    return math.prod(result) * math.prod(entries)
