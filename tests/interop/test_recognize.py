"""lax's convolutions are recognized as the right operators, with the right specs and layouts."""

import functools

import jax
import numpy as np
import pytest
from jax import lax

import jaxconv
from jaxconv._src.geometry.spec import Operator
from jaxconv._src.interop.lax_params import LaxConvolution
from jaxconv._src.interop.recognize import recognize
from jaxconv._src.interop.recognized_operator import RecognizedOperator, as_input_grad
from jaxconv._src.primitives import rules
from support.cases import by_rank, operands, random_cases
from support.operators import ROLES, as_spec

pytestmark = pytest.mark.usefixtures("x64")


def lax_convolutions(fn, *args) -> list[LaxConvolution]:
    """The parameters of all of lax's convolutions in the program of ``fn``."""
    convolutions = []
    for equation in jax.make_jaxpr(fn)(*args).jaxpr.eqns:
        if equation.primitive is lax.conv_general_dilated_p:
            params = equation.params
            convolutions.append(
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
    return convolutions


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
def test_laxs_convolution_is_conv_of_its_spec(case):
    x, k = operands(case, roles="xk")
    (parameters,) = lax_convolutions(lax_conv(case), x, k)
    recognized = recognize(parameters)
    assert isinstance(recognized, RecognizedOperator)
    assert (recognized.operator, recognized.spec, recognized.swapped) == (
        Operator.CONV,
        as_spec(case),
        False,
    )


def gradient(case, role):
    """lax's own transposition of its convolution in one operand."""
    x, k, g = operands(case, np.float64)
    conv = lax_conv(case)
    at = {"x": (lambda x: conv(x, k), x), "k": (lambda k: conv(x, k), k)}[role]
    return jax.linear_transpose(*at), g


@pytest.mark.sample(8)
@pytest.mark.parametrize("role", ["x", "k"])
@pytest.mark.parametrize("case", random_cases(42, 12))
def test_laxs_gradients_have_the_same_values(case, role):
    """The convolutions in lax's gradients, computed by jaxconv's drop-in replacement."""
    transpose, g = gradient(case, role)
    expected = transpose(g)[0]
    ours = with_jaxconv(transpose, g)[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-10)


def with_jaxconv(fn, *args):
    """Evaluates ``fn`` with the drop-in replacement for each of lax's convolutions."""
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


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_an_input_gradient_needs_no_transposed_kernel(strides):
    """lax swaps the two feature axes of the kernel; swapping them back would cost a copy."""
    conv = functools.partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=[(1, 0), (-1, 2)],
        rhs_dilation=(1, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x, k = np.ones((2, 7, 9, 3)), np.ones((3, 2, 3, 5))
    y = jax.eval_shape(conv, x, k)
    (parameters,) = lax_convolutions(
        jax.linear_transpose(lambda x: conv(x, k), x), np.ones(y.shape)
    )
    recognized = recognize(parameters)
    assert isinstance(recognized, RecognizedOperator)
    recognized = as_input_grad(recognized)
    assert (recognized.operator, recognized.spec.kernel_shape) == (Operator.INPUT_GRAD, k.shape)
    assert (recognized.spec.input_shape, recognized.spec.output_shape) == (x.shape, y.shape)
    assert (recognized.rhs.permutation, recognized.rhs.groups) == ((0, 1, 2, 3), None)


@by_rank
def test_a_convolution_is_not_taken_for_an_input_gradient(case):
    (parameters,) = lax_convolutions(lax_conv(case), *operands(case, roles="xk"))
    recognized = recognize(parameters)
    assert isinstance(recognized, RecognizedOperator)
    assert as_input_grad(recognized) is recognized


UNSUPPORTED = {
    "left-hand side is dilated": {"window_strides": (2,), "lhs_dilation": (2,)},
    "an operand is empty": {"lhs_shape": (0, 6, 2)},
    "the result is empty": {"lhs_shape": (2, 2, 2), "padding": ((0, 0),)},
    "feature counts of the operands": {"lhs_shape": (2, 6, 3)},
    "a stride, dilation or group count": {"window_strides": (0,)},
    "both the features and the batch": {"feature_group_count": 2, "batch_group_count": 2},
}


@pytest.mark.parametrize(("reason", "changes"), UNSUPPORTED.items(), ids=UNSUPPORTED)
def test_unsupported_convolutions_have_a_reason(reason, changes):
    supported = LaxConvolution(
        (2, 6, 2),
        (3, 2, 4),
        (1,),
        ((1, 1),),
        (1,),
        (1,),
        ((0, 2, 1), (2, 1, 0), (0, 2, 1)),
    )
    assert isinstance(recognize(supported), RecognizedOperator)
    recognized = recognize(supported._replace(**changes))
    assert isinstance(recognized, str)
    assert reason in recognized


@pytest.mark.parametrize("case", random_cases(43, 6, kind="grouped"))
def test_filter_gradients_of_groups_are_filter_gradients(case):
    """These are what XLA:CPU is slowest at, so jaxconv must compute them, by the spec of the
    convolution that was differentiated."""
    transpose, g = gradient(case, "k")
    (parameters,) = lax_convolutions(transpose, g)
    recognized = recognize(parameters)
    assert isinstance(recognized, RecognizedOperator)
    assert recognized.operator is Operator.FILTER_GRAD
    assert recognized.spec.groups == case.groups
    assert recognized.spec.kernel_spatial == case.kernel_spatial
    assert set(ROLES) == set(rules.PRIMITIVES)
