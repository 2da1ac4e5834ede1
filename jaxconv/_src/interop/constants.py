"""Divides a program into what depends on its parameters alone and what remains.

The first part is computed once, by one compiled program: evaluated operation by operation, the
constants of a MobileNetV2 take minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jax.extend.core import Jaxpr, JaxprEqn, Literal


class Divided(NamedTuple):
    """A program in two parts.

    ``constant`` computes constants of the parameters ``parameters``. ``rest`` is the program of the
    parameters ``kept``, the constants, and the remaining arguments.
    """

    constant: Jaxpr
    parameters: tuple[Any, ...]
    kept: tuple[Any, ...]
    rest: Jaxpr


def constant_variables(jaxpr: Jaxpr, parameters: Iterable[Any]) -> dict[Any, frozenset[Any]]:
    """The variables that depend on parameters and on nothing else, with these parameters.

    What depends on nothing at all, such as zeros, is not among them: it need not be stored.
    """
    origins = {variable: frozenset((variable,)) for variable in parameters}
    free: set[Any] = set()
    for eqn in jaxpr.eqns:
        read = [atom for atom in eqn.invars if not isinstance(atom, Literal)]
        if eqn.effects or not all(atom in origins or atom in free for atom in read):
            continue
        if sources := [origins[atom] for atom in read if atom in origins]:
            origins.update(dict.fromkeys(eqn.outvars, frozenset().union(*sources)))
        else:
            free.update(eqn.outvars)
    return origins


def divide(jaxpr: Jaxpr, parameters: Sequence[Any]) -> Divided:
    """Divides a program whose arguments are ``parameters`` and others."""
    constants = constant_variables(jaxpr, parameters)

    def computed_once(eqn: JaxprEqn) -> bool:
        return any(variable in constants for variable in eqn.outvars) and not _enlarges(eqn)

    needed = _read(jaxpr.outvars)
    stored: dict[Any, None] = {}
    rest = []
    for eqn in reversed(jaxpr.eqns):
        wanted = [variable for variable in eqn.outvars if variable in needed]
        if wanted and computed_once(eqn):
            stored.update(dict.fromkeys(wanted))
        elif wanted or eqn.effects:
            rest.append(eqn)
            needed |= _read(eqn.invars)
    kept = tuple(variable for variable in parameters if variable in needed)
    others = [variable for variable in jaxpr.invars if variable not in set(parameters)]
    constant, used = _constant_part(jaxpr, parameters, list(stored))
    invars = [*kept, *stored, *others]
    return Divided(constant, used, kept, jaxpr.replace(invars=invars, eqns=rest[::-1]))


def _constant_part(
    jaxpr: Jaxpr, parameters: Sequence[Any], results: list[Any]
) -> tuple[Jaxpr, tuple[Any, ...]]:
    """The equations that compute ``results``, and the parameters that they read."""
    needed, eqns = set(results), []
    for eqn in reversed(jaxpr.eqns):
        if any(variable in needed for variable in eqn.outvars):
            eqns.append(eqn)
            needed |= _read(eqn.invars)
    used = tuple(variable for variable in parameters if variable in needed)
    return jaxpr.replace(invars=list(used), outvars=results, eqns=eqns[::-1]), used


def _enlarges(eqn: JaxprEqn) -> bool:
    """Whether the result only repeats the operand, which is then what is stored."""
    if eqn.primitive.name != "broadcast_in_dim" or len(eqn.invars) != 1:
        return False
    sizes = [math.prod(atom.aval.shape) for atom in (*eqn.invars, *eqn.outvars)]  # pyright: ignore[reportAttributeAccessIssue]
    return sizes[0] < sizes[1]


def _read(atoms: Iterable[Any]) -> set[Any]:
    return {atom for atom in atoms if not isinstance(atom, Literal)}


def same_computation(a: Jaxpr, b: Jaxpr) -> bool:
    """Whether two programs are the same except for the names of their variables."""
    sides = [[a.invars, a.outvars], [b.invars, b.outvars]]
    if any(len(x) != len(y) for x, y in zip(*sides, strict=True)) or len(a.eqns) != len(b.eqns):
        return False
    names: dict[Any, Any] = {}
    return (
        _same_new_variables(a.invars, b.invars, names)
        and all(_same_equation(x, y, names) for x, y in zip(a.eqns, b.eqns, strict=True))
        and _same_atoms(a.outvars, b.outvars, names)
    )


def _same_equation(a: JaxprEqn, b: JaxprEqn, names: dict[Any, Any]) -> bool:
    if a.primitive is not b.primitive or not _same_atoms(a.invars, b.invars, names):
        return False
    try:
        same = bool(a.params == b.params)
    except ValueError:  # arrays among the parameters cannot be compared so
        return False
    return same and _same_new_variables(a.outvars, b.outvars, names)


def _same_new_variables(a: Sequence[Any], b: Sequence[Any], names: dict[Any, Any]) -> bool:
    names.update(zip(a, b, strict=False))
    return len(a) == len(b) and all(x.aval == y.aval for x, y in zip(a, b, strict=True))


def _same_atoms(a: Sequence[Any], b: Sequence[Any], names: dict[Any, Any]) -> bool:
    return len(a) == len(b) and all(_same_atom(x, y, names) for x, y in zip(a, b, strict=True))


def _same_atom(a: Any, b: Any, names: dict[Any, Any]) -> bool:
    if isinstance(a, Literal) or isinstance(b, Literal):
        both = isinstance(a, Literal) and isinstance(b, Literal)
        return both and a.aval == b.aval and bool(a.val == b.val)  # pyright: ignore[reportAttributeAccessIssue]
    return names[a] is b
