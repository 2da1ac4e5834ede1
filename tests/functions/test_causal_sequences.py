"""Causal convolution of packed sequences, with states, lengths and activations."""

import functools

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxconv
from support import sequences
from support.cases import operand
from support.operators import primitives

LENGTH, CHANNELS = 11, 4

# kernel [K, C/G, F] and the keywords.
CASES = {
    "dense": ((3, 4, 6), {}),
    "dilated": ((3, 4, 6), {"dilation": 2}),
    "strided": ((3, 4, 6), {"strides": 2}),
    "grouped": ((4, 2, 6), {"groups": 2}),
    "depthwise": ((4, 1, 4), {"groups": 4}),
    "depthwise with multiplier": ((3, 1, 8), {"groups": 4, "dilation": 2, "strides": 3}),
    "one tap": ((1, 4, 6), {"strides": 2}),
    "wider than the input": ((7, 1, 4), {"groups": 4, "dilation": 3}),
}
by_case = pytest.mark.parametrize(("shape", "options"), CASES.values(), ids=CASES)
SOME = {name: CASES[name] for name in ("grouped", "depthwise with multiplier")}
some_cases = pytest.mark.parametrize(("shape", "options"), SOME.values(), ids=SOME)

# The last row has a segment in two parts.
IDS = np.array([[3] * 4 + [5] * 1 + [6] * 6, [0, 0, 1, 1, 1, 0, 0, 0, 2, 2, 2]])


def reach(shape, options) -> int:
    """The steps of a state."""
    return (shape[0] - 1) * options.get("dilation", 1)


def arrays(shape, options, dtype=np.float64):
    """``x``, ``kernel``, ``bias``, ``state``."""
    shapes = (2, LENGTH, CHANNELS), shape, shape[-1:], (2, reach(shape, options), CHANNELS)
    return [operand(each, dtype, seed) for seed, each in enumerate(shapes)]


