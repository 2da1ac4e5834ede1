"""Derivatives of every order and mode are correct, and use jaxconv's primitives only."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import jet
from jax.test_util import check_grads

import jaxconv
from support import oracle
from support.cases import operand, operands
from support.operators import assert_uses_primitives
from support.oracle import Case

pytestmark = pytest.mark.usefixtures("x64")

CASES = {
    "dense": Case(2, 2, 3, (5,), (3,), (2,), ((1, 2),), (1,)),
    "grouped": Case(1, 4, 6, (4, 3), (2, 3), (1, 2), ((1, 0), (2, 1)), (2, 1), 2),
    "depthwise": Case(2, 3, 6, (5,), (2,), (1,), ((-1, 2),), (2,), 3),
}
by_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SMALL = CASES["dense"]


def calls(case: Case) -> dict:
    """The three operators and the transposed convolution, each of two arrays."""
    options = case.options()
    return {
        "conv": (functools.partial(jaxconv.conv, **options), "xk"),
        "conv_transpose": (functools.partial(jaxconv.conv_transpose, **options), "gk"),
        "conv_input_grad": (
            lambda g, k: jaxconv.conv_input_grad(g, k, case.input_spatial, **options),
            "gk",
        ),
        "conv_filter_grad": (
            lambda x, g: jaxconv.conv_filter_grad(x, g, case.kernel_spatial, **options),
            "xg",
        ),
    }


by_function = pytest.mark.parametrize("function", calls(SMALL))


def energy(case: Case):
    """``sum(conv(x, k)**3) / 3``: derivatives up to the sixth order do not vanish."""
    return lambda x, k: jnp.sum(jaxconv.conv(x, k, **case.options()) ** 3) / 3


def image(case: Case, x, k):
    return oracle.compute("g", case, x=x, k=k)


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("conv", "dense"),
        ("conv", "grouped"),
        ("conv_transpose", "dense"),
        ("conv_input_grad", "depthwise"),
        ("conv_filter_grad", "depthwise"),
    ],
)
def test_check_grads_of_second_order(function, name):
    call, roles = calls(CASES[name])[function]
    arrays = operands(CASES[name], np.float64, roles)
    check_grads(jax.jit(call), arrays, order=2, modes=["fwd", "rev"])


def test_check_grads_of_complex_numbers():
    arrays = operands(SMALL, np.complex128, "xk")
    check_grads(jax.jit(energy(SMALL)), arrays, order=2, modes=["fwd"])


@by_case
def test_gradients_of_the_energy(case):
    x, k = operands(case, np.float64, "xk")
    dx, dk = jax.grad(energy(case), argnums=(0, 1))(x, k)
    squares = image(case, x, k) ** 2
    oracle.assert_right(dx, "x", case, k=k, g=squares)
    oracle.assert_right(dk, "k", case, x=x, g=squares)


def hessian_vector_products(fn, x, k, v):
    """The product with the Hessian in ``x``, for each way of nesting the two modes."""
    yield "fwd over rev", lambda x, k, v: jax.jvp(lambda x: jax.grad(fn)(x, k), (x,), (v,))[1]
    yield (
        "rev over fwd",
        lambda x, k, v: jax.grad(lambda x: jax.jvp(lambda x: fn(x, k), (x,), (v,))[1])(x),
    )
    yield "rev over rev", lambda x, k, v: jax.grad(lambda x: jnp.vdot(jax.grad(fn)(x, k), v))(x)


@pytest.mark.sample(2)
@by_case
def test_hessian_vector_products(case):
    x, k = operands(case, np.float64, "xk")
    v = operand(x.shape, np.float64, 99)
    g = 2 * image(case, x, k) * image(case, v, k)
    for _, product in hessian_vector_products(energy(case), x, k, v):
        oracle.assert_right(jax.jit(product)(x, k, v), "x", case, k=k, g=g)
        assert_uses_primitives(product, x, k, v, binds=["conv", "conv_input_grad"])


def test_mixed_second_derivatives():
    """The derivative in the kernel of the gradient in the input, and the other way round."""
    case = CASES["grouped"]
    x, k = operands(case, np.float64, "xk")
    v, w = operand(x.shape, np.float64, 98), operand(k.shape, np.float64, 97)

    def by_kernel(x, k):
        return jax.grad(lambda k: jnp.vdot(jax.grad(energy(case))(x, k), v))(k)

    y, along_v = image(case, x, k), image(case, v, k)
    wanted = oracle.compute("k", case, x=v, g=y**2)
    wanted += oracle.compute("k", case, x=x, g=2 * y * along_v)
    np.testing.assert_allclose(jax.jit(by_kernel)(x, k), wanted, rtol=1e-10)
    binds = ["conv", "conv_input_grad", "conv_filter_grad"]
    assert_uses_primitives(by_kernel, x, k, binds=binds)
    other = jax.grad(lambda x, k: jnp.vdot(jax.grad(energy(case), argnums=1)(x, k), w))(x, k)
    np.testing.assert_allclose(jnp.vdot(by_kernel(x, k), w), jnp.vdot(other, v), rtol=1e-10)


def third_derivatives(fn, u, v, w):
    """The derivative along u and v in x and along w in k, by several nestings of the modes."""

    def along_x(fn, u):
        return lambda x, k: jax.jvp(lambda x: fn(x, k), (x,), (u,))[1]

    def along_k(fn, w):
        return lambda x, k: jax.jvp(lambda k: fn(x, k), (k,), (w,))[1]

    def pulled(fn, argnum, direction):
        return lambda x, k: jnp.vdot(jax.grad(fn, argnums=argnum)(x, k), direction)

    yield "forward three times", along_k(along_x(along_x(fn, u), v), w)
    yield "reverse three times", pulled(pulled(pulled(fn, 0, u), 0, v), 1, w)
    yield "reverse, forward, reverse", pulled(along_x(pulled(fn, 0, u), v), 1, w)
    yield "forward, reverse, forward", along_k(pulled(along_x(fn, u), 0, v), w)


@pytest.mark.sample(3)
@by_case
def test_mixed_third_derivatives(case):
    x, k = operands(case, np.float64, "xk")
    u, v = operand(x.shape, np.float64, 1), operand(x.shape, np.float64, 2)
    w = operand(k.shape, np.float64, 3)
    c = functools.partial(image, case)
    wanted = 2 * np.sum(
        c(x, w) * c(v, k) * c(u, k) + c(x, k) * c(v, w) * c(u, k) + c(x, k) * c(v, k) * c(u, w)
    )
    for _, third in third_derivatives(energy(case), u, v, w):
        np.testing.assert_allclose(jax.jit(third)(x, k), wanted, rtol=1e-9)
        assert_uses_primitives(third, x, k, binds=["conv"])


@by_case
def test_per_example_gradients(case):
    x, k, g = operands(case.replace(batch=3), np.float64)
    one = case.replace(batch=1)

    def loss(k, x, g):
        return jnp.sum(jaxconv.conv(x, k, **case.options()) * g)

    per_example = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))
    dk = jax.jit(per_example)(k, x, g)
    for n in range(3):
        oracle.assert_right(dk[n], "k", one, x=x[n : n + 1], g=g[n : n + 1])
    assert_uses_primitives(per_example, k, x, g, binds=["conv_filter_grad"])


@pytest.mark.sample(2)
@by_function
def test_jacobians(function):
    """Forward and reverse mode agree, and the Jacobian times an operand is the value."""
    call, roles = calls(SMALL)[function]
    a, b = operands(SMALL, np.float64, roles)
    forward, reverse = (jax.jit(mode(call, argnums=(0, 1))) for mode in (jax.jacfwd, jax.jacrev))
    in_a, in_b = forward(a, b)
    chex.assert_trees_all_close((in_a, in_b), reverse(a, b), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(jnp.tensordot(in_a, a, a.ndim), call(a, b), atol=1e-10)
    np.testing.assert_allclose(jnp.tensordot(in_b, b, b.ndim), call(a, b), atol=1e-10)
    assert_uses_primitives(jax.jacrev(jax.jacfwd(call)), a, b)


def test_hessian():
    x, k = operands(SMALL, np.float64, "xk")
    hessian = jax.jit(jax.hessian(energy(SMALL)))(x, k)
    v = operand(x.shape, np.float64, 5)
    g = 2 * image(SMALL, x, k) * image(SMALL, v, k)
    oracle.assert_right(jnp.tensordot(hessian, v, v.ndim), "x", SMALL, k=k, g=g)
    assert_uses_primitives(jax.hessian(energy(SMALL)), x, k, binds=["conv", "conv_input_grad"])


@by_case
def test_linearize(case):
    x, k = operands(case, np.float64, "xk")
    y, tangent = jax.linearize(functools.partial(jaxconv.conv, **case.options()), x, k)
    oracle.assert_right(y, "g", case, x=x, k=k)
    v, w = operand(x.shape, np.float64, 6), operand(k.shape, np.float64, 7)
    wanted = image(case, v, k) + image(case, x, w)
    np.testing.assert_allclose(tangent(v, w), wanted, rtol=1e-11, atol=1e-11)


@by_case
def test_linear_transpose(case):
    """The transpose in each operand; transposing twice gives the original."""
    x, k, g = operands(case, np.float64)
    conv = functools.partial(jaxconv.conv, **case.options())
    (dx,) = jax.linear_transpose(lambda x: conv(x, k), x)(g)
    (dk,) = jax.linear_transpose(lambda k: conv(x, k), k)(g)
    oracle.assert_right(dx, "x", case, k=k, g=g)
    oracle.assert_right(dk, "k", case, x=x, g=g)
    back = jax.linear_transpose(lambda g: jax.linear_transpose(lambda x: conv(x, k), x)(g), g)
    oracle.assert_right(back((x,))[0], "g", case, x=x, k=k)


def test_one_array_as_both_operands():
    """``x * x``: the derivative is the sum of those in the input and in the kernel."""
    x = operand((3, 4, 4), np.float64)

    def square(x):
        return jaxconv.conv(x[:, :, :], x, padding="FULL")

    v = operand(x.shape, np.float64, 8)
    tangent = jax.jvp(square, (x,), (v,))[1]
    wanted = jaxconv.conv(v, x, padding="FULL") + jaxconv.conv(x, v, padding="FULL")
    np.testing.assert_allclose(tangent, wanted, rtol=1e-12, atol=1e-12)
    g = operand(tangent.shape, np.float64, 9)
    (pulled,) = jax.vjp(square, x)[1](g)
    np.testing.assert_allclose(jnp.vdot(pulled, v), jnp.vdot(g, tangent), rtol=1e-11)
    assert_uses_primitives(jax.jacrev(square), x)


def test_zero_tangents_and_unused_operands():
    x, k = operands(SMALL, np.float64, "xk")
    conv = functools.partial(jaxconv.conv, **SMALL.options())
    assert not jax.grad(lambda x: jnp.sum(conv(jax.lax.stop_gradient(x), k)))(x).any()
    dk = jax.grad(lambda k: jnp.sum(conv(x, k)))(k)
    ones = np.ones(SMALL.shape("g"))
    oracle.assert_right(dk, "k", SMALL, x=x, g=ones)


@pytest.mark.sample(4)
@by_function
def test_taylor_mode(function):
    """All derivatives along ``a(t), b(t)`` at once equal those by nested jvps."""
    case, order = CASES["grouped"], 3
    call, roles = calls(case)[function]
    primals, *terms = (
        tuple(operand(case.shape(role), np.float64, 10 * ord(role) + j) for role in roles)
        for j in range(order + 1)
    )
    cubed = lambda a, b: call(a, b) ** 3  # noqa: E731
    series = [list(each) for each in zip(*terms, strict=True)]
    value, derivatives = jet.jet(cubed, primals, series)

    def along(t):
        steps = [t**j / math.factorial(j) for j in range(1, order + 1)]
        moved = (
            primal + sum(step * term for step, term in zip(steps, each, strict=True))
            for primal, each in zip(primals, series, strict=True)
        )
        return cubed(*moved)

    chex.assert_trees_all_close(value, along(0.0), rtol=1e-12)
    for found in derivatives:
        along = functools.partial(lambda f, t: jax.jvp(f, (t,), (1.0,))[1], along)
        wanted = along(0.0)
        chex.assert_trees_all_close(found, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
    assert_uses_primitives(lambda *primals: jet.jet(cubed, primals, series), *primals)
