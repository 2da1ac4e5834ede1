"""Mamba: its recurrence, packed texts, training, and its size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxconv.models import Mamba

pytestmark = pytest.mark.models

CLASSES = 11
SEGMENTS = np.array([[0] * 5 + [1] * 3 + [2] * 4, [7] * 1 + [4] * 9 + [9] * 2])


def small(dtype=jnp.float32, **sizes):
    sizes = {"features": 6, "layers": 2, "states": 3} | sizes
    return Mamba(CLASSES, param_dtype=dtype, rngs=nnx.Rngs(0), **sizes)


def tokens(*shape):
    return jax.random.randint(jax.random.key(1), shape, 0, CLASSES)


call = nnx.jit(lambda network, *arrays: network(*arrays))


def reference(network, ids):
    """The equations in float64 NumPy for one text, step by step."""
    pure = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), pure)

    def normal(x, scale):
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale

    def silu(x):
        return x / (1 + np.exp(-x))

    embedding = weights["embed"]["embedding"]
    x = embedding[np.asarray(ids)]
    for index in range(len(network.blocks)):
        w = weights["blocks"][index]
        projected = normal(x, w["norm"]["scale"]) @ w["enter"]["kernel"]
        u, gate = np.split(projected, 2, axis=-1)
        padded = np.pad(u, ((3, 0), (0, 0)))
        taps = w["conv"]["kernel"][:, 0]
        u = silu(sum(padded[t : t + len(u)] * taps[t] for t in range(4)) + w["conv"]["bias"])
        states = w["log_decay"].shape[1]
        selected = u @ w["select"]["kernel"]
        rank, b, c = np.split(selected, [selected.shape[1] - 2 * states, -states], axis=1)
        step = np.log1p(np.exp(rank @ w["step_size"]["kernel"] + w["step_size"]["bias"]))
        h, y = np.zeros_like(w["log_decay"]), np.zeros_like(u)
        for t in range(len(u)):
            h = np.exp(-step[t][:, None] * np.exp(w["log_decay"])) * h
            h += np.outer(step[t] * u[t], b[t])
            y[t] = h @ c[t] + w["skip"] * u[t]
        x = x + (y * silu(gate)) @ w["leave"]["kernel"]
    return normal(x, weights["norm"]["scale"]) @ embedding.T


@pytest.mark.lenient  # for the normalization of Flax
def test_the_network_computes_the_papers_equations_in_each_segment(x64):
    network, ids = small(jnp.float64, layers=1), tokens(2, 12)
    logits = call(network, ids, SEGMENTS)
    for n, segments in enumerate(SEGMENTS):
        for each in np.unique(segments):
            wanted = reference(network, ids[n, segments == each])
            np.testing.assert_allclose(logits[n, segments == each], wanted, atol=1e-12)
    assert np.abs(reference(network, ids[0]) - logits[0]).max() > 1e-3  # segments matter


def test_a_text_does_not_depend_on_those_packed_beside_it():
    """Exactly: logits of the others, and the gradient of a loss of one segment's embedding."""
    network, ids = small(layers=1), tokens(2, 12)
    changed = ids.at[0, 5:8].set((ids[0, 5:8] + 1) % CLASSES)
    others = np.array([[1], [99]]) != SEGMENTS
    got, wanted = (np.asarray(call(network, each, SEGMENTS)) for each in (changed, ids))
    np.testing.assert_array_equal(got[others], wanted[others])
    assert (got[~others] != wanted[~others]).any()


@pytest.mark.slow
@pytest.mark.lenient  # for optax
def test_it_trains_on_packed_text():
    """Texts of different lengths that count up from their first letter, three to a row."""
    rng = np.random.default_rng(0)

    def batch():
        lengths = rng.multinomial(24, [1 / 3] * 3, size=8)
        segments = np.stack([np.repeat(np.arange(3), each) for each in lengths])
        first = np.argmax(segments[:, :, None] == segments[:, None], axis=2)
        starts = np.take_along_axis(rng.integers(0, CLASSES, (8, 3)), segments, axis=1)
        return (starts + np.arange(24) - first) % CLASSES, segments

    network = small(features=12, layers=1)
    optimizer = nnx.Optimizer(network, optax.adam(2e-2), wrt=nnx.Param)

    @nnx.jit
    def train(network, optimizer, ids, segments):
        same = (segments[:, 1:] == segments[:, :-1]).astype(jnp.float32)

        def loss(network):
            logits = network(ids, segments)[:, :-1]
            each = optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:])
            return jnp.sum(each * same) / jnp.sum(same)

        value, grads = nnx.value_and_grad(loss)(network)
        optimizer.update(network, grads)
        return value

    losses = [float(train(network, optimizer, *batch())) for _ in range(60)]
    assert losses[0] > 0.9 * np.log(CLASSES)
    assert losses[-1] < 0.3, losses


@pytest.mark.parametrize(
    ("features", "layers", "states", "expansion"), [(6, 2, 3, 2), (40, 1, 5, 3)]
)
def test_the_number_of_parameters(features, layers, states, expansion):
    network = nnx.eval_shape(
        lambda: small(features=features, layers=layers, states=states, expansion=expansion)
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    inner, rank = expansion * features, -(-features // 16)
    block = 3 * features * inner + inner * (2 * states + rank) + rank * inner
    block += inner * states + 7 * inner + features
    assert count == layers * block + CLASSES * features + features


@pytest.mark.parametrize(
    ("arrays", "error", "words"),
    [
        ((np.full((1, 4), CLASSES),), ValueError, "Mamba: tokens must be ids from 0 to 10"),
        ((np.zeros((1, 4), int), np.zeros((1, 3), int)), ValueError, "segment_ids must have one"),
        ((np.zeros((1, 4), int), np.zeros((1, 4))), TypeError, "segment_ids must be integers"),
    ],
)
def test_invalid_arguments_are_refused(arrays, error, words):
    with pytest.raises(error, match=words):
        small()(*arrays)


def test_invalid_sizes_are_refused():
    with pytest.raises(ValueError, match="Mamba: layers must be a positive int, but got 0"):
        small(layers=0)
