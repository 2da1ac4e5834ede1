"""The context network: the paper's receptive fields, and its initialization to the identity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxconv
from jaxconv.models import ContextNetwork
from jaxconv.models.context import identity_init

pytestmark = pytest.mark.models

# Table 1 of Yu and Koltun: each layer's receptive field, and the large network's features.
FIELDS = (3, 5, 9, 17, 33, 65, 67, 67)
LARGE = (2, 2, 4, 8, 16, 32, 32, 1)
sizes = pytest.mark.parametrize("large", [False, True], ids=["basic", "large"])


def layers_of(network):
    return [*network.layers, network.output]


@pytest.mark.slow
@sizes
def test_receptive_fields_of_the_papers_table(large):
    network = ContextNetwork(1, large=large, rngs=nnx.Rngs(0))
    image = jax.ShapeDtypeStruct((1, 150, 160, 1), jnp.float32)

    def first(count):
        return lambda x: functools.reduce(lambda x, layer: layer(x), layers_of(network)[:count], x)

    for count, size in enumerate(FIELDS, 1):
        field = jaxconv.receptive_field(first(count), image)
        assert field.size == (size, size)
        assert field.offset == (-(size // 2),) * 2
    assert jaxconv.receptive_field(network, image).size == (67, 67)


@sizes
def test_features_of_the_papers_table(large):
    network = nnx.eval_shape(lambda: ContextNetwork(3, large=large, rngs=nnx.Rngs(0)))
    out = [layer.kernel.shape[-1] for layer in layers_of(network)]
    assert out == [3 * ratio for ratio in (LARGE if large else (1,) * 8)]
    assert [layer.kernel.shape[0] for layer in layers_of(network)] == [3] * 7 + [1]


def test_dilation_enlarges_the_receptive_field_at_no_cost():
    image = jax.ShapeDtypeStruct((1, 80, 80, 4), jnp.float32)
    dilated = ContextNetwork(4, rngs=nnx.Rngs(0))
    plain = ContextNetwork(4, dilations=(1,) * 7, rngs=nnx.Rngs(0))
    assert jaxconv.receptive_field(plain, image).size == (15, 15)
    ours, theirs = (jaxconv.cost(network, image) for network in (dilated, plain))
    assert (ours.macs, ours.parameters) == (theirs.macs, theirs.parameters)


@pytest.mark.slow
@sizes
def test_it_is_initialized_to_the_identity(large):
    network = ContextNetwork(2, large=large, noise=0.0, rngs=nnx.Rngs(0))
    x = jax.random.uniform(jax.random.key(0), (2, 19, 23, 2))
    y = nnx.jit(lambda network, x: network(x))(network, x)
    # At most 32 terms of a 32nd each, rounded at every one of eight layers.
    np.testing.assert_allclose(y, x, rtol=8 * 32**0.5 * 6e-8)
    network.layers[3].kernel[...] = jnp.flip(network.layers[3].kernel[...], 3)
    assert np.abs(np.asarray(network(x) - x)).max() > 0.1  # detects features in another order


def test_standard_deviation_of_the_initial_noise():
    clean, noisy = (
        identity_init(8, noise)(jax.random.key(0), (3, 3, 16, 32), jnp.float32)
        for noise in (0.0, 0.1)
    )
    # 4,608 values: the relative error of their standard deviation is about 1 %.
    assert np.std(noisy - clean) == pytest.approx(0.1 * 8 / 32, rel=0.05)


@pytest.mark.slow
def test_it_equals_plain_flax():
    ours = ContextNetwork(1, large=True, noise=1.0, rngs=nnx.Rngs(0))
    theirs = ContextNetwork(1, large=True, noise=1.0, conv=nnx.Conv, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 17, 21, 1))
    apply = nnx.jit(lambda network, x: network(x))
    expected = apply(theirs, x)
    scale = np.abs(np.asarray(expected)).max()
    assert scale > 0.1
    # At most 9 × 32 terms in each of eight layers.
    np.testing.assert_allclose(apply(ours, x), expected, atol=8 * (9 * 32) ** 0.5 * 6e-8 * scale)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((8, 8, 3), r"must be \[N, H, W, C\]"), ((1, 8, 8, 4), "C = in_features = 3, but got C = 4")],
)
def test_invalid_feature_maps_are_refused(shape, said):
    with pytest.raises(ValueError, match=f"ContextNetwork: .*{said}"):
        ContextNetwork(3, rngs=nnx.Rngs(0))(jnp.ones(shape))


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("features must be a positive int, but got 0", {"features": 0}),
        (
            "dilations must have 7 entries, one per layer, but got 2",
            {"features": 4, "dilations": (1, 2)},
        ),
    ],
)
def test_invalid_sizes_are_refused(said, options):
    with pytest.raises(ValueError, match=f"^ContextNetwork: {said}"):
        ContextNetwork(rngs=nnx.Rngs(0), **options)
