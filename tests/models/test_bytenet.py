"""ByteNet: a causal decoder, and time and memory that are linear in length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxconv
from jaxconv.models import ByteNet

pytestmark = pytest.mark.models

SOURCE, TARGET = 11, 7


def small(dilations=(1, 2)):
    return ByteNet(SOURCE, TARGET, features=8, dilations=dilations, rngs=nnx.Rngs(0))


def pair(source=12, target=10, batch=2):
    keys = jax.random.split(jax.random.key(1))
    sizes = ((source, SOURCE), (target, TARGET))
    return [
        jax.random.randint(key, (batch, length), 0, classes)
        for key, (length, classes) in zip(keys, sizes, strict=True)
    ]


@pytest.mark.slow
def test_the_decoder_is_causal():
    """A token changes the logits after it, but not its own or earlier ones, bit for bit."""
    network = small(dilations=(1, 2, 4))
    source, target = pair(batch=1)
    apply = nnx.jit(lambda network, target: network(source, target))
    before = np.asarray(apply(network, target))
    for at in range(target.shape[1]):
        changed = target.at[0, at].set((target[0, at] + 1) % TARGET)
        differs = np.any(np.asarray(apply(network, changed)) != before, axis=(0, 2))
        assert not differs[: at + 1].any()
        assert differs[at + 1 : at + 2].all()
        assert at + 1 == target.shape[1] or differs.any()


@pytest.mark.parametrize("sets", [1, 2])
def test_receptive_fields_of_encoder_and_decoder(sets):
    """A set of blocks of three taps sees 62 other columns: half of them later in the encoder."""
    network = ByteNet(
        SOURCE, TARGET, features=2, dilations=(1, 2, 4, 8, 16) * sets, rngs=nnx.Rngs(0)
    )
    columns = jax.ShapeDtypeStruct((1, 600, 2), jnp.float32)
    decoder = jaxconv.receptive_field(network.decode, columns)
    assert (decoder.size, decoder.offset) == ((62 * sets + 1,), (-62 * sets,))

    def encoder(x):
        for block in network.encoder:
            x = block(x)
        return x

    field = jaxconv.receptive_field(encoder, columns)
    assert (field.size, field.offset) == ((62 * sets + 1,), (-31 * sets,))


@pytest.mark.slow
def test_every_position_sees_the_source():
    network = small(dilations=(1, 2, 4))
    source, target = pair(batch=1)
    columns = network.source(source)

    def decoded(columns):
        x = jnp.pad(columns, ((0, 0), (0, 3), (0, 0)))
        for block in network.encoder:
            x = block(x)
        return network.decode(x[:, : target.shape[1]])

    derivatives = jax.jit(jax.jacrev(decoded))(columns)
    seen = np.asarray(jnp.abs(derivatives).sum((0, 2, 3, 5)))
    assert (seen[-1, :] > 0).all()  # the last logits depend on every source token


def test_the_encoder_returns_a_fifth_more_columns_than_tokens_and_then_zeros():
    network = small()
    source, _ = pair(source=10)
    columns = network.encode(source, 20)
    assert columns.shape == (2, 20, 8)
    assert (columns[:, :12] != 0).all()
    assert (columns[:, 12:] == 0).all()
    assert jnp.array_equal(network.encode(source, 7), columns[:, :7])


@pytest.mark.slow
def test_translation_is_the_most_likely_one_of_the_whole_network():
    network = small()
    source, _ = pair(batch=3)
    translate = nnx.jit(lambda network, source: network.translate(source, 18))
    translated = translate(network, source)
    assert jnp.array_equal(network(source, translated).argmax(-1), translated)
    assert len(np.unique(translated)) > 1


def macs(network, length, call):
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
    return jaxconv.cost(call, ids, ids).macs


def test_time_is_linear_in_length():
    network = small()
    lengths = (50, 100, 200, 3200)
    for call in (network, lambda source, target: network.translate(source, target.shape[1])):
        counts = [macs(network, length, call) for length in lengths]
        assert counts == [counts[0] * length // lengths[0] for length in lengths]


@pytest.mark.slow
def test_gradients_reach_every_parameter():
    network = small()
    source, target = pair()

    @nnx.jit
    def gradient(network):
        return nnx.grad(lambda network: jnp.square(network(source, target)).mean())(network)

    for path, leaf in jax.tree.leaves_with_path(gradient(network)):
        assert np.any(np.asarray(leaf) != 0), jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    ("source", "target", "error", "said"),
    [
        ([[SOURCE]], [[0]], ValueError, "source must be ids from 0 to 10, but got 11 to 11"),
        ([[0]], [[-1]], ValueError, "target must be ids from 0 to 6, but got -1 to -1"),
        ([0], [[0]], ValueError, r"source must be \[N, L\], but got shape \(1,\)"),
        ([[0], [0]], [[0]], ValueError, r"the same batch size N, but got \[N, S\] = \(2, 1\) and"),
        ([[0]], [[0.5]], TypeError, "target must be integers, but got float"),
    ],
)
def test_invalid_tokens_are_refused(source, target, error, said):
    with pytest.raises(error, match=said):
        small()(np.array(source), np.array(target))


def test_other_invalid_values_are_refused():
    with pytest.raises(ValueError, match="target_classes must be a positive int, but got 0"):
        ByteNet(SOURCE, 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="even number, but got 7"):
        ByteNet(SOURCE, TARGET, features=7, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="length must be a positive int, but got 0"):
        small().translate(pair()[0], 0)
    with pytest.raises(TypeError, match="source must be an array of integers, but got list"):
        small().translate([[0]], 1)
