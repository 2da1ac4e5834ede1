"""The image networks: published sizes, training, modes, dtypes and invalid inputs."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxconv
from jaxconv.models import (
    AlexNet,
    ConvNeXtT,
    EfficientNetB0,
    MobileNetV1,
    MobileNetV2,
    MobileNetV3Large,
    MobileNetV3Small,
    ResNet50,
    activations,
    mobilenet_v3,
)
from jaxconv.models.batch_norm import BatchNorm
from jaxconv.nnx import Conv

pytestmark = pytest.mark.models

# Of 1,000 classes: the two-group AlexNet and MobileNetV1 (the parameters that are trained) as Caffe
# and Keras count them, the others as torchvision documents them.
PUBLISHED = {
    AlexNet: 60_965_224,
    MobileNetV1: 4_231_976,
    MobileNetV2: 3_504_872,
    MobileNetV3Large: 5_483_032,
    MobileNetV3Small: 2_542_856,
    EfficientNetB0: 5_288_548,
    ResNet50: 25_557_032,
    ConvNeXtT: 28_589_128,
}
BLOCKS = ((8, 1), (16, 2))
V3_BLOCKS = (
    mobilenet_v3.Block(3, 16, 8, False, activations.relu, 2),
    mobilenet_v3.Block(5, 24, 8, True, activations.hard_swish, 1),
)
TINY = {
    AlexNet: (67, {"image_size": 67, "hidden": 256, "dropout": 0.1}),
    MobileNetV1: (16, {"width": 0.5, "blocks": BLOCKS}),
    MobileNetV2: (16, {"stages": ((1, 8, 1, 1), (2, 8, 2, 2)), "stem_strides": 1}),
    MobileNetV3Large: (16, {"blocks": V3_BLOCKS, "stem_strides": 1}),
    MobileNetV3Small: (16, {"blocks": V3_BLOCKS, "stem_strides": 1}),
    EfficientNetB0: (16, {"stages": ((1, 3, 1, 8, 1), (2, 5, 2, 8, 2)), "stem_strides": 1}),
    ResNet50: (16, {"width": 4, "depths": (1, 1)}),
    ConvNeXtT: (16, {"widths": (8, 12), "depths": (1, 1), "layer_scale": 0.1}),
}
WITH_BATCH_NORM = [make for make in TINY if make not in (AlexNet, ConvNeXtT)]
each = pytest.mark.parametrize("make", TINY, ids=lambda make: make.__name__)


def abstract(make, **options):
    return nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0), **options))


def parameters(network) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))


def tiny(make, **options):
    size, small = TINY[make]
    network = make(5, **small, **options, rngs=nnx.Rngs(0))
    images = np.random.default_rng(0).standard_normal((4, size, size, 3)).astype(np.float32)
    return network, jnp.asarray(images)


@jax.jit
def apply(network, x):
    return network(x)


@pytest.mark.sample(2)
@pytest.mark.parametrize("make", PUBLISHED, ids=lambda make: make.__name__)
def test_published_parameters(make):
    assert parameters(abstract(make)) == PUBLISHED[make]


@pytest.mark.parametrize(
    ("separable", "millions"), [(True, 569), (False, 4866)], ids=["separable", "dense"]
)
def test_published_multiplications_of_mobilenet(separable, millions):
    """Table 4 of the paper, to a million: it does not say whether the classifier is included."""
    network = abstract(MobileNetV1, separable=separable)
    counted = jaxconv.cost(
        lambda network, x: network(x), network, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    )
    assert abs(counted.macs / 1e6 - millions) < 1.5


def test_published_parameters_of_narrower_mobilenets():
    """Tables 6 and 7: α = 0.75, 0.5 and 0.25 have 2.6, 1.3 and 0.5 million parameters."""
    millions = [round(parameters(abstract(MobileNetV1, width=w)) / 1e6, 1) for w in (0.75, 0.5)]
    assert millions == [2.6, 1.3]


@pytest.mark.slow
@pytest.mark.lenient  # optax multiplies by the count of steps
@each
def test_a_network_learns(make):
    """SGD under jit brings the loss of four images down; dropout stays on."""
    network, images = tiny(make)
    labels = jnp.arange(4)
    optimizer = optax.adam(3e-3)
    graph, variables, rest = nnx.split(network, nnx.Param, ...)

    @jax.jit
    def step(variables, rest, state):
        def loss_of(variables):
            network = nnx.merge(graph, variables, rest, copy=True)
            network.train()
            losses = optax.softmax_cross_entropy_with_integer_labels(network(images), labels)
            return losses.mean(), nnx.split(network, nnx.Param, ...)[2]

        (loss, rest_after), gradient = jax.value_and_grad(loss_of, has_aux=True)(variables)
        updates, state = optimizer.update(gradient, state, variables)
        return optax.apply_updates(variables, updates), rest_after, state, loss

    state, losses = optimizer.init(variables), []
    for _ in range(25):
        variables, rest, state, loss = step(variables, rest, state)
        losses.append(float(loss))
    assert np.mean(losses[-3:]) < 0.7 * losses[0]


@pytest.mark.sample(5)
@each
def test_evaluation_is_deterministic_and_independent_of_other_images(make):
    network, images = tiny(make)
    network.eval()
    whole = apply(network, images)
    assert whole.shape == (4, 5)
    np.testing.assert_allclose(apply(network, images[:1]), whole[:1], rtol=1e-4, atol=1e-5)
    assert np.array_equal(apply(network, images), whole)


@pytest.mark.sample(3)
@pytest.mark.parametrize("make", WITH_BATCH_NORM, ids=lambda make: make.__name__)
def test_training_updates_the_batch_statistics(make):
    network, images = tiny(make)
    before = jax.tree.map(np.asarray, nnx.state(network, nnx.BatchStat))
    network.train()
    network(images)
    after = nnx.state(network, nnx.BatchStat)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert all(jax.tree.leaves(moved))


@pytest.mark.slow
@pytest.mark.lenient  # Flax's LayerNorm multiplies half by single precision
@each
def test_half_precision(make):
    """bfloat16 computes from float32 parameters, to within a few of its units of rounding."""
    network, images = tiny(make, dtype=jnp.bfloat16)
    exact, _ = tiny(make)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))} == {
        jnp.dtype(jnp.float32)
    }
    network.eval(), exact.eval()
    half, full = apply(network, images), np.asarray(apply(exact, images))
    assert half.dtype == jnp.bfloat16
    error = np.abs(np.asarray(half, np.float32) - full).max() / np.abs(full).max()
    assert 0 < error < 0.1
    stored, _ = tiny(make, param_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(stored, nnx.Param))} == {
        jnp.dtype(jnp.bfloat16)
    }


@pytest.mark.sample(4)
@each
def test_plain_flax_gives_the_same_network(make):
    """With Flax's own layers: the same parameters, the same outputs."""
    network, images = tiny(make)
    norm = {"norm": nnx.BatchNorm} if make in WITH_BATCH_NORM else {}
    plain, _ = tiny(make, conv=nnx.Conv, **norm)
    assert not any(isinstance(layer, Conv | BatchNorm) for _, layer in nnx.iter_modules(plain))
    assert jax.tree.structure(nnx.state(plain)) == jax.tree.structure(nnx.state(network))
    network.eval(), plain.eval()
    np.testing.assert_allclose(apply(plain, images), apply(network, images), rtol=2e-4, atol=1e-5)


