"""Every dtype against the oracle, ``preferred_element_type``, NaN and infinity."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

import jaxconv
from support import cases, oracle
from support.cases import BASIC, DTYPES, operands
from support.operators import assert_adjoint, assert_conv

by_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
LONG = BASIC[1].replace(input_spatial=(400,), kernel_spatial=(31,), padding=((0, 0),))


@pytest.mark.sample(3)
@by_dtype
def test_conv(dtype, x64):
    case = BASIC[2]
    x, k, g = operands(case, dtype)
    assert_conv(lambda x, k: jaxconv.conv(x, k, **case.options()), case, x, k, g)


@pytest.mark.sample(6)
@by_dtype
def test_conv_transpose(dtype, x64):
    case = BASIC[1].replace(padding=((0, 0),), input_spatial=(11,))
    x, k, g = operands(case, dtype)
    options = case.options()
    dx, pull = jax.vjp(lambda g, k: jaxconv.conv_transpose(g, k, **options), g, k)
    oracle.assert_right(dx, "x", case, k=k, g=g)
    to_g, to_k = pull(x)
    assert dx.dtype == to_g.dtype == to_k.dtype == dtype
    oracle.assert_right(to_g, "g", case, x=x, k=k)
    oracle.assert_right(to_k, "k", case, x=x, g=g)


@by_dtype
def test_depthwise_conv(dtype, x64):
    case = BASIC[2].replace(groups=6, out_features=12)
    x, k, g = operands(case, dtype)
    options = {key: value for key, value in case.options().items() if key != "groups"}
    assert_conv(lambda x, k: jaxconv.depthwise_conv(x, k, **options), case, x, k, g)


@pytest.mark.sample(2)
@by_dtype
def test_adjoint_identity(dtype, x64):
    case = BASIC[2]
    x, k, g = operands(case, dtype)
    y = jaxconv.conv(x, k, **case.options())
    dx = jaxconv.conv_input_grad(g, k, case.input_spatial, **case.options())
    dk = jaxconv.conv_filter_grad(x, g, case.kernel_spatial, **case.options())
    assert y.dtype == dx.dtype == dk.dtype == dtype
    assert_adjoint(case, y, dx, dk, x, k, g)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_dtypes_accumulate_in_float32(dtype):
    """Sums of 186 to 1110 products, accurate to the last digit of a float16."""
    x, k, g = operands(LONG, dtype)
    assert_conv(lambda x, k: jaxconv.conv(x, k, **LONG.options()), LONG, x, k, g)


def test_default_dtype_is_float32():
    """NumPy's float64 arrays become float32 unless jax has float64 enabled."""
    case = BASIC[1]
    x, k = operands(case, np.float64, "xk")
    y = jaxconv.conv(x, k, **case.options())
    assert y.dtype == jnp.float32
    oracle.assert_right(y, "g", case, x=x.astype(np.float32), k=k.astype(np.float32))


PREFERRED = [
    (np.float16, np.float32),
    (ml_dtypes.bfloat16, np.float32),
    (np.float32, np.float32),
    (np.float32, np.float64),
    (ml_dtypes.bfloat16, np.float64),
    (np.complex64, np.complex128),
]


@pytest.mark.parametrize(("dtype", "preferred"), PREFERRED)
def test_preferred_element_type(dtype, preferred, x64):
    """The result is wider, and so are the cotangents; the gradients have the operands' dtype."""
    case = BASIC[2]
    x, k = operands(case, dtype, "xk")
    (g,) = operands(case, preferred, "g")

    def call(x, k):
        return jaxconv.conv(x, k, preferred_element_type=preferred, **case.options())

    assert call(x, k).dtype == preferred
    assert_conv(call, case, x, k, g)


@pytest.mark.parametrize("preferred", ["float32"])
def test_every_function_takes_preferred_element_type(preferred):
    case = BASIC[1].replace(padding=((0, 0),))
    x, k, g = operands(case, ml_dtypes.bfloat16)
    options = {"preferred_element_type": preferred}
    calls = [
        jaxconv.conv(x, k, groups=3, **options),
        jaxconv.conv_transpose(g, k, **options, groups=3),
        jaxconv.conv_input_grad(g, k, case.input_spatial, **case.options(), **options),
        jaxconv.conv_filter_grad(x, g, case.kernel_spatial, **case.options(), **options),
        jaxconv.depthwise_conv(x, np.ones((3, 1, 6), x.dtype), **options),
        jaxconv.pointwise_conv(x, np.ones((6, 5), x.dtype), **options),
        jaxconv.separable_conv(
            x, np.ones((3, 1, 6), x.dtype), np.ones((6, 5), x.dtype), np.ones(5, x.dtype), **options
        ),
        jaxconv.causal_conv(x, k, np.ones(9, x.dtype), groups=3, **options),
    ]
    assert {y.dtype for y in calls} == {np.dtype(np.float32)}