def integers(*shapes, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [rng.integers(-4, 5, shape).astype(dtype) for shape in shapes]


def jitted(options, **more):
    return jax.jit(functools.partial(jaxconv.causal_conv, **options, **more))


def silu(z):
    return z / (1 + np.exp(-z))


@pytest.mark.usefixtures("x64")
@pytest.mark.sample(2)
@by_case
def test_segments_state_and_activation(shape, options):
    x, kernel, bias, state = arrays(shape, options)
    for before in (False, True):
        given = {"initial_state": state} if before else {}
        ids = np.pad(IDS, ((0, 0), (reach(shape, options) * before, 0)), mode="edge")
        wanted = sequences.causal(x, kernel, **options, ids=ids, state=state if before else None)
        assert np.abs(wanted).max() > 1
        conv = jitted(options, activation="silu")
        y = conv(x, kernel, bias, segment_ids=IDS, **given)
        np.testing.assert_allclose(y, silu(wanted + bias), rtol=1e-12, atol=1e-12)
        if before:  # the ids of the state's steps, which are not those of the first step
            ids[:, : ids.shape[1] // 2] = 7
            wanted = sequences.causal(x, kernel, **options, ids=ids, state=state)
            y = conv(x, kernel, bias, segment_ids=ids, **given)
            np.testing.assert_allclose(y, silu(wanted + bias), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_state_without_segments():
    shape, options = CASES["grouped"]
    x, kernel, bias, state = arrays(shape, options)
    wanted = sequences.causal(x, kernel, **options, state=state) + bias
    y = jaxconv.causal_conv(x, kernel, bias, initial_state=state, **options)
    np.testing.assert_allclose(y, wanted, rtol=1e-12, atol=1e-12)
    one = jaxconv.causal_conv(
        x[1], kernel, bias, initial_state=state[1], return_final_state=True, **options
    )
    np.testing.assert_allclose(one[0], wanted[1], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(one[1], x[1, -3:])


@pytest.mark.sample(2)
@pytest.mark.parametrize("activation", ["relu", "gelu", jax.nn.tanh, "leaky_relu", "hard_swish"])
def test_activation_is_that_of_fused_conv(activation):
    x, kernel, bias, _ = arrays(*CASES["depthwise"], np.float32)
    got = jaxconv.causal_conv(x, kernel, bias, groups=4, activation=activation)
    wanted = jaxconv.fused_conv(x, kernel, bias, groups=4, activation=activation, padding="CAUSAL")
    np.testing.assert_array_equal(got, wanted)
    segments = np.zeros(x.shape[:2], int)
    got = jaxconv.causal_conv(
        x, kernel, bias, groups=4, activation=activation, segment_ids=segments
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_the_activation_is_fused_into_the_convolution():
    x, kernel, bias, state = arrays(*CASES["depthwise"], np.float32)
    conv = functools.partial(jaxconv.causal_conv, groups=4, activation="silu")
    assert primitives(conv, x, kernel, bias) == ["fused_conv"]
    assert "fused_conv" in primitives(lambda s: conv(x, kernel, initial_state=s), state)
    step = functools.partial(jaxconv.causal_conv_step, groups=4, activation="silu")
    assert "fused_conv" in primitives(step, state, x, kernel, bias)
    dense = functools.partial(jaxconv.causal_conv, activation="silu", segment_ids=IDS)
    assert "fused_conv" in primitives(dense, *arrays(*CASES["dense"], np.float32)[:3])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.complex64])
@pytest.mark.sample(2)
@some_cases
def test_dtypes(shape, options, dtype):
    """Integers small enough to be exact in every dtype."""
    x, kernel, state = integers((2, LENGTH, 4), shape, (2, reach(shape, options), 4), dtype=dtype)
    ids = np.pad(IDS, ((0, 0), (state.shape[1], 0)), mode="edge")
    wanted = sequences.causal(x, kernel, **options, ids=ids, state=state)
    conv = jitted(options, return_final_state=True)
    y, after = conv(x, kernel, initial_state=state, segment_ids=IDS)
    assert y.dtype == after.dtype == dtype
    np.testing.assert_array_equal(np.asarray(y, wanted.dtype), wanted)


def test_preferred_element_type():
    x, kernel, bias, _ = arrays(*CASES["depthwise"], ml_dtypes.bfloat16)
    y = jaxconv.causal_conv(
        x, kernel, bias, groups=4, segment_ids=IDS, preferred_element_type=np.float32
    )
    wanted = sequences.causal(x, kernel, groups=4, ids=IDS) + bias.astype(np.float32)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, wanted, atol=1e-5)


@pytest.mark.usefixtures("x64")
@some_cases
def test_derivatives_of_both_modes_and_orders(shape, options):
    """Of inputs, kernel, bias and state; the final state takes part."""
    primals = arrays(shape, options)

    def loss(x, kernel, bias, state):
        y, after = jaxconv.causal_conv(
            x,
            kernel,
            bias,
            activation="silu",
            segment_ids=IDS,
            initial_state=state,
            return_final_state=True,
            lengths=np.array([2, LENGTH]),
            **options,
        )
        return jnp.sum(jnp.sin(y)) + jnp.sum(after**3)

    tangents = [operand(each.shape, np.float64, 9 + i) for i, each in enumerate(primals)]

    @jax.jit
    def derivatives(primals, tangents):
        def gradient(*primals):
            return jax.grad(loss, argnums=(0, 1, 2, 3))(*primals)

        def slope(*primals):
            return jax.jvp(loss, primals, tangents)[1]

        forward_over_reverse = jax.jvp(gradient, primals, tangents)[1]
        reverse_over_forward = jax.grad(slope, argnums=(0, 1, 2, 3))(*primals)
        return gradient(*primals), slope(*primals), forward_over_reverse, reverse_over_forward

    gradient, slope, *seconds = derivatives(tuple(primals), tuple(tangents))
    step = 1e-6
    value = jax.jit(loss)
    ends = [value(*(p + sign * step * t for p, t in zip(primals, tangents, strict=True)))
            for sign in (1, -1)]  # fmt: skip
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)
    pairing = sum(np.vdot(g, t) for g, t in zip(gradient, tangents, strict=True))
    np.testing.assert_allclose(pairing, slope, rtol=1e-12)
    assert all(np.any(np.asarray(each)) for each in gradient)
    chex.assert_trees_all_close(*seconds, rtol=1e-9, atol=1e-9)


@some_cases
def test_nothing_leaks_between_segments(shape, options):
    """Not even NaN: outputs and gradients of one segment depend on no other, exactly."""
    x, kernel, bias, _ = arrays(shape, options, np.float32)
    other = IDS == 5
    other[1] = IDS[1] == 1
    changed = np.where(other[..., None], np.float32(np.nan), x)
    strides = options.get("strides", 1)
    kept = ~other[:, ::strides, None]

    @jax.jit
    def outputs_and_gradient(x):
        def loss(x):
            y = jaxconv.causal_conv(x, kernel, bias, activation="silu", segment_ids=IDS, **options)
            return jnp.sum(jnp.where(kept, y, 0.0) ** 2), y

        gradient, y = jax.grad(loss, has_aux=True)(x)
        return y, gradient

    (y, gradient), (y_changed, gradient_changed) = map(outputs_and_gradient, (x, changed))
    np.testing.assert_array_equal(np.where(kept, y, 0), np.where(kept, y_changed, 0))
    assert np.isnan(y_changed[~np.broadcast_to(kept, y.shape)]).all()
    np.testing.assert_array_equal(gradient[~other], gradient_changed[~other])
    assert not gradient[other].any()
    assert gradient[~other].any()


def test_packed_equals_separate():
    shape, options = CASES["depthwise"]
    x, kernel = integers((1, LENGTH, 4), shape)
    ids = IDS[:1]
    packed = jaxconv.causal_conv(x, kernel, segment_ids=ids, **options)
    parts = [
        jaxconv.causal_conv(x[:, ids[0] == each], kernel, **options) for each in np.unique(ids)
    ]
    np.testing.assert_array_equal(packed, np.concatenate(parts, axis=1))


def chunked(chunks, x, kernel, ids=None, **options):
    """Outputs and final state of chunks, whose states pass from one to the next."""
    state, start, outputs = None, 0, []
    before = reach(kernel.shape, options)
    for length in chunks:
        given = {} if state is None else {"initial_state": state}
        if ids is not None:
            padded = np.pad(ids, ((0, 0), (before, 0)))
            first = start if state is not None else start + before
            given["segment_ids"] = padded[:, first : start + before + length]
        part = x[:, start : start + length]
        y, state = jaxconv.causal_conv(part, kernel, return_final_state=True, **given, **options)
        outputs.append(y)
        start += length
    assert start == x.shape[1]
    return np.concatenate(outputs, axis=1), state


@pytest.mark.sample(3)
@pytest.mark.parametrize("chunks", [(1, 4, 0, 6), (5, 6), (0, 11)], ids=str)
@pytest.mark.parametrize("name", ["grouped", "depthwise", "dilated"])
def test_chunks_equal_the_whole(name, chunks):
    """Exactly: at integers, no rounding hides a wrong step."""
    shape, options = CASES[name]
    x, kernel = integers((2, LENGTH, 4), shape)
    ids = np.sort(IDS)
    for segments in (None, ids):
        given = {} if segments is None else {"segment_ids": segments}
        whole, state = jaxconv.causal_conv(x, kernel, return_final_state=True, **given, **options)
        streamed, after = chunked(chunks, x, kernel, segments, **options)
        np.testing.assert_array_equal(streamed, whole)
        np.testing.assert_array_equal(after, state)


def test_strided_chunks_equal_the_whole():
    x, kernel = integers((2, LENGTH, 4), (4, 2, 6))
    options = {"strides": 3, "groups": 2, "dilation": 2}
    whole, state = jaxconv.causal_conv(x, kernel, return_final_state=True, **options)
    streamed, after = chunked((3, 6, 2), x, kernel, **options)
    np.testing.assert_array_equal(streamed, whole)
    np.testing.assert_array_equal(after, state)


def test_a_stream_goes_on_with_the_last_segment():
    """The final state of packed sequences holds nothing of the segments before the last."""
    x, kernel = integers((1, LENGTH, 4), (5, 1, 4))
    ids = np.array([[0] * 6 + [1] * 2])
    _, state = jaxconv.causal_conv(
        x[:, :8], kernel, groups=4, segment_ids=ids, return_final_state=True
    )
    np.testing.assert_array_equal(state, np.pad(x[:, 6:8], ((0, 0), (2, 0), (0, 0))))
    y, _ = jaxconv.causal_conv_step(state, x[:, 8:], kernel, groups=4)
    alone = jaxconv.causal_conv(x[:, 6:], kernel, groups=4)
    np.testing.assert_array_equal(y, alone[:, 2:])


@pytest.mark.parametrize("segments", [False, True])
def test_lengths_give_each_example_its_own_final_state(segments):
    x, kernel, state = integers((4, LENGTH, 4), (3, 1, 4), (4, 4, 4))
    lengths = np.array([0, 3, LENGTH, 7])
    ids = np.tile(np.sort(IDS[:1]), (4, 1))
    given = {"segment_ids": ids} if segments else {}
    options = {"groups": 4, "dilation": 2, "return_final_state": True}
    conv = jitted(options)
    y, after = conv(x, kernel, initial_state=state, lengths=lengths, **given)
    for n, length in enumerate(lengths):
        each = {name: value[n, :length] for name, value in given.items()}
        alone, final = jaxconv.causal_conv(
            x[n, :length], kernel, initial_state=state[n], **each, **options
        )
        np.testing.assert_array_equal(after[n], final)
        np.testing.assert_array_equal(y[n, :length], alone)
    _, after = jaxconv.causal_conv(x, kernel, lengths=lengths, **options)
    assert not after[0].any()
    np.testing.assert_array_equal(after[1, -3:], x[1, :3])
    np.testing.assert_array_equal(after[3], x[3, 3:7])


def test_vmap():
    x, kernel, bias, state = (
        operand((3, *a.shape), np.float32) for a in arrays(*CASES["depthwise"], np.float32)
    )
    ids = np.stack([IDS, IDS[::-1], np.zeros_like(IDS)])

    def conv(x, kernel, bias, state, ids):
        return jaxconv.causal_conv(
            x,
            kernel,
            bias,
            groups=4,
            activation="silu",
            segment_ids=ids,
            initial_state=state,
            return_final_state=True,
        )

    got = jax.jit(jax.vmap(conv))(x, kernel, bias, state, ids)
    one = jax.jit(conv)
    wanted = [one(*each) for each in zip(x, kernel, bias, state, ids, strict=True)]
    chex.assert_trees_all_close(got, jax.tree.map(lambda *a: np.stack(a), *wanted), atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 1, 32), (4, 32, 32)])
