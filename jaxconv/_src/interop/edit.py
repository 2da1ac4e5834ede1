"""Editing a jaxpr: each of lax's convolutions becomes an operator of jaxconv.

The equation of a convolution is replaced by those of the operator, together with a normalization, a
residual and an activation after it where ``fusion`` finds them. All other equations stay as they
are, except for the jaxprs inside them, which are edited in the same way: of a jit with its name and
donated arguments, of loops and branches, of remat with its policy, of shard_map with its types. The
rules of ``custom_jvp``, ``custom_vjp`` and ``custom_vmap`` are edited when jax calls them.

Therefore it does not matter which transformations are inside the program and which are outside. A
gradient inside leaves convolutions that ``recognize.py`` recognizes as gradients; a gradient
outside differentiates jaxconv's primitives.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend import linear_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from .. import compat
from ..dispatch import implementation
from .evaluation import run, value_of
from .fusion.dense import dense_layers_are_fused
from .fusion.fusions import FusedEquations, fused_equations, without_unread
from .rearrangement import Rearrangement
from .recognize import recognize_equation
from .recognized_operator import compute_recognized
from .trace import call_on_arrays, trace


def evaluate(program: ClosedJaxpr, arrays: list) -> list:
    """The results of the edited program.

    If the program is one jit, as when ``accelerate`` has cached it, only its inside is run.
    """
    jaxpr = program.jaxpr
    if [eqn.primitive.name for eqn in jaxpr.eqns] != ["jit"]:
        return run(edited(program), arrays)
    (eqn,) = jaxpr.eqns
    values = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values |= zip(jaxpr.invars, arrays, strict=True)
    operands = [value_of(atom, values) for atom in eqn.invars]
    values |= zip(eqn.outvars, run(edited(eqn.params["jaxpr"]), operands), strict=True)
    return [value_of(atom, values) for atom in jaxpr.outvars]


# The edited programs, by original program and the contexts that decide how it is edited. jax's own
# caches compare programs by identity, so a jit that is called many times must get the same one.
_edited: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def edited(program: Any) -> Any:
    """A Jaxpr or ClosedJaxpr with jaxconv's operators; the same object if nothing changes."""
    results = _edited.setdefault(program, {})
    key = implementation.resolve(None), dense_layers_are_fused()
    if key not in results:
        result = _edit(program)
        # None stands for the program itself, which would otherwise keep itself alive.
        results[key] = None if result is program else result
    return program if results[key] is None else results[key]


def _edit(program: Any) -> Any:
    if not isinstance(program, Jaxpr):
        jaxpr = edited(program.jaxpr)
        return program if jaxpr is program.jaxpr else program.replace(jaxpr=jaxpr)
    eqns = _edited_equations(program)
    if len(eqns) == len(program.eqns) and all(map(_same, eqns, program.eqns)):
        return program
    return program.replace(eqns=eqns)


def _edited_equations(program: Jaxpr) -> list[JaxprEqn]:
    fused = fused_equations(program)
    replaced = {at for fusion in fused.values() for at in fusion.replaced}
    masks = {at: eqn for fusion in fused.values() for at, eqn in fusion.masks.items()}
    eqns: list[JaxprEqn] = []
    for at, eqn in enumerate(program.eqns):
        if at in fused:
            eqns += _fusion(fused[at])
        elif at not in replaced:
            eqns += _equations(masks.get(at, eqn))
    read = {variable for fusion in fused.values() for variable in fusion.read}
    return without_unread(eqns, program.outvars, read) if fused else eqns


def _same(a: Any, b: Any) -> bool:
    return a is b


def _equations(eqn: JaxprEqn) -> Iterator[JaxprEqn]:
    if eqn.primitive is lax.conv_general_dilated_p:
        yield from _convolution(eqn)
        return
    rules = _RULES.get(eqn.primitive.name, {})
    params = {
        name: rules[name](value) if name in rules else _parameter(value)
        for name, value in eqn.params.items()
    }
    changed = any(params[name] is not value for name, value in eqn.params.items())
    yield eqn.replace(params=params) if changed else eqn


def _parameter(value: Any) -> Any:
    """A parameter with all jaxprs in it edited; the same object if nothing changes."""
    if isinstance(value, Jaxpr | ClosedJaxpr):
        return edited(value)
    if not isinstance(value, tuple | list):
        return value
    entries = [_parameter(entry) for entry in value]
    if all(map(_same, entries, value)):
        return value
    return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)


def _convolution(eqn: JaxprEqn) -> Iterator[JaxprEqn]:
    """The equations of the operator that a convolution is, with its name stack and source line."""
    recognized = recognize_equation(eqn)
    result: Any = eqn.outvars[0].aval
    if isinstance(recognized, str):
        yield eqn
        return
    compute = functools.partial(
        compute_recognized,
        recognized=recognized,
        dtype=result.dtype,
        precision=eqn.params["precision"],
        implementation=implementation.resolve(None),
        out_sharding=_sharding(result, recognized.result),
    )
    with eqn.ctx.manager:
        program = jax.make_jaxpr(compute)(*[atom.aval for atom in eqn.invars]).jaxpr
    yield from inlined_equations(program, eqn.invars, eqn.outvars, eqn)


def _fusion(fused: FusedEquations) -> Iterator[JaxprEqn]:
    """The equations of a fused convolution, with the name stack and source line of the original."""
    program, operands = fused.replacement
    yield from inlined_equations(program, operands, [fused.result], fused.conv)


def inlined_equations(
    program: Jaxpr, operands: Sequence[Any], results: Sequence[Any], eqn: JaxprEqn
) -> Iterator[JaxprEqn]:
    """The equations of ``program`` on other variables, with the source of ``eqn``."""
    variables: dict[Any, Any] = dict(zip(program.invars, operands, strict=True))
    variables |= zip(program.outvars, results, strict=True)
    for new in program.eqns:
        outvars = [variables.setdefault(var, Var(var.aval)) for var in new.outvars]
        invars = [atom if isinstance(atom, Literal) else variables[atom] for atom in new.invars]
        yield new.replace(invars=invars, outvars=outvars, source_info=eqn.source_info)


def _sharding(aval: Any, rearrangement: Rearrangement) -> Any:
    """The sharding in the type of lax's result, for the operator's; None if it has none."""
    mesh, partitions = aval.sharding.mesh, aval.sharding.spec
    if mesh.empty:
        return None
    return compat.named_sharding(mesh, [partitions[axis] for axis in rearrangement.permutation])


# The rules of custom derivatives and custom vmaps are functions, which jax calls when it needs
# them. Those for jvp and for the forward pass return a jaxpr and more.


def _edit_jaxpr_rule(rule: Any) -> Any:
    def edit(*args):
        program, *rest = rule.call_wrapped(*args)
        return edited(program), *rest

    return linear_util.wrap_init(edit, debug_info=rule.debug_info)


def _edit_backward_rule(rule: Any) -> Any:
    run = _edit_function_rule(rule.call_wrapped)
    return linear_util.wrap_init(run, debug_info=rule.debug_info)


def _edit_function_rule(rule: Callable) -> Callable:
    def run(*args):
        program, result, arrays = trace(functools.partial(call_on_arrays, rule), args, {})
        return result.with_arrays(evaluate(program, arrays))

    return run


_RULES: dict[str, dict[str, Callable]] = {
    "custom_jvp_call": {"jvp_jaxpr_fun": _edit_jaxpr_rule},
    "custom_vjp_call": {"fwd_jaxpr_thunk": _edit_jaxpr_rule, "bwd": _edit_backward_rule},
    "custom_vmap_call": {"rule": _edit_function_rule},
}
