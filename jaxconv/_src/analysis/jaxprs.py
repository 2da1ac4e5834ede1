"""Walks traced programs: every convolution in one, and a program with its calls inlined."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from ..interop.fusion.fusions import fusions
from .equations import ConvEquation, conv_equation
from .tracing import program


def trace(fn: Callable, *args: Any, **kwargs: Any) -> Jaxpr:
    """The program of a function or module on these arguments; nothing is computed."""
    return program(fn, *args, **kwargs).jaxpr


def convolutions(
    jaxpr: Jaxpr, count: int = 1, *, find_fusions: bool = False
) -> Iterator[ConvEquation]:
    """All convolutions in program order; those in a scan run once per iteration.

    Only with ``find_fusions``, which takes longer, do they say why they are not fused.
    """
    fusion_of = {fusion.conv: fusion for fusion in fusions(jaxpr)} if find_fusions else {}
    for at, eqn in enumerate(jaxpr.eqns):
        conv = conv_equation(eqn, count, fusion_of.get(at))
        if conv is not None:
            yield conv
        repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        for inner in inner_jaxprs(eqn):
            yield from convolutions(inner, count * repeats, find_fusions=find_fusions)


def inner_jaxprs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs inside an equation: a jit's, a loop's body, every branch of a cond."""
    for value in eqn.params.values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            inner: Any = getattr(entry, "jaxpr", entry)
            if hasattr(inner, "eqns"):
                yield inner


@dataclasses.dataclass(frozen=True)
class Flat:
    """A program in which calls, such as those of ``jit`` and ``custom_jvp``, are inlined."""

    eqns: tuple[JaxprEqn, ...]
    outvars: tuple[Any, ...]


@dataclasses.dataclass(eq=False)
class _Variable:
    """A variable of an inlined body; each call needs its own, because calls share bodies."""

    aval: Any


LOOPS = ("scan", "while", "cond")


def flattened(jaxpr: Jaxpr) -> Flat:
    """The program with all calls inlined, except for loops and branches."""
    eqns: list[JaxprEqn] = []
    outvars = _inline(jaxpr, {}, eqns, fresh=False)
    return Flat(tuple(eqns), tuple(outvars))


def _inline(jaxpr: Jaxpr, names: dict[Any, Any], eqns: list[JaxprEqn], fresh: bool) -> list:
    """Appends the equations of ``jaxpr`` with the caller's variables in place of its own."""

    def named(variable: Any) -> Any:
        return variable if isinstance(variable, Literal) else names.get(variable, variable)

    for eqn in jaxpr.eqns:
        operands: list[Any] = [named(variable) for variable in eqn.invars]
        body = _body(eqn)
        if body is not None:
            inside = dict(zip(body.invars, operands, strict=True))
            results = _inline(body, inside, eqns, fresh=True)
            names.update(zip(eqn.outvars, results, strict=True))
            continue
        if fresh:
            names.update({variable: _Variable(variable.aval) for variable in eqn.outvars})
        eqns.append(eqn.replace(invars=operands, outvars=[named(v) for v in eqn.outvars]))
    return [named(variable) for variable in jaxpr.outvars]


def _body(eqn: JaxprEqn) -> Jaxpr | None:
    """The program that an equation calls once, on its own operands; None if it calls none."""
    inner = list(inner_jaxprs(eqn))
    if len(inner) != 1 or eqn.primitive.name in LOOPS:
        return None
    (body,) = inner
    return body if _shapes(body) == _shapes(eqn) else None


def _shapes(program: Any) -> list[list[tuple[int, ...]]]:
    sides = (program.invars, program.outvars)
    return [[getattr(v.aval, "shape", ()) for v in variables] for variables in sides]
