"""Inlining the calls of a program, so that its layers are equations of one level."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

BodyOf = Callable[[JaxprEqn], ClosedJaxpr | None]


class Inlined(NamedTuple):
    """A program without calls; ``consts`` are the values of its first arguments."""

    jaxpr: Jaxpr
    consts: list[Any]


def inlined(program: ClosedJaxpr, body_of: BodyOf) -> Inlined:
    """``program`` with each call for which ``body_of`` returns a program replaced by it.

    Variables of the program itself keep their identity if an equation still computes them.
    """
    jaxpr = program.jaxpr
    names: dict[Any, Any] = {variable: variable for variable in jaxpr.invars}
    constants: dict[int, tuple[Any, Var]] = {}  # by array, however many calls hold it
    _name_constants(program, names, constants)
    produced = (variable for eqn in jaxpr.eqns for variable in eqn.outvars)
    names.update((variable, variable) for variable in produced)
    eqns = list(_equations(jaxpr, names, constants, body_of))
    replaced = jaxpr.replace(
        constvars=[],
        invars=[*(variable for _, variable in constants.values()), *jaxpr.invars],
        outvars=[_renamed(atom, names) for atom in jaxpr.outvars],
        eqns=eqns,
    )
    return Inlined(replaced, [value for value, _ in constants.values()])


def body_of_jit(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """What a jit computes; its name and its donated arguments are lost."""
    return eqn.params["jaxpr"] if eqn.primitive.name == "jit" and not eqn.effects else None


def _name_constants(program: ClosedJaxpr, names: dict[Any, Any], constants: dict) -> None:
    for variable, value in zip(program.jaxpr.constvars, program.consts, strict=True):
        names[variable] = constants.setdefault(id(value), (value, Var(variable.aval)))[1]


def _renamed(atom: Any, names: dict[Any, Any]) -> Any:
    return atom if isinstance(atom, Literal) else names[atom]


def _equations(
    jaxpr: Jaxpr, names: dict[Any, Any], constants: dict, body_of: BodyOf
) -> Iterator[JaxprEqn]:
    for eqn in jaxpr.eqns:
        operands = [_renamed(atom, names) for atom in eqn.invars]
        results = [names.setdefault(variable, Var(variable.aval)) for variable in eqn.outvars]
        body = body_of(eqn)
        if body is None:
            yield eqn.replace(invars=operands, outvars=results)
            continue
        inner = dict(zip(body.jaxpr.invars, operands, strict=True))
        _name_constants(body, inner, constants)
        produced = {variable for each in body.jaxpr.eqns for variable in each.outvars}
        for own, result in zip(body.jaxpr.outvars, results, strict=True):
            if not isinstance(own, Literal) and own in produced:
                inner.setdefault(own, result)
        yield from _equations(body.jaxpr, inner, constants, body_of)
        outvars = [_renamed(atom, inner) for atom in body.jaxpr.outvars]
        names.update(zip(eqn.outvars, outvars, strict=True))
