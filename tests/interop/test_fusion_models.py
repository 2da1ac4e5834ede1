"""``accelerate`` fuses the layers of unmodified models of five libraries."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv import accelerate
from support.operators import equations

os.environ.setdefault("KERAS_BACKEND", "jax")

# These libraries rely on jax's own promotion rules.
pytestmark = [
    pytest.mark.lenient,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((2, 9, 8, 3)), jnp.float32)
CHANNELS_FIRST = jnp.moveaxis(X, -1, 1)
NORMALIZED = "scale + bias"


def randomized(tree):
    """Arrays that show every mistake; positive ones, which may be variances, stay positive."""

    def array(leaf):
        values = RNG.uniform(0.5, 1.5, leaf.shape)
        negative = float(jnp.min(leaf)) < 0
        return jnp.asarray(
            values * RNG.choice([-1, 1], leaf.shape) if negative else values, leaf.dtype
        )

    return jax.tree.map(array, tree)


def assert_fuses(apply, parameters, x, expected: list[str]) -> None:
    """The convolutions' epilogues, in program order; values and outer gradients to 1e-5."""
    leaves, structure = jax.tree.flatten(parameters)
    counters = [leaf if leaf.dtype == jnp.int32 else None for leaf in leaves]
    floats = randomized([leaf for leaf in leaves if leaf.dtype != jnp.int32])

    def of_floats(floats, x):
        remaining = iter(floats)
        leaves = [next(remaining) if leaf is None else leaf for leaf in counters]
        return apply(jax.tree.unflatten(structure, leaves), x)

    assert_fuses_floats(of_floats, floats, x, expected)


def assert_fuses_floats(apply, parameters, x, expected: list[str]) -> None:
    program = jax.make_jaxpr(accelerate(apply))(parameters, x)
    found = list(equations(program.jaxpr))
    assert [
        str(e.params["epilogue"]) for e in found if e.primitive.name == "fused_conv"
    ] == expected
    assert not {"conv", "conv_general_dilated"} & {eqn.primitive.name for eqn in found}

    def training(fn):
        def loss(parameters, x):
            y = fn(parameters, x)
            return jnp.mean(jnp.square(y)), y

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(parameters, x)

    assert_close(jax.jit(accelerate(apply))(parameters, x), jax.jit(apply)(parameters, x))
    assert_close(training(accelerate(apply)), training(apply))


def assert_close(ours, theirs):
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale)


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu_tanh": jax.nn.gelu,
    "hard_swish": jax.nn.hard_swish,
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_flax_nnx(activation):
    """A residual block."""
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.shortcut = nnx.Conv(3, 6, (1, 1), strides=2, use_bias=False, rngs=rngs)
            self.first = nnx.Conv(3, 5, (3, 3), strides=2, use_bias=False, rngs=rngs)
            self.second = nnx.Conv(5, 6, (3, 3), rngs=rngs)
            sizes = (6, 5, 6)
            self.norms = nnx.List(
                [nnx.BatchNorm(n, use_running_average=True, rngs=rngs) for n in sizes]
            )

        def __call__(self, x):
            act = ACTIVATIONS[activation]
            shortcut, first, second = self.norms
            y = act(first(self.first(x)))
            return act(second(self.second(y)) + shortcut(self.shortcut(x)))

    structure, state = nnx.split(Block())
    expected = [
        f"{NORMALIZED} + {activation}",
        NORMALIZED,
        f"{NORMALIZED} + residual + {activation}",
    ]
    assert_fuses(lambda state, x: nnx.merge(structure, state)(x), state, X, expected)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_flax_linen(activation):
    """An inverted residual."""
    from flax import linen

    class Block(linen.Module):
        @linen.compact
        def __call__(self, x):
            def normalized(y):
                return linen.BatchNorm(use_running_average=True)(y)

            y = ACTIVATIONS[activation](normalized(linen.Conv(12, (1, 1), use_bias=False)(x)))
            y = linen.Conv(12, (3, 3), feature_group_count=12, use_bias=False)(y)
            y = ACTIVATIONS[activation](normalized(y))
            return x + normalized(linen.Conv(3, (1, 1), use_bias=False)(y))

    block = Block()
    variables = block.init(jax.random.key(0), X)
    expected = [*[f"{NORMALIZED} + {activation}"] * 2, f"{NORMALIZED} + residual"]
    assert_fuses(block.apply, variables, X, expected)


@pytest.mark.slow
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_haiku(data_format):
    import haiku

    def forward(x, training=False):
        y = haiku.Conv2D(5, 3, stride=2, data_format=data_format)(x)
        y = haiku.BatchNorm(True, True, 0.9, data_format=data_format)(y, training)
        y = jax.nn.relu(y)
        y = haiku.DepthwiseConv2D(1, 3, data_format=data_format)(y)
        return jax.nn.gelu(y, approximate=False)

    x = X if data_format == "NHWC" else CHANNELS_FIRST
    network = haiku.without_apply_rng(haiku.transform_with_state(forward))
    init = haiku.transform_with_state(lambda x: forward(x, True)).init
    parameters = init(jax.random.key(0), x)
    expected = [f"{NORMALIZED} + relu", "bias + gelu_exact"]
    assert_fuses(lambda ps, x: network.apply(*ps, x)[0], parameters, x, expected)


@pytest.mark.slow
def test_equinox():
    """Modules take one example, channels first."""
    import equinox

    keys = iter(jax.random.split(jax.random.key(0), 3))
    network, state = equinox.nn.make_with_state(
        lambda: equinox.nn.Sequential(
            [
                equinox.nn.Conv2d(3, 6, 3, stride=2, use_bias=False, key=next(keys)),
                equinox.nn.BatchNorm(6, "batch", mode="batch"),
                equinox.nn.Lambda(jax.nn.silu),
                equinox.nn.Conv2d(6, 6, 3, groups=6, padding=1, key=next(keys)),
                equinox.nn.Lambda(jnp.tanh),
            ]
        )
    )()
    network = equinox.nn.inference_mode(network)
    arrays, rest = equinox.partition((network, state), equinox.is_array)

    def apply(arrays, x):
        network, state = equinox.combine(arrays, rest)
        return jax.vmap(lambda x: network(x, state)[0], axis_name="batch")(x)

    expected = [f"{NORMALIZED} + silu", "bias + tanh"]
    assert_fuses(apply, arrays, CHANNELS_FIRST, expected)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "relu6", "silu", "gelu", "hard_silu", "leaky_relu"])
def test_keras(activation):
    import keras

    if keras.backend.backend() != "jax":
        pytest.skip("Keras was imported with another backend")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 8, 3))
    y = keras.layers.Conv2D(5, 3, strides=2, activation=activation)(inputs)
    y = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
    y = keras.layers.Activation(activation)(keras.layers.BatchNormalization()(y))
    z = keras.layers.Conv2D(5, 1)(y)
    network = keras.Model(inputs, keras.layers.Add()([z, y]))
    arrays = [
        [variable.value for variable in variables]
        for variables in (network.trainable_variables, network.non_trainable_variables)
    ]

    def apply(arrays, x):
        return network.stateless_call(*arrays, x, training=False)[0]

    name = {"gelu": "gelu_exact", "hard_silu": "hard_swish"}.get(activation, activation)
    expected = [f"bias + {name}", f"{NORMALIZED} + {name}", "bias + residual"]
    assert_fuses(apply, arrays, X, expected)
