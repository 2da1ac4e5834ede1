"""The depthwise causal convolution of packed sequences on the CPU engine."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxconv
from jaxconv._src.kernels.cpu import native
from jaxconv._src.kernels.cpu import segments as engine
from jaxconv._src.primitives.segments import segments_p
from support import sequences
from support.marks import needs_engine
from support.operators import primitives

pytestmark = needs_engine

# batch, steps, channels, taps, dilation: around the sizes of vectors, tiles of steps and channels,
# and of the groups of taps that are summed at once.
SHAPES = [
    (2, 70, 37, 4, 1),
    (1, 33, 530, 3, 2),
    (3, 5, 16, 9, 1),
    (1, 64, 8, 17, 3),
    (2, 32, 1, 2, 1),
    (1, 1, 600, 8, 1),
]
DTYPES = [np.float32, np.float64, ml_dtypes.bfloat16, np.float16]


def arrays(batch, steps, channels, taps, dilation, dtype, before=False):
    """Small integers, which are exact in every dtype, and ids in runs of random lengths."""
    rng = np.random.default_rng([batch, steps, channels, taps])
    steps += (taps - 1) * dilation * before
    x = rng.integers(-3, 4, (batch, steps, channels)).astype(dtype)
    kernel = rng.integers(-3, 4, (taps, 1, channels)).astype(dtype)
    bias = rng.integers(-3, 4, channels).astype(dtype)
    ids = np.cumsum(rng.random((batch, steps)) < 0.1, axis=1).astype(np.int32)
    return x, kernel, bias, ids


def program(fn, *args) -> str:
    return jax.jit(fn).lower(*args).as_text()


@pytest.mark.usefixtures("x64")
@pytest.mark.sample(5)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("instructions", ["baseline", "avx2", "avx512"])
def test_values(shape, dtype, instructions):
    """On every instruction set of this machine, with and without a state; exact."""
    used = native.instruction_set()
    try:
        native.use_instruction_set(instructions)
    except ValueError:
        pytest.skip(f"this machine does not support {instructions}")
    try:
        for before in (False, True):
            x, kernel, bias, ids = arrays(*shape, dtype, before)
            past = (shape[3] - 1) * shape[4] * before
            conv = functools.partial(
                jaxconv.causal_conv, groups=shape[2], dilation=shape[4], segment_ids=ids
            )
            given = {"initial_state": x[:, :past]} if before else {}
            y = conv(x[:, past:], kernel, bias, **given)
            wanted = sequences.causal(
                x[:, past:],
                kernel,
                groups=shape[2],
                dilation=shape[4],
                ids=ids,
                state=x[:, :past] if before else None,
            )
            wanted = (wanted + bias.astype(np.float64)).astype(dtype)
            np.testing.assert_array_equal(np.asarray(y), wanted)
    finally:
        native.use_instruction_set(used)


def test_it_runs_on_the_engine_unless_something_speaks_against_it():
    x, kernel, _, ids = arrays(2, 20, 8, 4, 1, np.float32)

    def conv(x, kernel, ids, **options):
        return jaxconv.causal_conv(x, kernel, groups=8, segment_ids=ids, **options)

    assert "jaxconv_causal_conv" in program(conv, x, kernel, ids)
    taps = functools.partial(conv, implementation="taps")
    assert "jaxconv_causal_conv" not in program(taps, x, kernel, ids)
    assert "jaxconv_causal_conv" not in program(functools.partial(conv, strides=2), x, kernel, ids)
    wide = jnp.repeat(jnp.asarray(kernel), 2, axis=2)
    assert "jaxconv_causal_conv" not in program(conv, x, wide, ids)
    exported = jax.export.export(jax.jit(conv))(x, kernel, ids)
    assert "custom_call" not in exported.mlir_module()
    np.testing.assert_array_equal(exported.call(x, kernel, ids), conv(x, kernel, ids))


@pytest.mark.parametrize("activation", ["silu", "gelu_exact", "relu6", "tanh", "leaky_relu"])
@pytest.mark.sample(3)
def test_activations(activation):
    x, kernel, bias, ids = arrays(1, 50, 70, 4, 1, np.float32)
    conv = functools.partial(jaxconv.causal_conv, groups=70, segment_ids=ids, activation=activation)
    got, wanted = (conv(x / 8, kernel, bias, implementation=i) for i in (None, "taps"))
    np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=2e-6)


def test_results_are_the_same_bits_for_any_number_of_threads():
    x, kernel, bias, ids = arrays(3, 400, 130, 4, 1, np.float32)
    conv = functools.partial(jaxconv.causal_conv, groups=130, segment_ids=ids, activation="silu")
    wanted = conv(x, kernel, bias)
    try:
        for threads in (1, 3):
            native.inject_threads(threads)
            np.testing.assert_array_equal(conv(x, kernel, bias), wanted)
    finally:
        native.inject_threads(0)


def test_every_derivative_is_that_of_the_definition():
    x, kernel, bias, ids = arrays(2, 12, 5, 3, 2, np.float32)

    def loss(implementation, x, kernel, bias):
        y = jaxconv.causal_conv(
            x,
            kernel,
            bias,
            groups=5,
            dilation=2,
            segment_ids=ids,
            activation="silu",
            implementation=implementation,
        )
        return jnp.sum(jnp.sin(y))

    def second(implementation):
        gradient = jax.grad(functools.partial(loss, implementation), argnums=(0, 1, 2))
        return jax.jit(lambda *primals: jax.jvp(gradient, primals, tuple(p / 8 for p in primals)))

    primals = [jnp.asarray(a / 8) for a in (x, kernel, bias)]
    for got, wanted in zip(
        jax.tree.leaves(second(None)(*primals)),
        jax.tree.leaves(second("taps")(*primals)),
        strict=True,
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_mapped_sequences_fold_into_the_batch():
    x, kernel, _, ids = arrays(4, 12, 5, 3, 1, np.float32)

    def conv(x, ids):
        return jaxconv.causal_conv(x, kernel, groups=5, segment_ids=ids)

    mapped = jax.vmap(conv, in_axes=(1, 0))
    x_mapped, ids_mapped = x.reshape(2, 2, 12, 5).swapaxes(0, 1), ids.reshape(2, 2, 12)
    y = mapped(x_mapped.swapaxes(0, 1).swapaxes(0, 1), ids_mapped)
    assert segments_p.name in primitives(mapped, x_mapped, ids_mapped)
    np.testing.assert_array_equal(y.reshape(4, 12, 5), conv(x, ids))


def test_sharded_over_devices():
    x, kernel, bias, ids = arrays(8, 12, 5, 3, 1, np.float32)
    conv = jax.jit(lambda x, ids: jaxconv.causal_conv(x, kernel, bias, groups=5, segment_ids=ids))
    mesh = jax.make_mesh((8,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.NamedSharding(mesh, jax.P("b"))
    y = conv(*(jax.device_put(each, sharded) for each in (x, ids)))
    assert y.sharding.is_equivalent_to(sharded, 3)
    np.testing.assert_array_equal(y, conv(x, ids))
    mapped = jax.shard_map(conv, mesh=mesh, in_specs=jax.P("b"), out_specs=jax.P("b"))
    np.testing.assert_array_equal(jax.jit(mapped)(x, ids), y)


def test_receptive_field():
    ids, kernel = np.zeros((1, 30), np.int32), jnp.ones((4, 1, 3))
    field = jaxconv.receptive_field(
        lambda x: jaxconv.causal_conv(x, kernel, groups=3, dilation=2, segment_ids=ids),
        jax.ShapeDtypeStruct((1, 30, 3), jnp.float32),
    )
    assert (field.size, field.offset, field.stride) == ((7,), (-6,), (1,))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"before": np.int64(-1)}, "before must be from 0 to 6"),
        ({"dilation": np.int64(0)}, "dilation must be from 1"),
        ({"activation": np.int64(99)}, "activation must be between 0 and"),
        ({"before": np.int64(2)}, "the result must have shape"),
    ],
)
def test_the_engine_checks_its_arguments(changes, words):
    x, kernel, _, ids = arrays(1, 6, 3, 2, 1, np.float32)
    options = {
        "before": np.int64(0),
        "dilation": np.int64(1),
        "activation": np.int64(0),
        "negative_slope": np.float64(0),
    }
    call = jax.ffi.ffi_call(engine.library.CAUSAL_TARGET, jax.ShapeDtypeStruct(x.shape, x.dtype))
    engine.library.load()
    with pytest.raises(jax.errors.JaxRuntimeError, match=words):
        jax.block_until_ready(call(x, kernel, ids, **(options | changes)))
