"""WaveNet: its receptive field, and streaming at a constant cost per sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxconv
from jaxconv.models import WaveNet
from jaxconv.models.wavenet import STACK

pytestmark = pytest.mark.models

LEVELS = 13


def small(dtype=jnp.float32, dilations=(1, 2, 4)):
    return WaveNet(
        LEVELS, features=6, skip=10, dilations=dilations, param_dtype=dtype, rngs=nnx.Rngs(0)
    )


def tokens(*shape):
    return jax.random.randint(jax.random.key(1), shape, 0, LEVELS)


def reference(network, ids):
    """The paper's equations in float64 NumPy, one sample and one tap at a time."""
    pure = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), pure)
    x, skips = weights["embed"]["embedding"][np.asarray(ids)], 0.0
    for index, layer in enumerate(network.layers):
        w, d = weights["layers"][index], layer.conv.kernel_dilation
        kernel, y = w["conv"]["kernel"], np.zeros((*x.shape[:2], 2 * x.shape[2]))
        for i in range(x.shape[1]):
            y[:, i] = x[:, i] @ kernel[1] + w["conv"]["bias"]
            if i >= d:
                y[:, i] += x[:, i - d] @ kernel[0]
        z = np.tanh(y[..., : x.shape[2]]) / (1 + np.exp(-y[..., x.shape[2] :]))
        skips = skips + z @ w["skip"]["kernel"] + w["skip"]["bias"]
        x = x + z @ w["residual"]["kernel"] + w["residual"]["bias"]
    for name in ("merge", "classify"):
        skips = np.maximum(skips, 0) @ weights[name]["kernel"] + weights[name]["bias"]
    return skips


@pytest.mark.parametrize(("stacks", "size"), [(1, 1024), (2, 2047)])
def test_receptive_field_of_a_stack_is_causal_and_1024_samples(stacks, size):
    network = WaveNet(features=2, skip=2, dilations=STACK * stacks, rngs=nnx.Rngs(0))
    embedded = jax.ShapeDtypeStruct((1, 5000, 2), jnp.float32)
    field = jaxconv.receptive_field(network.predict, embedded)
    assert (field.size, field.offset, field.stride) == ((size,), (1 - size,), (1,))


@pytest.mark.slow
def test_the_network_computes_the_papers_equations(x64):
    network, ids = small(jnp.float64), tokens(2, 29)
    expected = reference(network, ids)
    # A dozen sums of at most 16 terms of order 1 follow one another.
    np.testing.assert_allclose(network(ids), expected, atol=1e-13)
    network.layers[2].conv.kernel[...] = network.layers[2].conv.kernel[...][::-1]
    assert np.abs(network(ids) - expected).max() > 1e-3  # detects reversed taps


@pytest.mark.sample(2)
@pytest.mark.parametrize("chunks", [(5, 1, 6), (1,) * 12], ids=str)
def test_streaming_in_chunks_equals_the_whole(x64, chunks):
    network, ids = small(jnp.float64), tokens(3, 12)
    step = nnx.jit(lambda network, states, ids: network.step(states, ids))
    states, parts = network.init_state(3), []
    for end, count in zip(np.cumsum(chunks), chunks, strict=True):
        logits, states = step(network, states, ids[:, end - count : end])
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), network(ids), atol=1e-13)


def test_generating_at_low_temperature_equals_the_whole_network(x64):
    """At a low temperature the most likely sample is drawn each time."""
    network, prompt, count = small(jnp.float64), tokens(2, 7), 20
    draw = nnx.jit(lambda network, prompt, key: network.generate(prompt, count, key, 1e-6))
    drawn = draw(network, prompt, jax.random.key(0))
    whole = network(jnp.concatenate([prompt, drawn], axis=1))
    assert jnp.array_equal(drawn, whole[:, 6:-1].argmax(-1))
    assert len(np.unique(drawn)) > 1


@pytest.mark.slow
def test_generating_follows_the_distribution_and_the_key():
    network, prompt = small(), tokens(1, 3)
    draw = nnx.jit(lambda network, key: network.generate(jnp.repeat(prompt, 4000, 0), 1, key)[:, 0])
    drawn, again, other = (np.asarray(draw(network, jax.random.key(key))) for key in (0, 0, 1))
    expected = 4000 * np.asarray(jax.nn.softmax(network(prompt)[0, -1]))
    # The standard deviation of a count is the square root of its mean; five of them are allowed.
    assert np.all(np.abs(np.bincount(drawn, minlength=LEVELS) - expected) < 5 * expected**0.5)
    assert np.array_equal(drawn, again)
    assert not np.array_equal(drawn, other)


