"""The three primitives, closed under differentiation.

For fixed geometry the trilinear form

    T(x, k, g) = <g, conv(x, k)>
               = sum over n, o, f, t, c of  g[n, o, f] * x[n, s*o + d*t - low, c] * k[t, c, f]

(o over outputs, t over taps, c over the in-features of f's group) is linear in each argument. Its
partial derivatives are the three operators that training needs:

    conv(x, k)        = dT/dg        reads x and k, returns a g
    input_grad(g, k)  = dT/dx        reads g and k, returns an x; this is transposed convolution
    filter_grad(x, g) = dT/dk        reads x and g, returns a k

Each is bilinear, so the derivative in one operand is the operator itself with the tangent in that
operand's place. Transposed in one operand, an operator returns what that operand was, from its
other operand and the cotangent, which has the place of its result: again one of the three. So
forward mode, reverse mode, Taylor mode and every order of them stay inside the family, and each
reaches a kernel. The spec never changes: it describes T, not one of its derivatives.
"""

from __future__ import annotations

import functools

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad

from .. import compat
from ..dispatch.registry import unsupported_message
from ..geometry.spec import ConvSpec, Operator
from . import explicit_sharding

ROLES = {
    Operator.CONV: ("x", "k"),
    Operator.INPUT_GRAD: ("g", "k"),
    Operator.FILTER_GRAD: ("x", "g"),
}
RESULT = {Operator.CONV: "g", Operator.INPUT_GRAD: "x", Operator.FILTER_GRAD: "k"}
RETURNING = {role: operator for operator, role in RESULT.items()}

PRIMITIVES = {
    Operator.CONV: Primitive("conv"),
    Operator.INPUT_GRAD: Primitive("conv_input_grad"),
    Operator.FILTER_GRAD: Primitive("conv_filter_grad"),
}
OPERATORS = {primitive: operator for operator, primitive in PRIMITIVES.items()}


def bind(
    operator: Operator,
    a,
    b,
    spec: ConvSpec,
    *,
    dtype,
    precision=None,
    implementation: str | None = None,
    out_sharding=None,
):
    """Applies ``operator`` to its two operands, in the order of ``ROLES``.

    ``dtype`` is the result's; the operands may differ from it and from each other, because a
    cotangent of a wide result meets narrow residuals.
    """
    a, b = explicit_sharding.match_varying(a, b)
    return PRIMITIVES[operator].bind(
        a,
        b,
        spec=spec,
        dtype=jax.numpy.dtype(dtype),
        precision=precision,
        implementation=implementation,
        out_sharding=out_sharding,
    )


def _abstract_eval(
    operator: Operator, a, b, *, spec, dtype, precision, implementation, out_sharding
):
    if (tuple(a.shape), tuple(b.shape)) != spec.operand_shapes(operator):
        raise ValueError(
            f"{PRIMITIVES[operator].name}: operands of shapes {spec.operand_shapes(operator)} "
            f"belong to {spec}, but got {a.shape} and {b.shape}"
        )
    if implementation is not None:
        message = unsupported_message(implementation, operator, spec, dtype)
        if message is not None:
            raise ValueError(f"{PRIMITIVES[operator].name} of {spec}: {message}")
    return a.update(
        shape=spec.result_shape(operator),
        dtype=dtype,
        weak_type=False,
        sharding=explicit_sharding.result_sharding(operator, a, b, spec, out_sharding),
    )


def _transpose(operator: Operator, position: int, cotangent, a, b, **params):
    """The cotangent of the operand at ``position``: of T, the derivative in that operand's role."""
    role = ROLES[operator][position]
    undefined = (a, b)[position].aval
    values = dict(zip(ROLES[operator], (a, b), strict=True)) | {RESULT[operator]: cotangent}
    returning = RETURNING[role]
    operands = (values[other] for other in ROLES[returning])
    params |= {"dtype": undefined.dtype, "out_sharding": _explicit(undefined.sharding)}
    return bind(returning, *operands, **params)


def _explicit(sharding):
    """A sharding to ask for; none where there is no mesh, so that equal programs look equal."""
    return None if sharding.mesh.empty else sharding


for _operator, _primitive in PRIMITIVES.items():
    _primitive.def_impl(functools.partial(compat.apply_primitive, _primitive))
    _primitive.def_abstract_eval(functools.partial(_abstract_eval, _operator))
    ad.defbilinear(
        _primitive,
        functools.partial(_transpose, _operator, 0),
        functools.partial(_transpose, _operator, 1),
    )
    compat.add_taylor_rule(_primitive)
