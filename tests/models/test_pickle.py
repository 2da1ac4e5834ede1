"""Networks can be pickled and copied, and the copies compute the same without being retraced."""

import copy
import pickle

import jax
import numpy as np
import pytest
from flax import nnx

from jaxconv import models

pytestmark = pytest.mark.models

TINY = {
    models.MobileNetV1: ((3,), {"width": 0.25, "blocks": ((8, 1),)}),
    models.AlexNet: ((3,), {"image_size": 67, "hidden": 4}),
    models.MobileNetV2: ((3,), {"width": 0.25, "stages": ((2, 8, 1, 1),)}),
    models.EfficientNetB0: ((3,), {"stages": ((1, 3, 1, 8, 1),)}),
    models.MobileNetV3Large: ((3,), {}),
    models.MobileNetV3Small: ((3,), {}),
    models.ResNet50: ((3,), {"width": 2, "depths": (1,)}),
    models.ConvNeXtT: ((3,), {"widths": (4,), "depths": (1,)}),
    models.ContextNetwork: ((2,), {}),
    models.WaveNet: ((5,), {"features": 2, "skip": 2, "dilations": (1, 2)}),
    models.ByteNet: ((5, 5), {"features": 2, "dilations": (1,)}),
    models.Mamba: ((5,), {"features": 2, "layers": 1, "states": 2}),
}
COPIES = {"pickle": lambda network: pickle.loads(pickle.dumps(network)), "copy": copy.deepcopy}
PLAIN = {
    models.MobileNetV1: {"conv": nnx.Conv, "norm": nnx.BatchNorm},
    models.ContextNetwork: {"conv": nnx.Conv},
}


def tiny(make, **options):
    sizes, small = TINY[make]
    return make(*sizes, **small, **options, rngs=nnx.Rngs(0))


def check_copies(network):
    graph, state = nnx.split(network)
    for copied in (copy_of(network) for copy_of in COPIES.values()):
        copied_graph, copied_state = nnx.split(copied)
        assert copied_graph == graph  # an unequal one would be compiled again
        assert hash(copied_graph) == hash(graph)
        assert jax.tree.structure(copied_state) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(copied_state), strict=True):
            assert a is not b
            if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = map(jax.random.key_data, (a, b))
            np.testing.assert_array_equal(a, b)


def test_all_networks_are_here():
    networks = {value for value in vars(models).values() if isinstance(value, type)}
    assert set(TINY) == networks


@pytest.mark.parametrize("make", TINY, ids=lambda make: make.__name__)
def test_networks_of_shapes_can_be_pickled_and_copied(make):
    graph, shapes = nnx.split(nnx.eval_shape(lambda: tiny(make)))
    for copied in (copy_of(nnx.merge(graph, shapes)) for copy_of in COPIES.values()):
        assert nnx.split(copied) == (graph, shapes)


@pytest.mark.sample(12)
@pytest.mark.parametrize("make", TINY, ids=lambda make: make.__name__)
def test_networks_can_be_pickled_and_copied(make):
    check_copies(tiny(make))


@pytest.mark.sample(2)
@pytest.mark.parametrize("make", PLAIN, ids=lambda make: make.__name__)
def test_networks_of_plain_flax_can_be_pickled_and_copied(make):
    check_copies(tiny(make, **PLAIN[make]))


def test_a_pickled_network_computes_the_same():
    network = tiny(models.MobileNetV2)
    images = np.random.default_rng(0).standard_normal((1, 8, 8, 3)).astype(np.float32)
    network.eval()
    np.testing.assert_array_equal(COPIES["pickle"](network)(images), network(images))
