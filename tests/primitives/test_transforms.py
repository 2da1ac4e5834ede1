"""Control flow, rematerialization, custom rules and disable_jit."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
from support import oracle
from support.cases import operand, operands
from support.operators import assert_uses_primitives, primitives
from support.oracle import Case

pytestmark = pytest.mark.usefixtures("x64")

# Features and extents stay the same, so that the convolution can be applied repeatedly.
LOOP = Case(2, 3, 3, (7,), (3,), (1,), ((2, 0),), (1,), 3)
STEPS = 3


def step(x, k):
    return jnp.tanh(jaxconv.conv(x, k, **LOOP.options()))


def unrolled(x, k):
    for _ in range(STEPS):
        x = step(x, k)
    return jnp.sum(x**2)


def scanned(x, k):
    return jnp.sum(jax.lax.scan(lambda x, _: (step(x, k), None), x, length=STEPS)[0] ** 2)


def looped(x, k):
    return jnp.sum(jax.lax.fori_loop(0, STEPS, lambda _, x: step(x, k), x) ** 2)


def whiled(x, k):
    def body(carry):
        count, x = carry
        return count + 1, step(x, k)

    return jnp.sum(jax.lax.while_loop(lambda carry: carry[0] < STEPS, body, (0, x))[1] ** 2)


def conditional(x, k):
    def many(x):
        return unrolled(x, k)

    return jax.lax.cond(jnp.sum(x**2) > 0, many, lambda x: jnp.sum(x), x)


def switched(x, k):
    branches = [lambda x: jnp.sum(x), functools.partial(unrolled, k=k)]
    return jax.lax.switch(jnp.int32(1), branches, x)


def rematerialized(x, k):
    return unrolled_with(jax.checkpoint(step), x, k)


def unrolled_with(step, x, k):
    for _ in range(STEPS):
        x = step(x, k)
    return jnp.sum(x**2)


def remat_in_scan(x, k):
    body = jax.checkpoint(lambda x, _: (step(x, k), None))
    return jnp.sum(jax.lax.scan(body, x, length=STEPS)[0] ** 2)


@jax.custom_vjp
def doubled(x, k):
    return step(x, k)


doubled.defvjp(
    lambda x, k: jax.vjp(step, x, k),
    lambda pull, g: pull(g),
)


@jax.custom_jvp
def tangent_of_its_own(x, k):
    return step(x, k)


@tangent_of_its_own.defjvp
def _(primals, tangents):
    return jax.jvp(step, primals, tangents)


def custom_vjp(x, k):
    return unrolled_with(doubled, x, k)


def custom_jvp(x, k):
    return unrolled_with(tangent_of_its_own, x, k)


WAYS = [
    scanned,
    looped,
    conditional,
    switched,
    rematerialized,
    remat_in_scan,
    custom_vjp,
    custom_jvp,
]
by_way = pytest.mark.parametrize("way", WAYS)


@pytest.mark.sample(3)
@by_way
def test_values_and_gradients(way):
    x, k = operands(LOOP, np.float64, "xk")
    evaluate = jax.jit(jax.value_and_grad(way, argnums=(0, 1)))
    wanted = jax.value_and_grad(unrolled, argnums=(0, 1))(x, k)
    chex.assert_trees_all_close(evaluate(x, k), wanted, rtol=1e-11, atol=1e-11)
    binds = ["conv", "conv_input_grad", "conv_filter_grad"]
    assert_uses_primitives(jax.grad(way, argnums=(0, 1)), x, k, binds=binds)


@pytest.mark.parametrize("way", [scanned, whiled, looped, conditional, remat_in_scan, custom_jvp])
def test_forward_mode(way):
    x, k = operands(LOOP, np.float64, "xk")
    tangents = operand(x.shape, np.float64, 1), operand(k.shape, np.float64, 2)
    got = jax.jit(lambda *args: jax.jvp(way, args, tangents))(x, k)
    chex.assert_trees_all_close(got, jax.jvp(unrolled, (x, k), tangents), rtol=1e-11)
    assert_uses_primitives(lambda *args: jax.jvp(way, args, tangents), x, k, binds=["conv"])


@pytest.mark.parametrize("way", [scanned, rematerialized, custom_jvp])
def test_forward_over_reverse(way):
    x, k = operands(LOOP, np.float64, "xk")
    v = operand(x.shape, np.float64, 3)

    def product(fn):
        return jax.jvp(lambda x: jax.grad(fn)(x, k), (x,), (v,))[1]

    wanted = product(unrolled)
    np.testing.assert_allclose(jax.jit(product, static_argnums=0)(way), wanted, rtol=1e-10)


def test_vmap_of_gradients_in_scan():
    x, k = operands(LOOP, np.float64, "xk")
    many = jnp.stack([x, 2 * x])
    got = jax.jit(jax.vmap(jax.grad(scanned), (0, None)))(many, k)
    np.testing.assert_allclose(got[1], jax.grad(unrolled)(2 * x, k), rtol=1e-11)


def test_scan_over_kernels():
    """Layers as one scan over their kernels, whose cotangents are stacked."""
    x, k = operands(LOOP, np.float64, "xk")
    kernels = jnp.stack([k, -k, 2 * k])

    def deep(kernels):
        return jnp.sum(jax.lax.scan(lambda x, k: (step(x, k), None), x, kernels)[0] ** 2)

    def unrolled_deep(kernels):
        y = x
        for index in range(3):
            y = step(y, kernels[index])
        return jnp.sum(y**2)

    got, wanted = jax.jit(jax.grad(deep))(kernels), jax.grad(unrolled_deep)(kernels)
    np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("way", [unrolled, scanned, custom_vjp])
def test_disable_jit(way):
    """An eager implementation that used jit would call itself without end."""
    x, k = operands(LOOP, np.float64, "xk")
    wanted = jax.value_and_grad(way)(x, k)
    with jax.disable_jit():
        chex.assert_trees_all_close(jax.value_and_grad(way)(x, k), wanted, rtol=1e-12)
        assert jax.vmap(step, (0, None))(x[None], k).shape == (1, *x.shape)


def test_eval_shape():
    case = LOOP.replace(strides=(2,))
    shapes = [jax.ShapeDtypeStruct(case.shape(role), jnp.bfloat16) for role in "xk"]
    call = functools.partial(jaxconv.conv, **case.options())
    y = jax.eval_shape(call, *shapes)
    assert (y.shape, y.dtype, y.weak_type) == (case.shape("g"), jnp.bfloat16, False)
    gradients = jax.eval_shape(jax.grad(lambda x, k: jnp.sum(call(x, k)), (0, 1)), *shapes)
    assert [g.shape for g in gradients] == [s.shape for s in shapes]


def test_calls_of_one_shape_are_traced_once():
    x, k = operands(LOOP, np.float64, "xk")
    traced = jax.jit(chex.assert_max_traces(step, n=1))
    for factor in (1.0, 2.0, 3.0):
        np.testing.assert_allclose(traced(x, factor * k), step(x, factor * k), rtol=1e-12)


def test_equal_programs_have_equal_jaxprs():
    """No object of one trace stays in the parameters, so that caches hit."""
    x, k = operands(LOOP, np.float64, "xk")
    first, second = (str(jax.make_jaxpr(jax.grad(unrolled))(x, k)) for _ in range(2))
    assert first == second


def test_donated_and_aliased_inputs():
    x, k = operands(LOOP, np.float64, "xk")
    y = jax.jit(step, donate_argnums=0)(jnp.array(x), k)
    np.testing.assert_allclose(y, step(x, k), rtol=1e-12)


class TestVariants(chex.TestCase):
    """Eager and jitted, with and without committing to a device."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    def test_conv_and_its_gradient(self):
        case = LOOP
        x, k, g = operands(case)

        @self.variant
        def gradients(x, k, g):
            y, pull = jax.vjp(lambda x, k: jaxconv.conv(x, k, **case.options()), x, k)
            return y, *pull(g)

        y, dx, dk = gradients(x, k, g)
        oracle.assert_right(y, "g", case, x=x, k=k)
        oracle.assert_right(dx, "x", case, k=k, g=g)
        oracle.assert_right(dk, "k", case, x=x, g=g)


@pytest.mark.parametrize("name", ["convs_saveable", "dots_and_convs_saveable"])
def test_checkpoint_policies(name):
    """A saved convolution is not computed again."""
    x, k = operands(LOOP, np.float64, "xk")

    def gradient(policy):
        return jax.grad(lambda x, k: jnp.sum(jax.checkpoint(step, policy=policy)(x, k)), (0, 1))

    saving = gradient(getattr(jaxconv.checkpoint_policies, name))
    assert primitives(saving, x, k).count("conv") == 1
    assert primitives(gradient(None), x, k).count("conv") == 2
    wanted = jax.grad(lambda x, k: jnp.sum(step(x, k)), (0, 1))(x, k)
    chex.assert_trees_all_close(jax.jit(saving)(x, k), wanted, rtol=1e-12)