@pytest.mark.lenient  # Flax's own promotes bfloat16 statistics
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_batch_norm_equals_flax(dtype):
    """Outputs, statistics and gradients, in training and evaluation."""
    random = np.random.default_rng(0)
    x, g = (random.standard_normal((4, 5, 3, 6)).astype(np.float32) * 2 + 1 for _ in range(2))
    tolerance = 1e-4 if dtype is None else 0.05
    norms = [
        make(6, momentum=0.8, dtype=dtype, rngs=nnx.Rngs(0)) for make in (BatchNorm, nnx.BatchNorm)
    ]
    for norm in norms:
        norm.scale[...] = jnp.arange(1.0, 7.0)
        norm.bias[...] = jnp.arange(6.0)

    def run(norm):
        graph, state = nnx.split(norm)

        def pure(x, scale):
            norm = nnx.merge(graph, state, copy=True)
            norm.scale[...] = scale
            y = norm(x)
            return jnp.sum(y.astype(jnp.float32) * g), (y, norm.mean[...], norm.var[...])

        return jax.grad(pure, (0, 1), has_aux=True)(jnp.asarray(x), jnp.arange(1.0, 7.0))

    for mode in ("train", "eval"):
        for norm in norms:
            getattr(norm, mode)()
        ours, flax = (jax.tree.leaves(run(norm)) for norm in norms)
        for a, b in zip(ours, flax, strict=True):
            assert a.dtype == b.dtype
            a, b = (np.asarray(array, np.float32) for array in (a, b))
            assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max())


