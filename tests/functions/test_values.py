"""Every function of the contract against the oracle: values and both gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
from support import cases, oracle
from support.cases import BASIC, by_rank, operand, operands
from support.operators import assert_adjoint, assert_conv
from support.oracle import Case

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.sample(3)
@pytest.mark.parametrize("case", cases.random_cases(2, 24))
def test_conv(case):
    x, k, g = operands(case, np.float64)
    assert_conv(lambda x, k: jaxconv.conv(x, k, **case.options()), case, x, k, g)


@pytest.mark.sample(4)
@pytest.mark.parametrize("case", cases.random_cases(3, 12))
def test_the_adjoint_identity(case):
    x, k, g = operands(case, np.float64)
    y = jaxconv.conv(x, k, **case.options())
    dx = jaxconv.conv_input_grad(g, k, case.input_spatial, **case.options())
    dk = jaxconv.conv_filter_grad(x, g, case.kernel_spatial, **case.options())
    assert_adjoint(case, y, dx, dk, x, k, g)


@by_rank
def test_conv_input_grad(case):
    _, k, g = operands(case, np.float64)
    dx = jaxconv.conv_input_grad(g, k, case.input_spatial, **case.options())
    oracle.assert_right(dx, "x", case, k=k, g=g)


@by_rank
def test_conv_filter_grad(case):
    x, _, g = operands(case, np.float64)
    dk = jaxconv.conv_filter_grad(x, g, case.kernel_spatial, **case.options())
    oracle.assert_right(dk, "k", case, x=x, g=g)


def test_gradients_of_the_gradient_functions():
    """Each is bilinear, and its derivatives are the other two."""
    case = BASIC[1]
    x, k, g = operands(case, np.float64)

    def input_grad(g, k):
        return jaxconv.conv_input_grad(g, k, case.input_spatial, **case.options())

    def filter_grad(x, g):
        return jaxconv.conv_filter_grad(x, g, case.kernel_spatial, **case.options())

    to_g, to_k = jax.vjp(input_grad, g, k)[1](x)
    oracle.assert_right(to_g, "g", case, x=x, k=k)
    oracle.assert_right(to_k, "k", case, x=x, g=g)
    to_x, to_g = jax.vjp(filter_grad, x, g)[1](k)
    oracle.assert_right(to_x, "x", case, k=k, g=g)
    oracle.assert_right(to_g, "g", case, x=x, k=k)


def depthwise(case: Case, multiplier: int) -> Case:
    features = case.in_features
    return case.replace(groups=features, out_features=features * multiplier)


@pytest.mark.parametrize("multiplier", [1, 2, 3])
@by_rank
def test_depthwise_conv(case, multiplier):
    case = depthwise(case, multiplier)
    x, k, g = operands(case, np.float64)
    options = case.options()
    assert options.pop("groups") == case.in_features
    assert_conv(lambda x, k: jaxconv.depthwise_conv(x, k, **options), case, x, k, g)


def pointwise(case: Case) -> Case:
    ones = (1,) * case.rank
    return case.replace(kernel_spatial=ones, padding=((0, 0),) * case.rank, dilation=ones, groups=1)


@by_rank
def test_pointwise_conv(case):
    case = pointwise(case)
    x, k, g = operands(case, np.float64)
    assert_conv(lambda x, k: jaxconv.pointwise_conv(x, k, strides=case.strides), case, x, k, g)


@pytest.mark.parametrize("leading", [(), (5,), (2, 5), (2, 3, 4), (2, 3, 2, 2), (2, 1, 3, 2, 2)])
def test_pointwise_conv_of_any_rank(leading):
    """With a kernel ``[C, F]`` every leading axis is a batch axis."""
    x, k = operand((*leading, 6), np.float64), operand((6, 9), np.float64)
    y, pull = jax.vjp(jaxconv.pointwise_conv, x, k)
    dx, dk = pull(y)
    assert y.shape == (*leading, 9)
    np.testing.assert_allclose(y, x @ k, rtol=1e-12)
    np.testing.assert_allclose(dx, y @ k.T, rtol=1e-12)
    rows = x.reshape(-1, 6), np.asarray(y).reshape(-1, 9)
    np.testing.assert_allclose(dk, rows[0].T @ rows[1], rtol=1e-12)


@pytest.mark.parametrize("flat", [False, True], ids=["full kernel", "flat kernel"])
@by_rank
def test_separable_conv(case, flat):
    first = depthwise(case, 2)
    second = pointwise(first).replace(
        input_spatial=first.shape("g")[1:-1],
        in_features=first.out_features,
        out_features=7,
        strides=(1,) * case.rank,
    )
    x, deep = operands(first, np.float64, "xk")
    point, g = operands(second, np.float64, "kg")
    kernel = point.reshape(point.shape[-2:]) if flat else point
    options = first.options()
    del options["groups"]
    y, pull = jax.vjp(lambda *arrays: jaxconv.separable_conv(*arrays, **options), x, deep, kernel)
    between = oracle.compute("g", first, x=x, k=deep)
    oracle.assert_right(y, "g", second, x=between, k=point)
    dx, d_deep, d_point = pull(g)
    back = oracle.compute("x", second, k=point, g=g)
    oracle.assert_right(d_point.reshape(point.shape), "k", second, x=between, g=g)
    oracle.assert_right(dx, "x", first, k=deep, g=back)
    oracle.assert_right(d_deep, "k", first, x=x, g=back)


def with_bias(function: str):
    """A call of the function, as a function of its bias."""
    case = BASIC[2]
    x, k, g = operands(case, np.float64)
    deep, point = operand((3, 2, 1, 6), np.float64), operand((6, 9), np.float64)
    return {
        "conv": lambda bias: jaxconv.conv(x, k, bias, **case.options()),
        "conv_transpose": lambda bias: jaxconv.conv_transpose(g, k, bias, **case.options()),
        "depthwise_conv": lambda bias: jaxconv.depthwise_conv(x, deep, bias),
        "pointwise_conv": lambda bias: jaxconv.pointwise_conv(x, point, bias),
        "separable_conv": lambda bias: jaxconv.separable_conv(x, deep, point, bias),
    }[function]


@pytest.mark.parametrize(
    "function", ["conv", "conv_transpose", "depthwise_conv", "pointwise_conv", "separable_conv"]
)
def test_bias(function):
    call = with_bias(function)
    without = np.asarray(call(None))
    bias = operand(without.shape[-1:], np.float64)
    y, pull = jax.vjp(call, bias)
    np.testing.assert_allclose(y, without + bias, rtol=1e-13)
    g = operand(y.shape, np.float64)
    np.testing.assert_allclose(pull(g)[0], g.sum(axis=tuple(range(g.ndim - 1))), rtol=1e-12)


UNBATCHED = {
    "conv": lambda x, k, g, case: jaxconv.conv(x, k, **case.options()),
    "conv_transpose": lambda x, k, g, case: jaxconv.conv_transpose(g, k, **case.options()),
    "conv_input_grad": lambda x, k, g, case: jaxconv.conv_input_grad(
        g, k, case.input_spatial, **case.options()
    ),
    "conv_filter_grad": lambda x, k, g, case: jaxconv.conv_filter_grad(
        x, g, case.kernel_spatial, **case.options()
    ),
}


@pytest.mark.parametrize("function", UNBATCHED)
@by_rank
def test_unbatched(case, function):
    """One example without a batch axis gives the same as a batch of one."""
    one = case.replace(batch=1)
    x, k, g = operands(one, np.float64)
    whole = UNBATCHED[function](x, k, g, one)
    single = UNBATCHED[function](x[0], k, g[0], one)
    wanted = whole if function == "conv_filter_grad" else whole[0]
    assert single.shape == wanted.shape
    np.testing.assert_array_equal(single, wanted)


@pytest.mark.parametrize("strides", [2, (2, 2), [2, 2], np.array([2, 2]), np.int32(2)], ids=str)
def test_every_way_of_writing_ints(strides):
    case = BASIC[2].replace(strides=(2, 2), dilation=(2, 2), padding=((2, 2), (2, 2)))
    x, k = operands(case, np.float64, "xk")
    y = jaxconv.conv(x, k, strides=strides, dilation=strides, padding=strides, groups=case.groups)
    oracle.assert_right(y, "g", case, x=x, k=k)


class Wrapped:
    """An object that converts itself to an array, as a Flax variable does."""

    def __init__(self, value):
        self.value = jnp.asarray(value)

    def __jax_array__(self):
        return self.value


@pytest.mark.parametrize("wrap", [np.asarray, jnp.asarray, Wrapped])
def test_what_counts_as_an_array(wrap):
    case = BASIC[1]
    x, k, g = operands(case, np.float64)
    y = jaxconv.conv(wrap(x), wrap(k), wrap(k[0, 0]), **case.options())
    assert isinstance(y, jax.Array)
    oracle.assert_right(np.asarray(y) - k[0, 0], "g", case, x=x, k=k)
    dk = jaxconv.conv_filter_grad(wrap(x), wrap(g), case.kernel_spatial, **case.options())
    oracle.assert_right(dk, "k", case, x=x, g=g)


@pytest.mark.parametrize("precision", ["highest", jax.lax.Precision.HIGH, ("default", "highest")])
def test_precision_reaches_the_primitive(precision):
    case = BASIC[1]
    x, k = operands(case, np.float64, "xk")

    def call(x, k):
        return jaxconv.conv(x, k, precision=precision, **case.options())

    (equation,) = [e for e in jax.make_jaxpr(call)(x, k).jaxpr.eqns if e.primitive.name == "conv"]
    pair = precision if isinstance(precision, tuple) else (precision,)
    wanted = tuple(map(jax.lax.Precision, pair))
    assert equation.params["precision"] in (wanted, wanted[0])
    oracle.assert_right(call(x, k), "g", case, x=x, k=k)
