"""The equations of a fused convolution that replace those of a match."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Jaxpr

from ...geometry.spec import Operator
from ...primitives import rules
from ...primitives.fused import bind_fused, jvp_in
from .convolution import Convolution
from .flat import FlatProgram
from .links import View
from .match import Match

Array = jax.Array


class Replacement(NamedTuple):
    """``jaxpr`` computes the result of a match from these variables of the program."""

    jaxpr: Jaxpr
    operands: list[Any]


def replacement(program: FlatProgram, match: Match) -> Replacement:
    """The equations of the fused convolution."""
    eqn = program.eqns[match.at].eqn
    operands, compute = _fused(program, match)
    if not match.same_derivative:
        operands, compute = _with_own_derivative(program, match, operands, compute)
    with eqn.ctx.manager:
        jaxpr = jax.make_jaxpr(compute)(*[variable.aval for variable in operands]).jaxpr
    return Replacement(jaxpr, operands)


def _fused(program: FlatProgram, match: Match) -> tuple[list[Any], Callable[..., Array]]:
    """The fused convolution as a function of variables of the program, and these."""
    affine = match.affine
    vectors = [step.vector for step in affine.steps if not isinstance(step.vector, float)]
    read = [*program.eqns[match.at].eqn.invars, *vectors]
    read += [affine.residual] if match.epilogue.residual else []
    operands, values = program.values_of(read)

    def compute(*arrays: Array) -> Array:
        lhs, rhs, *rest = values(*arrays)
        parts = _folded(match, rest[: len(vectors)])
        if match.epilogue.residual:
            parts["residual"] = _in_layout_of_convolution(match, rest[-1])
        arrays = tuple(parts[name] for name in match.epilogue.operands)
        bind = functools.partial(bind_fused, operands=arrays, epilogue=match.epilogue)
        return functools.reduce(_apply_view, match.link.views, _bound(match.conv, bind, lhs, rhs))

    return operands, compute


def _bound(conv: Convolution, bind: Callable[..., Array], lhs: Array, rhs: Array) -> Array:
    """The result of ``bind`` in the layout of the convolution's equation."""
    axes = range(conv.spec.rank)
    y = bind(
        conv.lhs.apply(lhs, axes),
        conv.rhs.apply(rhs, axes),
        spec=conv.spec,
        dtype=conv.dtype,
        precision=conv.precision,
        implementation=conv.implementation,
    )
    return conv.result.apply_to_result(y, axes)


# --- operands -------------------------------------------------------------------------------------


def _folded(match: Match, vectors: Sequence[Array]) -> dict[str, Array]:
    """All steps as one scale and one bias, computed in float32 at least."""
    dtype = match.conv.wide_dtype
    remaining = iter(vectors)
    scale: Array | None = None
    bias: Array | None = None
    for operation, vector in match.affine.steps:
        value = jnp.asarray(vector, dtype) if isinstance(vector, float) else next(remaining)
        value = _per_feature(value.astype(dtype), match.conv.spec.out_features)
        if operation in ("mul", "div"):
            factor = value if operation == "mul" else 1 / value
            scale = factor if scale is None else scale * factor
            bias = None if bias is None else bias * factor
        elif operation == "rsub":
            scale = jnp.full_like(value, -1) if scale is None else -scale
            bias = value if bias is None else value - bias
        else:
            addend = value if operation == "add" else -value
            bias = addend if bias is None else bias + addend
    parts = {"scale": scale, "bias": bias}
    return {name: value for name, value in parts.items() if value is not None}


def _per_feature(value: Array, features: int) -> Array:
    if all(n == 1 for n in value.shape):
        return jnp.broadcast_to(value.reshape(()), (features,))
    return value.reshape(features)


def _in_layout_of_convolution(match: Match, residual: Array) -> Array:
    views = reversed(match.affine.residual_views)
    residual = functools.reduce(_undo_view, views, residual)
    return match.conv.result.apply(residual, range(match.conv.spec.rank))


def _apply_view(array: Array, view: View) -> Array:
    if view.permutation is None:
        return array.reshape(view.new_shape)
    return lax.transpose(array, view.permutation)


def _undo_view(array: Array, view: View) -> Array:
    if view.permutation is None:
        return array.reshape(view.shape)
    inverse = sorted(range(array.ndim), key=view.permutation.__getitem__)
    return lax.transpose(array, inverse)


# --- derivatives ----------------------------------------------------------------------------------


def _with_own_derivative(
    program: FlatProgram, match: Match, operands: list[Any], compute: Callable[..., Array]
) -> tuple[list[Any], Callable[..., Array]]:
    """``compute`` with the derivative of the equations that it replaces."""
    own, separate = _separate(program, match)
    both = list(dict.fromkeys([*operands, *own]))

    def choose(fn: Callable[..., Array], wanted: list[Any]) -> Callable[..., Array]:
        places = [both.index(variable) for variable in wanted]
        return lambda *arrays: fn(*[arrays[at] for at in places])

    fused_conv = choose(compute, operands)
    fused_conv.__name__ = "fused_conv"
    fused = jax.custom_jvp(fused_conv)
    fused.defjvp(functools.partial(_jvp, choose(separate, own)), symbolic_zeros=True)
    return both, fused


def _jvp(fn: Callable[..., Array], primals: Sequence[Array], tangents: Sequence[Any]):
    moved = {at: t for at, t in enumerate(tangents) if type(t) is not SymbolicZero}
    return jvp_in(fn, primals, moved)


def _separate(program: FlatProgram, match: Match) -> tuple[list[Any], Callable[..., Array]]:
    """The equations of a match one by one, as a function of variables of the program."""
    eqn = program.eqns[match.at].eqn
    (result,) = eqn.outvars
    after = program.dependencies(match.eqns)
    operands = program.own_variables(after, [*eqn.invars])
    rest = [variable for variable in operands if variable is not result]
    epilogue = program.function(after, [result, *rest], [match.result])
    bind = functools.partial(rules.bind, Operator.CONV)

    def compute(*arrays: Array) -> Array:
        values = dict(zip(rest, arrays, strict=True))
        lhs, rhs = (values[variable] for variable in eqn.invars)
        return epilogue(_bound(match.conv, bind, lhs, rhs), *arrays)[0]

    return rest, compute
