"""``accelerate`` on unmodified models of five libraries: outputs and gradients do not change."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv import accelerate, explain
from support.operators import primitives

os.environ.setdefault("KERAS_BACKEND", "jax")

# These libraries rely on jax's own promotion rules.
pytestmark = [
    pytest.mark.lenient,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((2, 12, 10, 3)), jnp.float32)


def assert_the_same(apply, parameters, x):
    """The result and its gradients to 1e-4, differentiated inside and outside of ``accelerate``."""

    def training(wrap, fn):
        def loss(parameters, x):
            y = fn(parameters, x)
            return jnp.mean(jnp.square(y)), y

        return wrap(jax.value_and_grad(loss, has_aux=True))

    expected = jax.jit(training(lambda step: step, apply))(parameters, x)
    inside, outside = training(accelerate, apply), training(lambda step: step, accelerate(apply))
    for ours in jax.jit(lambda *args: (inside(*args), outside(*args)))(parameters, x):
        assert_close(ours, expected)
    for step in (inside, outside):
        bound = set(primitives(step, parameters, x))
        assert "conv_general_dilated" not in bound
        assert "conv_filter_grad" in bound
        assert bound & {"conv", "fused_conv"}


def assert_close(ours, theirs):
    """One scale for all leaves: the gradient of a bias before a normalization is only rounding."""
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.slow
def test_flax_linen():
    from flax import linen

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Conv(6, (3, 3), strides=2)(x))
            x = linen.relu(linen.Conv(12, (3, 3), feature_group_count=6)(x))
            x = linen.Conv(8, (1, 1))(linen.GroupNorm(num_groups=3)(x))
            x = linen.ConvTranspose(5, (4, 3), strides=(2, 2))(x)
            return linen.Dense(4)(x.mean((1, 2)))

    network = Network()
    assert_the_same(network.apply, network.init(jax.random.key(0), X), X)


def test_flax_linen_scanned_and_rematerialized():
    from flax import linen

    class Block(linen.Module):
        @linen.compact
        def __call__(self, x, _):
            return x + linen.Conv(3, (3, 3), feature_group_count=3)(jnp.tanh(x)), None

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            scanned = linen.scan(
                linen.remat(Block), {"params": 0}, split_rngs={"params": True}, length=3
            )
            return scanned()(x, None)[0]

    network = Network()
    assert_the_same(network.apply, network.init(jax.random.key(0), X), X)


def test_flax_nnx():
    from flax import nnx

    rngs = nnx.Rngs(0)
    network = nnx.Sequential(
        nnx.Conv(3, 6, (3, 3), strides=2, padding="CIRCULAR", rngs=rngs),
        nnx.relu,
        nnx.Conv(6, 6, (5, 5), feature_group_count=6, kernel_dilation=2, rngs=rngs),
        nnx.LayerNorm(6, rngs=rngs),
        nnx.ConvTranspose(6, 4, (3, 3), strides=(2, 2), rngs=rngs),
    )
    structure, state = nnx.split(network)
    assert_the_same(lambda state, x: nnx.merge(structure, state)(x), state, X)


def test_flax_nnx_state_that_changes_is_rejected():
    from flax import nnx

    network = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"in place.*for flax\.nnx: split the module"):
        accelerate(lambda network, x: network(x))(network, X)


def test_modules_are_read_at_each_call():
    """A module may be trained between calls; also one that is accelerated by a method."""
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self):
            self.conv = self.tied = nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.tied(self.conv(x))

        def scaled(self, x, *, by=1.0):
            return by * self(x)

    network = Network()
    whole, method = accelerate(network), accelerate(network.scaled)
    for _ in range(2):
        assert_close(whole(X), network(X))
        assert_close(method(X, by=2.0), network.scaled(X, by=2.0))
        network.conv.kernel[...] = 3 * network.conv.kernel[...]
    assert [conv.operator.value for conv in explain(whole, X).convs] == ["conv", "conv"]

    with pytest.raises(ValueError, match="changes an object among its arguments in place"):
        accelerate(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))(X)


@pytest.mark.slow
def test_haiku():
    import haiku

    def forward(x):
        x = jax.nn.relu(haiku.Conv2D(6, 3, stride=2)(x))
        x = jax.nn.gelu(haiku.DepthwiseConv2D(2, 3)(x))
        x = haiku.Conv2DTranspose(4, 3, stride=2)(x)
        return haiku.SeparableDepthwiseConv2D(1, 3)(x)

    network = haiku.without_apply_rng(haiku.transform(forward))
    assert_the_same(network.apply, network.init(jax.random.key(0), X), X)


@pytest.mark.slow
def test_equinox():
    """A module is a pytree with functions among its leaves, and takes channels-first arrays."""
    import equinox

    keys = iter(jax.random.split(jax.random.key(0), 4))
    network = equinox.nn.Sequential(
        [
            equinox.nn.Conv2d(3, 6, 3, stride=2, key=next(keys)),
            equinox.nn.Lambda(jax.nn.relu),
            equinox.nn.Conv2d(6, 6, 3, groups=6, padding=1, key=next(keys)),
            equinox.nn.GroupNorm(2, 6),
            equinox.nn.ConvTranspose2d(6, 4, 3, stride=2, key=next(keys)),
        ]
    )
    arrays, rest = equinox.partition(network, equinox.is_array)

    def apply(arrays, x):
        return jax.vmap(equinox.combine(arrays, rest))(x)

    assert_the_same(apply, arrays, jnp.moveaxis(X, -1, 1))
    whole = accelerate(lambda network, x: (jax.vmap(network)(x), network))
    y, same = whole(network, jnp.moveaxis(X, -1, 1))
    assert y.shape[0] == len(X)
    assert equinox.tree_equal(same, network)


@pytest.mark.slow
def test_keras():
    import keras

    if keras.backend.backend() != "jax":
        pytest.skip("Keras was imported with another backend")
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((12, 10, 3)),
            keras.layers.Conv2D(6, 3, strides=2, activation="relu"),
            keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
            keras.layers.BatchNormalization(),
            keras.layers.SeparableConv2D(5, 3, padding="same", activation="gelu"),
            keras.layers.Conv2DTranspose(4, 3, strides=2),
        ]
    )
    trainable = [variable.value for variable in network.trainable_variables]
    fixed = [variable.value for variable in network.non_trainable_variables]

    def apply(trainable, x):
        return network.stateless_call(trainable, fixed, x, training=True)[0]

    assert_the_same(apply, trainable, X)