def test_a_donated_state_is_reused(shape):
    groups = 32 // shape[1]
    state, x, kernel = map(jnp.asarray, integers((8, 3, 32), (8, 1, 32), shape))
    step = jax.jit(
        functools.partial(jaxconv.causal_conv_step, groups=groups, activation="silu"),
        donate_argnums=0,
    )
    address = state.unsafe_buffer_pointer()
    _, after = step(state, x, kernel)
    assert state.is_deleted()
    assert after.unsafe_buffer_pointer() == address


def test_empty_batches_and_chunks():
    kernel = np.ones((3, 2, 6), np.float32)
    state = np.ones((2, 2, 4), np.float32)
    conv = functools.partial(jaxconv.causal_conv, groups=2, return_final_state=True)
    ids = np.zeros((2, 0), int)
    for given in ({}, {"segment_ids": ids}, {"lengths": np.zeros(2, int), "activation": "silu"}):
        y, after = conv(state[:, :0], kernel, initial_state=state, **given)
        assert y.shape == (2, 0, 6)
        np.testing.assert_array_equal(after, state)
        y, after = conv(state[:, :0], kernel, **given)
        np.testing.assert_array_equal(after, np.zeros_like(state))
    y, after = conv(state[:0], kernel, initial_state=state[:0], segment_ids=np.zeros((0, 2), int))
    assert (y.shape, after.shape) == ((0, 2, 6), (0, 2, 4))
    y, after = conv(state, kernel[:0], segment_ids=np.zeros((2, 2), int))
    assert (y.shape, after.shape) == ((2, 0, 6), (2, 0, 4))


