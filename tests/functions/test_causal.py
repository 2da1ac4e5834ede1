"""Causal convolution: the oracle, independence of the future, streaming in any chunks."""

import functools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxconv
from support import cases, oracle
from support.cases import operand, operands
from support.operators import assert_conv, assert_uses_primitives
from support.oracle import Case

pytestmark = pytest.mark.usefixtures("x64")


def causal(length: int, k: int, s: int, d: int, groups: int = 1, multiplier: int = 3) -> Case:
    padding = ((d * (k - 1), 0),)
    return Case(2, 4, 4 * multiplier, (length,), (k,), (s,), padding, (d,), groups)


CASES = {
    "dense": causal(11, 3, 1, 1),
    "dilated": causal(13, 4, 1, 3),
    "strided": causal(11, 3, 2, 2),
    "grouped": causal(11, 3, 1, 2, groups=2),
    "depthwise": causal(11, 4, 1, 1, groups=4, multiplier=1),
    "one tap": causal(5, 1, 1, 2),
    "wider than the input": causal(3, 5, 1, 2),
}
by_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@by_case
def test_causal_conv(case):
    x, k, g = operands(case, np.float64)
    options = case.options(padding=False)
    assert_conv(lambda x, k: jaxconv.causal_conv(x, k, **options), case, x, k, g)


def test_unbatched_with_bias():
    case = CASES["grouped"]
    x, k = operands(case, np.float64, "xk")
    bias = operand((12,), np.float64)
    options = case.options(padding=False)
    y = jaxconv.causal_conv(x, k, bias, **options)
    np.testing.assert_allclose(
        y - bias[None, None], jaxconv.causal_conv(x, k, **options), atol=1e-13
    )
    np.testing.assert_allclose(jaxconv.causal_conv(x[1], k, bias, **options), y[1], atol=1e-13)


@pytest.mark.sample(5)
@by_case
def test_no_output_depends_on_the_future(case):
    """The Jacobian of output i is zero at every input after i * stride."""
    x, k = operands(case, np.float64, "xk")
    options = case.options(padding=False)

    def impulse(x):
        return jaxconv.causal_conv(x, k, **options)[0, :, 0]

    jacobian = jax.jacrev(impulse)(x)[:, 0]
    present = np.arange(len(jacobian)) * case.strides[0]
    future = np.arange(x.shape[1])[None] > present[:, None]
    assert not np.any(np.asarray(jacobian)[future])
    assert np.all(np.asarray(jacobian)[np.arange(len(present)), present].any(axis=-1))


@functools.cache
def stepper(case: Case, bias: bool = False):
    """``(x, k) -> init`` and a jitted step of the stream."""
    options = {"dilation": case.dilation, "groups": case.groups}
    step = jax.jit(functools.partial(jaxconv.causal_conv_step, **options))
    return functools.partial(jaxconv.causal_conv_init, **options), step


def stream(case: Case, x, k, chunks, bias=None):
    init, step = stepper(case)
    state, outputs, start = init(k, x.shape[0]), [], 0
    for length in chunks:
        y, state = step(state, x[:, start : start + length], k, bias)
        outputs.append(y)
        start += length
    assert start == x.shape[1]
    return jnp.concatenate(outputs, axis=1), state


STREAMS = {name: case for name, case in CASES.items() if case.strides == (1,)}


@pytest.mark.parametrize("case", STREAMS.values(), ids=STREAMS)
def test_causal_conv_step_one_at_a_time(case):
    x, k = operands(case, np.float64, "xk")
    y, state = stream(case, x, k, [1] * x.shape[1])
    oracle.assert_right(y, "g", case, x=x, k=k)
    kept = (case.kernel_spatial[0] - 1) * case.dilation[0]
    padded = np.pad(x, ((0, 0), (kept, 0), (0, 0)))
    np.testing.assert_array_equal(state, padded[:, padded.shape[1] - kept :])


@hypothesis.settings(max_examples=12)
@hypothesis.given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_any_chunking_equals_the_whole(chunks):
    case = causal(sum(chunks), 3, 1, 2, groups=2)
    x, k = operands(case, np.float64, "xk")
    bias = operand((12,), np.float64)
    whole = jaxconv.causal_conv(x, k, bias, dilation=2, groups=2)
    streamed, _ = stream(CASES["grouped"], x, k, chunks, bias)
    np.testing.assert_allclose(streamed, whole, rtol=1e-12, atol=1e-12)


def test_streaming_in_scan_and_its_gradient():
    case = CASES["depthwise"]
    x, k = operands(case, np.float64, "xk")
    init, step = stepper(case)

    def streamed(x, k):
        def body(state, pixel):
            y, state = step(state, pixel[:, None], k)
            return state, y[:, 0]

        _, y = jax.lax.scan(body, init(k, x.shape[0]), jnp.moveaxis(x, 1, 0))
        return jnp.sum(jnp.moveaxis(y, 0, 1) ** 2)

    def whole(x, k):
        return jnp.sum(jaxconv.causal_conv(x, k, groups=4) ** 2)

    grads = jax.jit(jax.grad(streamed, argnums=(0, 1)))(x, k)
    chex.assert_trees_all_close(grads, jax.grad(whole, argnums=(0, 1))(x, k), rtol=1e-10)
    assert_uses_primitives(jax.grad(streamed), x, k)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.complex128])
def test_causal_conv_init(dtype):
    k = np.ones((3, 2, 9), np.float32)
    state = jaxconv.causal_conv_init(k, 5, dilation=4, groups=3, dtype=dtype)
    assert (state.shape, state.dtype) == ((5, 8, 6), dtype)
    assert not state.any()
    assert jaxconv.causal_conv_init(k, 0).dtype == np.float32
    assert jaxconv.causal_conv_init(k[:1], 2).shape == (2, 0, 2)


def test_stepping_compiles_once():
    case = CASES["dense"]
    x, k = operands(case, np.float64, "xk")
    step = jax.jit(chex.assert_max_traces(jaxconv.causal_conv_step, n=1))
    state = jaxconv.causal_conv_init(k, 2)
    for start in range(4):
        _, state = step(state, x[:, start : start + 1], k)


@pytest.mark.sample(3)
@pytest.mark.parametrize("dtype", [np.float16, cases.DTYPES["bfloat16"], np.complex64])
def test_dtypes(dtype):
    case = CASES["dilated"]
    x, k, g = operands(case, dtype)
    options = case.options(padding=False)
    assert_conv(lambda x, k: jaxconv.causal_conv(x, k, **options), case, x, k, g)
    y, state = stream(case, x, k, [5, 8])
    assert y.dtype == state.dtype == dtype
    oracle.assert_right(y, "g", case, x=x, k=k)
