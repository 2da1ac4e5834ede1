"""lax's parameters as an operator and a spec, and back."""

import functools

import jax
import numpy as np
import pytest
from jax import lax

import jaxconv
from jaxconv._src.geometry.spec import Operator
from jaxconv._src.interop.lax_params import (
    LaxConvolution,
    Recognised,
    as_input_gradient,
    lax_parameters,
    recognise,
)
from jaxconv._src.primitives import rules
from support.cases import by_rank, operands, random_cases
from support.family import ROLES, as_spec

pytestmark = pytest.mark.usefixtures("x64")


def lax_of(fn, *args) -> list[LaxConvolution]:
    """The parameters of lax's convolutions in a program."""
    found = []
    for equation in jax.make_jaxpr(fn)(*args).jaxpr.eqns:
        if equation.primitive is lax.conv_general_dilated_p:
            params = equation.params
            found.append(
                LaxConvolution(
                    *(operand.aval.shape for operand in equation.invars),
                    params["window_strides"],
                    params["padding"],
                    params["lhs_dilation"],
                    params["rhs_dilation"],
                    tuple(params["dimension_numbers"]),
                    params["feature_group_count"],
                    params["batch_group_count"],
                )
            )
    return found


def lax_conv(case):
    letters = {1: "W", 2: "HW", 3: "DHW"}[case.rank]
    return functools.partial(
        lax.conv_general_dilated,
        window_strides=case.strides,
        padding=case.padding,
        rhs_dilation=case.dilation,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=case.groups,
    )


@by_rank
def test_lax_s_convolution_is_conv_of_its_spec(case):
    x, k = operands(case, roles="xk")
    (parameters,) = lax_of(lax_conv(case), x, k)
    found = recognise(parameters)
    assert isinstance(found, Recognised)
    assert (found.operator, found.spec, found.swapped) == (Operator.CONV, as_spec(case), False)


@pytest.mark.parametrize("case", random_cases(41, 20))
def test_there_and_back(case):
    """``lax_parameters`` of an operator is recognised as one that computes the same."""
    spec = as_spec(case)
    for operator in Operator:
        parameters = lax_parameters(operator, spec)
        found = recognise(parameters)
        assert isinstance(found, Recognised), found
        shapes = (found.spec.result_shape(found.operator), spec.result_shape(operator))
        assert sorted(shapes[0]) == sorted(shapes[1])
        assert found.operator is not operator or found.spec.macs == spec.macs


def gradient(case, role):
    """lax's own transposition of its convolution in one operand."""
    x, k, g = operands(case, np.float64)
    conv = lax_conv(case)
    at = {"x": (lambda x: conv(x, k), x), "k": (lambda k: conv(x, k), k)}[role]
    return jax.linear_transpose(*at), g


@pytest.mark.parametrize("role", ["x", "k"])
@pytest.mark.parametrize("case", random_cases(42, 12))
def test_lax_s_gradients_are_served_by_the_family(case, role):
    """Whatever lax makes of its gradients, run by the drop-in it gives the same numbers."""
    transpose, g = gradient(case, role)
    wanted = transpose(g)[0]
    ours = served_by_family(transpose, g)[0]
    np.testing.assert_allclose(ours, wanted, rtol=1e-11, atol=1e-10)


def served_by_family(fn, *args):
    """Interprets ``fn`` with each of lax's convolutions done by the drop-in."""
    closed = jax.make_jaxpr(fn)(*args)
    values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(closed.jaxpr.invars, args, strict=True))

    def read(atom):
        return values[atom] if hasattr(atom, "count") or atom in values else atom.val

    for equation in closed.jaxpr.eqns:
        params = dict(equation.params)
        inputs = [read(atom) for atom in equation.invars]
        if equation.primitive is lax.conv_general_dilated_p:
            results = [jaxconv.conv_general_dilated(*inputs, **params)]
        else:
            results = equation.primitive.bind(*inputs, **params)
            results = results if equation.primitive.multiple_results else [results]
        values |= dict(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


REFUSED = {
    "strided and dilated": {"window_strides": (2,), "lhs_dilation": (2,)},
    "empty operand": {"lhs_shape": (0, 6, 2)},
    "empty result": {"lhs_shape": (2, 2, 2), "padding": ((0, 0),)},
    "features": {"lhs_shape": (2, 6, 3)},
    "zero stride": {"window_strides": (0,)},
    "both groups": {"feature_group_count": 2, "batch_group_count": 2},
}


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_an_input_gradient_takes_the_kernel_as_it_lies(strides):
    """lax hands it over with the two feature axes exchanged; nobody is to transpose them back."""
    conv = functools.partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=[(1, 0), (-1, 2)],
        rhs_dilation=(1, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x, k = np.ones((2, 7, 9, 3)), np.ones((3, 2, 3, 5))
    y = jax.eval_shape(conv, x, k)
    (parameters,) = lax_of(jax.linear_transpose(lambda x: conv(x, k), x), np.ones(y.shape))
    found = recognise(parameters)
    assert isinstance(found, Recognised)
    found = as_input_gradient(found)
    assert (found.operator, found.spec.kernel_shape) == (Operator.INPUT_GRAD, k.shape)
    assert (found.spec.input_shape, found.spec.output_shape) == (x.shape, y.shape)
    assert (found.rhs.permutation, found.rhs.groups) == ((0, 1, 2, 3), None)


@by_rank
def test_a_convolution_is_not_taken_for_an_input_gradient(case):
    (parameters,) = lax_of(lax_conv(case), *operands(case, roles="xk"))
    found = recognise(parameters)
    assert isinstance(found, Recognised)
    assert as_input_gradient(found) is found


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED)
def test_what_is_no_member_says_why(changes):
    member = LaxConvolution(
        (2, 6, 2),
        (3, 2, 4),
        (1,),
        ((1, 1),),
        (1,),
        (1,),
        ((0, 2, 1), (2, 1, 0), (0, 2, 1)),
    )
    assert isinstance(recognise(member), Recognised)
    reason = recognise(member._replace(**changes))
    assert isinstance(reason, str)
    assert reason


@pytest.mark.parametrize("case", random_cases(43, 6, kind="grouped"))
def test_filter_gradients_of_groups_are_filter_gradients(case):
    """What XLA:CPU is slowest at must reach the family's own kernel, with the spec of the
    convolution it came from."""
    transpose, g = gradient(case, "k")
    found = [recognise(parameters) for parameters in lax_of(transpose, g)]
    assert [one.operator for one in found] == [Operator.FILTER_GRAD]
    assert found[0].spec.groups == case.groups
    assert found[0].spec.kernel_spatial == case.kernel_spatial
    assert set(ROLES) == set(rules.PRIMITIVES)
