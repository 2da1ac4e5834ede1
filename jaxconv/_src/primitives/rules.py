"""The three primitives, closed under differentiation.

For fixed geometry the trilinear form

    T(x, k, g) = <g, conv(x, k)>
               = sum over n, o, f, t, c of  g[n, o, f] * x[n, s*o + d*t - low, c] * k[t, c, f]

(o over outputs, t over taps, c over the channels of f's group) is linear in each argument. Its
partial derivatives are the three operators that training needs:

    conv(x, k)        = dT/dg        takes x and k, returns a g
    input_grad(g, k)  = dT/dx        takes g and k, returns an x; this is transposed convolution
    filter_grad(x, g) = dT/dk        takes x and g, returns a k

Each is bilinear, so its derivative along a tangent of one operand is the operator itself with the
tangent in that operand's place. Its transpose in one operand is another of the three (see
``_transpose``). So forward mode, reverse mode, Taylor mode and every order of them need only these
three primitives, and every derivative is computed as fast as they are. The spec never changes: it
describes T, not one of its derivatives.
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

# Which arguments of T an operator takes, and which one its result has the shape of.
ROLES = {
    Operator.CONV: ("x", "k"),
    Operator.INPUT_GRAD: ("g", "k"),
    Operator.FILTER_GRAD: ("x", "g"),
}
RESULT = {Operator.CONV: "g", Operator.INPUT_GRAD: "x", Operator.FILTER_GRAD: "k"}
DERIVATIVE = {role: operator for operator, role in RESULT.items()}  # of T, in this role

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

    ``dtype`` is that of the result. The operands may have other dtypes, because with
    ``preferred_element_type`` the cotangent of a wide result meets narrow residuals.
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


def abstract_eval(
    operator: Operator,
    name: str,
    a,
    b,
    *,
    spec,
    dtype,
    precision,
    implementation,
    out_sharding,
):
    """The shape, dtype and mesh types of the result of the primitive ``name``."""
    if (tuple(a.shape), tuple(b.shape)) != spec.operand_shapes(operator):
        raise ValueError(
            f"{name}: the operands of {spec} have shapes "
            f"{spec.operand_shapes(operator)}, but got {a.shape} and {b.shape}"
        )
    if implementation is not None:
        message = unsupported_message(implementation, operator, spec, dtype)
        if message is not None:
            raise ValueError(f"{name} of {spec}: {message}")
    return a.update(
        shape=spec.result_shape(operator),
        dtype=dtype,
        weak_type=False,
        sharding=explicit_sharding.result_sharding(operator, a, b, spec, out_sharding),
    )


# The six transposes. The pairing of an operator's result with its cotangent is T with the cotangent
# in the result's role, so each operand's cotangent is the derivative of T in the operand's role.
# With i = s*o + d*t - low, summing over every index that the result does not have:
#
#   y = conv(x, k), cotangent ct[n,o,f] in the role of g
#     in x:   dx[n,i,c] = ct[n,o,f] k[t,c,f]       input_grad(ct, k)
#     in k:   dk[t,c,f] = x[n,i,c] ct[n,o,f]       filter_grad(x, ct)
#   dx = input_grad(g, k), cotangent ct[n,i,c] in the role of x
#     in g:   dg[n,o,f] = ct[n,i,c] k[t,c,f]       conv(ct, k)
#     in k:   dk[t,c,f] = ct[n,i,c] g[n,o,f]       filter_grad(ct, g)
#   dk = filter_grad(x, g), cotangent ct[t,c,f] in the role of k
#     in x:   dx[n,i,c] = g[n,o,f] ct[t,c,f]       input_grad(g, ct)
#     in g:   dg[n,o,f] = x[n,i,c] ct[t,c,f]       conv(x, ct)
def _transpose(operator: Operator, position: int, cotangent, a, b, **params):
    """The cotangent of the operand at ``position``."""
    role = ROLES[operator][position]
    undefined = (a, b)[position].aval
    values = dict(zip(ROLES[operator], (a, b), strict=True)) | {RESULT[operator]: cotangent}
    derivative = DERIVATIVE[role]
    operands = (values[other] for other in ROLES[derivative])
    params |= {"dtype": undefined.dtype, "out_sharding": _explicit(undefined.sharding)}
    return bind(derivative, *operands, **params)


def _explicit(sharding):
    """The sharding to request; None without a mesh, so that equal programs have equal jaxprs."""
    return None if sharding.mesh.empty else sharding


for _operator, _primitive in PRIMITIVES.items():
    _primitive.def_impl(functools.partial(compat.apply_primitive, _primitive))
    _primitive.def_abstract_eval(functools.partial(abstract_eval, _operator, _primitive.name))
    ad.defbilinear(
        _primitive,
        functools.partial(_transpose, _operator, 0),
        functools.partial(_transpose, _operator, 1),
    )
    compat.add_taylor_rule(_primitive)
    compat.add_nan_check(_primitive)
