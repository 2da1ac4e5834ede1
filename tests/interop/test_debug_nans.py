"""``jax_debug_nans`` names the operation that produces NaN, also under ``accelerate``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxconv
from support.cases import operand

K = operand((3, 4, 4), np.float32)
X = operand((2, 9, 4), np.float32)
INFINITE = X.copy()
INFINITE[0, 4, :2] = np.inf, -np.inf  # of one window, whose sum is NaN where K has one sign
ONES = np.ones_like(K)


def conv(x, k):
    return lax.conv_general_dilated(x, k, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))


def train(conv):
    """A training step: the next kernel and the loss."""

    def step(k, x):
        loss, gradient = jax.value_and_grad(lambda k: jnp.sum(jnp.tanh(conv(x, k)) ** 2))(k)
        return k - gradient, loss

    return step


accelerated = jaxconv.accelerate(conv)

# Of a kernel and images.
CALLS = {
    "function": lambda k, x: jaxconv.conv(x, k),
    "accelerated": lambda k, x: accelerated(x, k),
    "accelerated in a jit": lambda k, x: jax.jit(accelerated)(x, k),
    "accelerated, of a jit": lambda k, x: jaxconv.accelerate(jax.jit(conv))(x, k),
    "gradient of accelerated": jax.grad(lambda k, x: jnp.sum(accelerated(x, k) ** 2)),
    "step": lambda k, x: train(jaxconv.conv)(k, x),
    "donated step": lambda k, x: jax.jit(train(jaxconv.conv), donate_argnums=0)(k, x),
    "donated accelerated": lambda k, x: jax.jit(train(accelerated), donate_argnums=0)(k, x),
    "accelerated donated": lambda k, x: jaxconv.accelerate(jax.jit(train(conv), donate_argnums=0))(
        k, x
    ),
    "accelerated step": lambda k, x: jaxconv.accelerate(train(conv))(k, x),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", CALLS)
def test_the_convolution_is_named(name):
    with jax.debug_nans(True):
        jax.block_until_ready(CALLS[name](jnp.asarray(ONES), X))
        with pytest.raises(FloatingPointError, match=r"\(nan\) encountered in (fused_)?conv\b"):
            CALLS[name](jnp.asarray(ONES), INFINITE)


def test_infinities_are_named():
    kernel = K.copy()
    kernel[1, 0, 0] = np.inf
    with jax.debug_infs(True), pytest.raises(FloatingPointError, match=r"\(inf\) .* in conv\b"):
        accelerated(X, kernel)


def test_nan_that_no_result_of_a_jit_has():
    """A jit is checked by its results, as everywhere in jax."""

    @jaxconv.accelerate
    @jax.jit
    def masked(x, k):
        return jnp.nan_to_num(conv(x, k))

    with jax.debug_nans(True):
        assert np.isfinite(masked(INFINITE, ONES)).all()


def test_without_the_check():
    assert np.isnan(accelerated(INFINITE, ONES)).any()
