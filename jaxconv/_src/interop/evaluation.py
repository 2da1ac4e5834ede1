"""Evaluating an edited program, so that jax's checks for NaN and infinity see its operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.core import eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from .. import compat


def run(program: ClosedJaxpr, arrays: Sequence[Any]) -> list:
    """The results of a program.

    ``jax_debug_nans`` and ``jax_debug_infs`` check every operation, as they do when the function
    that was traced is called. ``jaxpr_as_fun`` turns them off.
    """
    if jax.debug_nans.value or jax.debug_infs.value:
        return _checked(program.jaxpr, [*program.consts, *arrays])
    return jaxpr_as_fun(program)(*arrays)


def value_of(atom: Any, values: dict) -> Any:
    return atom.val if isinstance(atom, Literal) else values[atom]


def _checked(program: Jaxpr, arrays: Sequence[Any]) -> list:
    values = dict(zip([*program.constvars, *program.invars], arrays, strict=True))
    for eqn in program.eqns:
        operands = {atom: values[atom] for atom in eqn.invars if isinstance(atom, Var)}
        values |= zip(eqn.outvars, _equation(program, eqn, operands), strict=True)
    return [value_of(atom, values) for atom in program.outvars]


def _equation(program: Jaxpr, eqn: JaxprEqn, operands: dict) -> list:
    """The results of one equation. A jit that fails a check is run again, step by step.

    Its operands are not donated, because they are needed again.
    """
    params = dict(eqn.params)
    if eqn.primitive.name != "jit":
        return _alone(program, eqn, operands)
    params["donated_invars"] = (False,) * len(eqn.invars)
    try:
        return _alone(program, eqn.replace(params=params), operands)
    except compat.InternalFloatingPointError as error:
        inner = eqn.params["jaxpr"]
        _checked(inner.jaxpr, [*inner.consts, *(value_of(a, operands) for a in eqn.invars)])
        raise FloatingPointError(
            f"invalid value ({error.ty}) encountered in {error.name}"
        ) from None


def _alone(program: Jaxpr, eqn: JaxprEqn, operands: dict) -> list:
    single = program.replace(
        constvars=[],
        invars=[*operands],
        outvars=[*eqn.outvars],
        eqns=[eqn],
        debug_info=program.debug_info.with_unknown_names(),
    )
    return eval_jaxpr(single, [], *operands.values())
