"""The adapter, beside what the PyTorch package documents, written with PyTorch on the CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv.causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from support.cases import operand

torch = pytest.importorskip("torch")

B, D, L, W = 3, 5, 9, 4


def arrays(*shapes, dtype=np.float32):
    return [operand(shape, dtype, seed) for seed, shape in enumerate(shapes)]


def reference(x, weight, bias, states=None, activation=None):
    """``out`` and the last ``W-1`` steps, computed in the dtype of the weights."""
    x, weight, bias = (torch.tensor(np.asarray(a)) for a in (x, weight, bias))
    width = weight.shape[1]
    past = torch.zeros(*x.shape[:2], width - 1) if states is None else torch.tensor(states)
    steps = torch.cat([past, x], dim=2)
    out = torch.nn.functional.conv1d(steps, weight[:, None], bias, groups=len(weight))
    out = torch.nn.functional.silu(out) if activation else out
    return out.numpy(), steps[:, :, steps.shape[2] - width + 1 :].numpy()


@pytest.mark.parametrize("activation", [None, "silu", "swish"])
@pytest.mark.parametrize("length", [L, 2])
def test_whole_sequences(activation, length):
    x, weight, bias, states = arrays((B, D, length), (D, W), (D,), (B, D, W - 1))
    fn = jax.jit(causal_conv1d_fn, static_argnames=("return_final_states", "activation"))
    wanted, final = reference(x, weight, bias, None, activation)
    out = fn(x, weight, bias, activation=activation)
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-5)
    wanted, final = reference(x, weight, bias, states, activation)
    out, after = fn(
        x, weight, bias, initial_states=states, return_final_states=True, activation=activation
    )
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(after, final)


def test_packed_sequences():
    x, weight, bias = arrays((1, D, L), (D, W), (D,))
    ids = np.array([[0] * 4 + [1] * 2 + [2] * 3])
    parts = [reference(x[..., ids[0] == each], weight, bias)[0] for each in range(3)]
    out = causal_conv1d_fn(x, weight, bias, seq_idx=ids.astype(np.int32))
    np.testing.assert_allclose(out, np.concatenate(parts, axis=2), rtol=1e-5, atol=1e-5)


def test_the_convolution_is_computed_in_the_dtype_of_the_weights():
    x, weight, bias = arrays((B, D, L), (D, W), (D,))
    narrow = jnp.asarray(x, jnp.bfloat16)
    out = causal_conv1d_fn(narrow, weight, bias)
    assert out.dtype == jnp.bfloat16
    wanted, _ = reference(np.asarray(narrow, np.float32), weight, bias)
    np.testing.assert_array_equal(
        out, causal_conv1d_fn(narrow.astype(np.float32), weight, bias).astype(jnp.bfloat16)
    )
    np.testing.assert_allclose(out.astype(np.float32), wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("size", [W - 1, W + 2])
@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("length", [None, 3])
def test_updates(size, circular, length):
    """Streams of different ages, one step or three at a time, in shifted or circular buffers."""
    x, weight, bias = arrays((B, D, L), (D, W), (D,))
    wanted, _ = reference(x, weight, bias, activation="silu")
    update = jax.jit(functools.partial(causal_conv1d_update, activation="silu"), donate_argnums=1)
    state, ages = jnp.zeros((B, D, size)), np.array([0, 4, 13], np.int32)
    outputs = []
    for start in range(0, L, length or 1):
        part = x[..., start] if length is None else x[..., start : start + length]
        given = {"cache_seqlens": ages + start} if circular else {}
        out, state = update(part, state, weight, bias, **given)
        assert out.shape == part.shape
        outputs.append(out[..., None] if length is None else out)
    np.testing.assert_allclose(np.concatenate(outputs, axis=2), wanted, rtol=1e-5, atol=1e-5)
    last = x[..., L - size :]
    if circular:
        newest_first = [np.roll(last[n], age + L, axis=-1) for n, age in enumerate(ages)]
        np.testing.assert_array_equal(state, np.stack(newest_first))
    else:
        np.testing.assert_array_equal(state, last)


def test_more_steps_than_a_circular_buffer_holds():
    x, weight, bias = arrays((B, D, L), (D, W), (D,))
    state, ages = jnp.zeros((B, D, W)), np.array([0, 1, 6], np.int32)
    out, state = causal_conv1d_update(x, state, weight, bias, cache_seqlens=ages)
    np.testing.assert_allclose(out, reference(x, weight, bias)[0], rtol=1e-5, atol=1e-5)
    rolled = [np.roll(x[n, :, L - W :], age + L, axis=-1) for n, age in enumerate(ages)]
    np.testing.assert_array_equal(state, np.stack(rolled))


def test_rows_of_a_larger_state():
    x, weight, bias, states = arrays((B, D), (D, W), (D,), (7, D, W - 1))
    rows = np.array([5, 0, 3])
    out, after = causal_conv1d_update(x, states, weight, bias, conv_state_indices=rows)
    wanted, kept = causal_conv1d_update(x, states[rows], weight, bias)
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(after[rows], kept)
    others = [1, 2, 4, 6]
    np.testing.assert_array_equal(after[np.array(others)], states[others])


X, WEIGHT = np.ones((B, D, L), np.float32), np.ones((D, W), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: causal_conv1d_fn(X[0], WEIGHT), ValueError, r"x must be \[B, D, L\]"),
        (lambda: causal_conv1d_fn(X, WEIGHT[1:]), ValueError, "one row per channel, but 4 != 5"),
        (lambda: causal_conv1d_fn(X, WEIGHT, WEIGHT[0]), ValueError, "bias must have shape"),
        (lambda: causal_conv1d_fn(X.astype(int), WEIGHT), TypeError, "x must be floating"),
        (lambda: causal_conv1d_fn(X, WEIGHT.tolist()), TypeError, "weight must be an array"),
        (
            lambda: causal_conv1d_fn(X, WEIGHT, final_states_out=X),
            ValueError,
            "final_states_out must be None, because JAX arrays cannot be written to",
        ),
        (
            lambda: causal_conv1d_fn(X, WEIGHT, initial_states=X[..., :2]),
            ValueError,
            "initial_states must be",
        ),
        (lambda: causal_conv1d_fn(X, WEIGHT, initial_states=X), ValueError, "with W-1 = 3 steps"),
        (
            lambda: causal_conv1d_update(X, X[1:], WEIGHT),
            ValueError,
            r"conv_state must be \[B, D, S\] = \(3, 5, S\) with S at least W-1 = 3",
        ),
        (
            lambda: causal_conv1d_update(X, X, WEIGHT, cache_seqlens=np.zeros(3)),
            TypeError,
            "cache_seqlens must be integers",
        ),
        (
            lambda: causal_conv1d_update(X, X, WEIGHT, conv_state_indices=np.zeros(2, int)),
            ValueError,
            "conv_state_indices must have one entry per example",
        ),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