@each
@pytest.mark.parametrize("name", ["classes", "in_features"])
def test_sizes_must_be_positive_ints(make, name):
    with pytest.raises(
        ValueError, match=f"^{make.__name__}: {name} must be a positive int, but got 0"
    ):
        make(**{name: 0}, rngs=nnx.Rngs(0))


@each
def test_invalid_images_are_refused(make):
    network, images = tiny(make)
    name = make.__name__
    with pytest.raises(ValueError, match=rf"{name}: images must have C = in_features = 3, but got"):
        network(jnp.zeros((2, 67, 67, 4)))
    with pytest.raises(ValueError, match=rf"{name}: images must be \[N, H, W, C\], but got shape"):
        network(images[0])


def test_invalid_image_sizes_are_refused():
    alexnet, _ = tiny(AlexNet)
    with pytest.raises(
        ValueError, match=r"must be 67×67 pixels, but got 68×67 .*another image_size"
    ):
        alexnet(jnp.zeros((1, 68, 67, 3)))
    with pytest.raises(ValueError, match="image_size must be at least 67, but got 66"):
        AlexNet(image_size=66, rngs=nnx.Rngs(0))
    convnext, _ = tiny(ConvNeXtT)
    with pytest.raises(ValueError, match="at least 8×8 pixels, but got 7×9"):
        convnext(jnp.zeros((1, 7, 9, 3)))
    with pytest.raises(ValueError, match="at least 1×1 pixels, but got 0×9"):
        tiny(MobileNetV1)[0](jnp.zeros((1, 0, 9, 3)))


def test_stochastic_depth_skips_whole_images():
    network = ConvNeXtT(
        5, widths=(8,), depths=(2,), stochastic_depth=0.5, layer_scale=1.0, rngs=nnx.Rngs(0)
    )
    block = network.stages[0][1]
    x = jnp.ones((64, 3, 3, 8))
    block.train()
    skipped = np.asarray((block(x) == x).all((1, 2, 3)))
    assert 16 < skipped.sum() < 48
    assert network.stages[0][0].drop.rate == 0
    block.eval()
    assert not (block(x) == x).all((1, 2, 3)).any()


def test_stochastic_depth_of_efficientnet_grows_linearly():
    """From 0 for the first block; blocks that change the shape are never skipped."""
    network = EfficientNetB0(5, stages=((1, 3, 1, 32, 4),), stochastic_depth=0.4, rngs=nnx.Rngs(0))
    (blocks,) = network.stages
    assert [block.drop.rate for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    x = jnp.ones((64, 3, 3, 32))
    blocks[3].train()
    assert 8 < int((blocks[3](x) == x).all((1, 2, 3)).sum()) < 32
    blocks[3].eval()
    assert not (blocks[3](x) == x).all((1, 2, 3)).any()
    network = abstract(EfficientNetB0)
    dropped = [block.drop is not None for blocks in network.stages for block in blocks]
    assert dropped == [False, False, True, False, True, *(False, True, True) * 2, *dropped[11:]]
    assert dropped[11:] == [False, True, True, True, False]


@pytest.mark.sample(4)
@each
def test_networks_survive_pickling(make):
    network, images = tiny(make)
    network.eval()
    copy = pickle.loads(pickle.dumps(network))
    assert np.array_equal(apply(copy, images), apply(network, images))


def test_alexnet_normalizes_over_neighboring_features():
    """Section 3.3 of the paper, by a loop over features."""
    from jaxconv.models.alexnet import _normalize

    x = np.random.default_rng(0).standard_normal((2, 3, 3, 9)).astype(np.float32) * 40
    expected = np.empty_like(x)
    for f in range(9):
        near = x[..., max(0, f - 2) : f + 3].astype(np.float64)
        expected[..., f] = x[..., f] / (2 + 1e-4 * (near**2).sum(-1)) ** 0.75
    np.testing.assert_allclose(_normalize(jnp.asarray(x)), expected, rtol=1e-5)