@pytest.mark.sample(6)
@pytest.mark.parametrize("implementation", [None, "lax", "dots"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_wide_results_of_every_operator(dtype, implementation):
    """The cotangent is wider than the gradient."""
    case = BASIC[1]
    options = {"preferred_element_type": jnp.float32, "implementation": implementation}
    calls = {
        "xk": lambda x, k: jaxconv.conv(x, k, **case.options(), **options),
        "gk": lambda g, k: jaxconv.conv_input_grad(
            g, k, case.input_spatial, **case.options(), **options
        ),
        "xg": lambda x, g: jaxconv.conv_filter_grad(
            x, g, case.kernel_spatial, **case.options(), **options
        ),
    }
    for roles, call in calls.items():
        a, b = operands(case, dtype, roles)
        (returned,) = {"x", "k", "g"} - set(roles)
        cotangent = operands(case, np.float32, returned)[0]
        gradients = jax.vjp(call, a, b)[1](jnp.asarray(cotangent))
        for role, other, value, gradient in zip(roles, roles[::-1], (b, a), gradients, strict=True):
            wanted = oracle.compute(role, case, **{other: value, returned: cotangent})
            assert gradient.dtype == a.dtype
            scale = 0.02 * np.abs(wanted).max()
            np.testing.assert_allclose(oracle.exact(gradient), wanted, rtol=0.02, atol=scale)


def test_preferred_element_type_differentiates_twice(x64):
    case = BASIC[1]
    x, k = operands(case, ml_dtypes.bfloat16, "xk")

    def energy(x, k):
        y = jaxconv.conv(x, k, preferred_element_type=jnp.float64, **case.options())
        return jnp.sum(y**2) / 2

    direction = operands(case, ml_dtypes.bfloat16, "x")[0][::-1]
    product = jax.jvp(jax.grad(energy), (x, k), (direction, jnp.zeros_like(k)))[1]
    image = oracle.compute("g", case, x=direction, k=k)
    wanted = oracle.compute("x", case, k=k, g=image)
    assert product.dtype == x.dtype
    np.testing.assert_allclose(oracle.exact(product), wanted, rtol=0.02, atol=0.02 * wanted.std())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", cases.random_cases(5, 4))
def test_nan_and_infinity_flow_as_in_lax(case, value):
    """Also inf - inf, inf * 0 and products with zero padding."""
    x, k, _ = operands(case)
    x.flat[1::7] = value
    k.flat[::5] = 0.0
    letters = {1: "W", 2: "HW", 3: "DHW"}[case.rank]
    wanted = lax.conv_general_dilated(
        x,
        k,
        case.strides,
        case.padding,
        rhs_dilation=case.dilation,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=case.groups,
    )
    y = jaxconv.conv(x, k, **case.options())
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)
    assert not np.isfinite(y).all()


@pytest.mark.parametrize("case", cases.random_cases(5, 4))
def test_nan_in_a_kernel(case):
    """It reaches every output that reads it, and at most those that it reaches in lax."""
    x, k, _ = operands(case)
    k.flat[::3] = np.nan
    y = jaxconv.conv(x, k, **case.options())
    by_lax = jaxconv.conv(x, k, implementation="lax", **case.options())
    required = oracle.compute("g", case, x=np.ones_like(x), k=np.isnan(k).astype(np.float32)) != 0
    assert required.any()
    assert not np.any(required & ~np.isnan(y))
    assert not np.any(np.isnan(y) & ~np.isnan(by_lax))


@pytest.mark.parametrize("function", ["conv_input_grad", "conv_filter_grad"])
def test_nan_in_gradients(function):
    """One NaN in the cotangent reaches only the gradients that depend on it."""
    case = BASIC[1]
    x, k, g = operands(case)
    g[0, 1, 4] = np.nan
    touched = np.isnan(g).astype(np.float32)
    calls = {
        "conv_input_grad": lambda x, k, g: jaxconv.conv_input_grad(
            g, k, case.input_spatial, **case.options()
        ),
        "conv_filter_grad": lambda x, k, g: jaxconv.conv_filter_grad(
            x, g, case.kernel_spatial, **case.options()
        ),
    }
    reached = calls[function](np.ones_like(x), np.ones_like(k), touched) != 0
    is_nan = np.isnan(calls[function](x, k, g))
    assert is_nan.any()
    assert not np.any(is_nan & ~np.asarray(_group_of(reached, function)))


def _group_of(reached, function):
    """Within one group an implementation may multiply unrelated entries by zero, as lax does."""
    return reached if function == "conv_input_grad" else np.broadcast_to(True, reached.shape)
