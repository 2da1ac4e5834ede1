"""Replaces convolutions and what follows them in the equations of a program."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from ...geometry.epilogue import Epilogue
from .build import Replacement, replacement
from .convolution import convolution
from .flat import FlatProgram, variables
from .match import Match, matches


@dataclasses.dataclass(frozen=True)
class Fusion:
    """A convolution, as an index of the program's equations, and what can be fused with it.

    If there is no ``epilogue``, ``reason`` says why.
    """

    conv: int
    epilogue: Epilogue | None
    reason: str | None


class FusedEquations(NamedTuple):
    """What replaces the equations ``replaced``, at the place of the last one of them.

    ``read`` are the variables that these equations read, such as a broadcast bias. ``masks`` are
    equations that read the result instead of a value that is no longer computed, by index.
    """

    conv: JaxprEqn
    replaced: frozenset[int]
    read: frozenset[Any]
    replacement: Replacement
    result: Var
    masks: dict[int, JaxprEqn]


def fusions(jaxpr: Jaxpr) -> list[Fusion]:
    """The convolutions of a program, without those of the jaxprs inside it, in its order."""
    found = []
    for conv, match in _matches(jaxpr)[1]:
        if isinstance(match, Match):
            found.append(Fusion(conv, match.epilogue, None))
        else:
            found.append(Fusion(conv, None, match))
    return found


def fused_equations(jaxpr: Jaxpr) -> dict[int, FusedEquations]:
    """The fused convolutions of a program, by the index of the last equation that each replaces."""
    program, found = _matches(jaxpr)
    return {
        program.eqns[max(match.eqns)].outer: _fused_equations(program, match)
        for _, match in found
        if isinstance(match, Match)
    }


def _matches(jaxpr: Jaxpr) -> tuple[Any, list[tuple[int, Match | str]]]:
    if all(convolution(eqn) is None for eqn in jaxpr.eqns):
        return None, []
    program = FlatProgram(jaxpr)
    return program, sorted(matches(program), key=lambda found: found[0])


def _fused_equations(program: FlatProgram, match: Match) -> FusedEquations:
    replaced = frozenset(program.eqns[at].outer for at in (match.at, *match.eqns))
    return FusedEquations(
        conv=program.eqns[match.at].eqn,
        replaced=replaced,
        read=frozenset(v for at in replaced for v in variables(program.jaxpr.eqns[at].invars)),
        replacement=replacement(program, match),
        result=match.result,
        masks={program.eqns[at].outer: _mask(program, match, at) for at in match.masks},
    )


def _mask(program: FlatProgram, match: Match, at: int) -> JaxprEqn:
    """A comparison with the result in place of the value before the activation."""
    eqn = program.eqns[at].eqn
    invars = [
        atom if isinstance(atom, Literal) or program.is_constant(atom) else match.result
        for atom in eqn.invars
    ]
    return eqn.replace(invars=invars)


def without_unread(
    eqns: list[JaxprEqn], outputs: list[Any], candidates: set[Any]
) -> list[JaxprEqn]:
    """The equations without those that compute only ``candidates`` that nothing reads."""
    read = set(variables(outputs))
    kept = []
    for eqn in reversed(eqns):
        unread = all(v in candidates and v not in read for v in eqn.outvars)
        if unread and not eqn.effects:
            continue
        read.update(variables(eqn.invars))
        kept.append(eqn)
    return kept[::-1]