@pytest.mark.parametrize("implementation", ["lax", "dots", "taps"])
def test_forced_implementations(implementation):
    x, kernel = integers((2, LENGTH, 4), (4, 1, 4))
    y = jaxconv.causal_conv(x, kernel, groups=4, segment_ids=IDS, implementation=implementation)
    np.testing.assert_array_equal(y, sequences.causal(x, kernel, groups=4, ids=IDS))


def test_export_with_a_symbolic_batch_and_length():
    kernel = jnp.ones((3, 1, 4))
    n, length = jax.export.symbolic_shape("n, l")
    shapes = [((n, length, 4), np.float32), ((n, length), np.int32), ((n, 2, 4), np.float32)]
    exported = jax.export.export(
        jax.jit(
            lambda x, ids, state: jaxconv.causal_conv(
                x,
                kernel,
                groups=4,
                segment_ids=ids,
                initial_state=state,
                return_final_state=True,
            )
        )
    )(*(jax.ShapeDtypeStruct(*each) for each in shapes))
    x, state = integers((2, LENGTH, 4), (2, 2, 4))
    ids = IDS.astype(np.int32)
    wanted = jaxconv.causal_conv(
        x, kernel, groups=4, segment_ids=ids, initial_state=state, return_final_state=True
    )
    chex.assert_trees_all_equal(exported.call(x, ids, state), wanted)