@pytest.mark.parametrize(
    ("dtype", "temperature"), [(jnp.float32, 0.7), (jnp.bfloat16, 0.3)], ids=["float32", "bfloat16"]
)
def test_a_traced_temperature_draws_the_same_samples(dtype, temperature):
    network, prompt, key = small(dtype), tokens(3, 4), jax.random.key(2)
    expected = jax.jit(lambda: network.generate(prompt, 12, key, temperature))()
    draw = jax.jit(lambda temperature: network.generate(prompt, 12, key, temperature))
    for traced in (temperature, np.float32(temperature), jnp.float32(temperature)):
        assert jnp.array_equal(draw(traced), expected)
    assert not jnp.array_equal(draw(1e-3), expected)


def test_a_temperature_per_stream_by_vmap():
    network, prompt, key = small(), tokens(1, 4), jax.random.key(2)
    temperatures = jnp.array([1e-3, 1.0])
    cold, warm = jax.vmap(lambda t: network.generate(prompt, 12, key, t))(temperatures)
    assert jnp.array_equal(warm, network.generate(prompt, 12, key))
    assert not jnp.array_equal(cold, warm)


def test_a_temperature_from_outside_of_jit_is_checked():
    network, key, zero, half = small(), jax.random.key(0), jnp.float32(0), jnp.float32(0.5)
    draw = jax.jit(lambda prompt: network.generate(prompt, 2, key, half))
    assert draw(tokens(1, 3)).shape == (1, 2)
    with pytest.raises(ValueError, match="positive scalar temperature"):
        jax.jit(lambda prompt: network.generate(prompt, 2, key, zero))(tokens(1, 3))


def test_a_traced_count_is_an_error():
    network, key = small(), jax.random.key(0)
    with pytest.raises(ValueError, match=r"^WaveNet\.generate: count must be a static int"):
        jax.jit(lambda count: network.generate(tokens(1, 3), count, key))(4)


def generating(network, length, count):
    prompt = jax.ShapeDtypeStruct((1, length), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jaxconv.cost(lambda prompt, key: network.generate(prompt, count, key), prompt, key)


def test_cost_of_a_generated_sample_is_constant():
    """The state and work of a step do not depend on the length of the stream."""
    network = small()
    states = jax.eval_shape(lambda: network.init_state(1))
    assert sum(state.shape[1] for state in states) == 1 + 2 + 4

    def after(length):
        ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
        return jax.eval_shape(lambda states, ids: network.step(states, ids)[1], states, ids)

    assert states == after(1) == after(10_000)

    one = jaxconv.cost(network.step, states, jnp.zeros((1, 1), int)).macs
    whole = jaxconv.cost(network, jax.ShapeDtypeStruct((1, 100), jnp.int32)).macs
    assert one == whole / 100
    for length, count in ((1, 10), (1, 100_000), (1000, 10)):
        assert generating(network, length, count).macs == (length + count) * one


def test_logits_do_not_depend_on_later_samples():
    network, ids = small(), tokens(1, 20)
    changed = ids.at[0, 11].set((ids[0, 11] + 1) % LEVELS)
    differs = np.any(np.asarray(network(ids) != network(changed)), axis=(0, 2))
    assert not differs[:11].any()
    assert differs[11:19].all()  # the receptive field of 8 samples
    assert not differs[19:].any()


@pytest.mark.parametrize(
    ("ids", "error", "said"),
    [
        (np.array([[0, LEVELS]]), ValueError, "ids from 0 to 12, but got 0 to 13"),
        (np.array([[-1, 2]]), ValueError, "ids from 0 to 12, but got -1 to 2"),
        (np.array([1, 2]), ValueError, r"\[N, L\], but got shape \(2,\)"),
        (np.array([[0.5]]), TypeError, "integers, but got float"),
    ],
)
def test_invalid_tokens_are_refused(ids, error, said):
    network = small()
    for call in (network, lambda ids: network.step(network.init_state(1), ids)):
        with pytest.raises(error, match=said):
            call(ids)


@pytest.mark.parametrize(
    ("length", "count", "temperature"),
    [(0, 1, 1.0), (3, 0, 1.0), (3, 1, 0.0), (3, 1, np.nan), (3, 1, jnp.ones((1, 1)))],
)
def test_invalid_arguments_of_generate_are_refused(length, count, temperature):
    with pytest.raises(
        ValueError, match=r"WaveNet\.generate: needs a prompt of at least one sample"
    ):
        small().generate(tokens(1, length), count, jax.random.key(0), temperature)


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("classes must be a positive int, but got 0", {"classes": 0}),
        ("dilations must have an entry for each layer", {"dilations": ()}),
    ],
)
def test_invalid_sizes_are_refused(said, options):
    with pytest.raises(ValueError, match=f"^WaveNet: {said}"):
        WaveNet(rngs=nnx.Rngs(0), **options)
