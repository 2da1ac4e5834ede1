"""A program with the calls of elementwise functions, such as ``jax.nn.silu``, inlined."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from .elementwise import CALLS, is_elementwise


class FlatEquation(NamedTuple):
    """One equation, and the index of the program's own equation that it is, or is called by."""

    eqn: JaxprEqn
    outer: int


class FlatProgram:
    """The equations of a program, and which of them produce and read each variable.

    A call of ``custom_jvp`` stays one equation, because its derivative is its own.
    """

    def __init__(self, jaxpr: Jaxpr):
        self.jaxpr = jaxpr
        self.eqns = [flat for at, eqn in enumerate(jaxpr.eqns) for flat in _flattened(eqn, at)]
        self.results = {atom for atom in jaxpr.outvars if isinstance(atom, Var)}
        self.producers: dict[Var, int] = {}
        self.readers: dict[Var, list[int]] = collections.defaultdict(list)
        for at, (eqn, _) in enumerate(self.eqns):
            self.producers.update((variable, at) for variable in eqn.outvars)
            for variable in dict.fromkeys(variables(eqn.invars)):
                self.readers[variable].append(at)
        self._constants = _constants(self.eqns)
        eqns = jaxpr.eqns
        self._own = {*jaxpr.invars, *jaxpr.constvars, *(v for eqn in eqns for v in eqn.outvars)}

    def is_own(self, variable: Var) -> bool:
        """Whether the variable is the program's own, not one inside a call."""
        return variable in self._own

    def is_constant(self, atom: Any) -> bool:
        """Whether this is a number that the program states, the same for every entry."""
        return _is_constant(atom, self._constants)

    def name(self, at: int) -> str:
        """What a user knows an equation by."""
        eqn = self.eqns[at].eqn
        return eqn.params.get("name") or eqn.primitive.name

    def producer(self, atom: Any) -> JaxprEqn | None:
        at = None if isinstance(atom, Literal) else self.producers.get(atom)
        return None if at is None else self.eqns[at].eqn

    def dependencies(self, eqns: Iterable[int], atoms: Iterable[Any] = ()) -> list[int]:
        """These equations, and those inside calls that they and ``atoms`` depend on."""
        found = set(eqns)
        pending = [*variables(atoms)]
        pending += [v for at in found for v in variables(self.eqns[at].eqn.invars)]
        while pending:
            variable = pending.pop()
            at = None if self.is_own(variable) else self.producers[variable]
            if at is not None and at not in found:
                found.add(at)
                pending += variables(self.eqns[at].eqn.invars)
        return sorted(found)

    def own_variables(self, eqns: Iterable[int], atoms: Iterable[Any]) -> list[Any]:
        """The program's own variables that ``atoms`` and these equations read from outside."""
        read = [*variables(atoms)]
        read += [v for at in eqns for v in variables(self.eqns[at].eqn.invars)]
        produced = {v for at in eqns for v in self.eqns[at].eqn.outvars}
        return [v for v in dict.fromkeys(read) if v not in produced and self.is_own(v)]

    def values_of(self, atoms: Sequence[Any]) -> tuple[list[Any], Callable[..., list[Any]]]:
        """The values of ``atoms`` as a function of the program's own variables, and these."""
        eqns = self.dependencies((), atoms)
        operands = self.own_variables(eqns, atoms)
        return operands, self.function(eqns, operands, atoms)

    def function(
        self, eqns: Iterable[int], arguments: Sequence[Any], results: Sequence[Any]
    ) -> Callable[..., list[Any]]:
        """The function of ``arguments`` that these equations compute."""
        jaxpr = self.jaxpr.replace(
            constvars=[],
            invars=list(arguments),
            outvars=list(results),
            eqns=[self.eqns[at].eqn for at in eqns],
        )
        return jaxpr_as_fun(ClosedJaxpr(jaxpr, ()))


def _constants(eqns: Iterable[FlatEquation]) -> set[Any]:
    """The variables that are computed from numbers alone."""
    found: set[Any] = set()
    for eqn, _ in eqns:
        computed = is_elementwise(eqn) and eqn.primitive.name not in CALLS
        if computed and all(_is_constant(atom, found) for atom in eqn.invars):
            found.update(eqn.outvars)
    return found


def _is_constant(atom: Any, constants: set[Any]) -> bool:
    return not shape_of(atom) if isinstance(atom, Literal) else atom in constants


def shape_of(atom: Any) -> tuple[Any, ...]:
    return tuple(atom.aval.shape)


def dtype_of(atom: Any) -> Any:
    return jnp.dtype(atom.aval.dtype)


def variables(atoms: Iterable[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _flattened(eqn: JaxprEqn, at: int) -> list[FlatEquation]:
    body = _body(eqn)
    if body is None:
        return [FlatEquation(eqn, at)]
    # Calls share bodies, so each needs variables of its own.
    names: dict[Any, Any] = dict(zip(body.invars, eqn.invars, strict=True))
    names.update(zip(body.outvars, eqn.outvars, strict=True))
    found = []
    for inner in body.eqns:
        outvars = [names.setdefault(variable, Var(variable.aval)) for variable in inner.outvars]
        invars = [atom if isinstance(atom, Literal) else names[atom] for atom in inner.invars]
        found += _flattened(inner.replace(invars=invars, outvars=outvars), at)
    return found


def _body(eqn: JaxprEqn) -> Jaxpr | None:
    """The jaxpr that an equation calls, if it is to be inlined."""
    if eqn.primitive.name != "jit" or eqn.effects or not is_elementwise(eqn):
        return None
    closed = eqn.params[CALLS["jit"]]
    produced = {variable for inner in closed.jaxpr.eqns for variable in inner.outvars}
    results = closed.jaxpr.outvars
    distinct = len(set(map(id, results))) == len(results)
    plain = distinct and all(isinstance(r, Var) and r in produced for r in results)
    return closed.jaxpr if plain and not closed.consts and not closed.jaxpr.constvars else None