X, KERNEL = np.ones((2, 7, 6), np.float32), np.ones((3, 2, 9), np.float32)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"segment_ids": np.zeros((2, 6), int)}, ValueError, r"\[N, L\] = \(2, 7\), but got"),
        ({"segment_ids": np.zeros(7, int)}, ValueError, r"segment_ids must have one id per step"),
        ({"segment_ids": np.zeros((2, 11), int)}, ValueError, r"but got \(2, 11\)"),
        (
            {"segment_ids": np.zeros((2, 8), int), "initial_state": X[:, :4]},
            ValueError,
            r"or \[N, \(K-1\)\*dilation \+ L\] = \(2, 11\) with the steps of the state",
        ),
        ({"segment_ids": np.zeros((2, 7))}, TypeError, "segment_ids must be integers, but its dt"),
        ({"segment_ids": np.zeros((2, 7), bool)}, TypeError, "but its dtype is bool"),
        ({"segment_ids": [[0] * 7] * 2}, TypeError, "segment_ids must be an array"),
        ({"initial_state": X[:, :3]}, ValueError, r"= \(2, 4, 6\), but got \(2, 3, 6\)"),
        ({"initial_state": X[:1, :4]}, ValueError, r"initial_state must be \[N, \(K-1\)\*dilation"),
        ({"initial_state": X[:, :4, :2]}, ValueError, "causal_conv_init and the same kernel"),
        ({"initial_state": X[0, :4]}, ValueError, r"but got \(4, 6\)"),
        ({"initial_state": X[:, :4].astype(np.float16)}, TypeError, "initial_state float16"),
        ({"initial_state": "state"}, TypeError, "initial_state must be an array"),
        ({"lengths": np.array([1, -1])}, ValueError, "lengths must be from 0 to L = 7, but got -1"),
        ({"lengths": np.array([8, 1])}, ValueError, "but got 8"),
        ({"lengths": np.array([1])}, ValueError, r"one entry per example, \(2,\), but got \(1,\)"),
        ({"lengths": np.array([1.0, 2.0])}, TypeError, "lengths must be integers"),
        (
            {"lengths": np.array([1, 2]), "return_final_state": False},
            ValueError,
            "pass return_final_state=True",
        ),
        ({"activation": "rely"}, ValueError, 'activation must be None, one of "relu"'),
        (
            {"implementation": "pallas", "segment_ids": np.zeros((2, 7), int)},
            ValueError,
            'implementation "pallas" does not support',
        ),
        (
            {"bias": np.ones(8, np.float32), "segment_ids": np.zeros((2, 7), int)},
            ValueError,
            "bias",
        ),
    ],
)
def test_errors(changes, error, words):
    options = {"dilation": 2, "groups": 3, "return_final_state": True} | changes
    with pytest.raises(error, match=words) as raised:
        jaxconv.causal_conv(X, KERNEL, **options)
    assert str(raised.value).startswith("causal_conv: ")


def test_errors_of_a_step():
    state = X[:, :2]
    with pytest.raises(ValueError, match="causal_conv_step: activation must be None"):
        jaxconv.causal_conv_step(state, X, KERNEL, groups=3, activation="rely")


def test_lengths_are_not_checked_under_jit_but_clipped():
    conv = jitted({"groups": 3, "return_final_state": True})
    state = conv(X, KERNEL, lengths=np.array([-3, 90]))[1]
    assert not state[0].any()
    np.testing.assert_array_equal(state[1], X[1, -2:])
