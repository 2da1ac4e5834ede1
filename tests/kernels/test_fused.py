"""The epilogue of the CPU engine's fused convolution against float64 formulas."""

from __future__ import annotations

import itertools
import math
import random

import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv._src.geometry.epilogue import ACTIVATIONS, Epilogue
from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.kernels.cpu import native
from support.engine import (
    DTYPES,
    EPILOGUE_OPERANDS,
    EPS,
    accumulator,
    activation_oracle,
    bare,
    bare_fused,
    epilogue_operands,
    fused_close,
    fused_oracle,
    instruction_sets,
    operands,
    random_epilogue,
    random_spec,
    using_instruction_set,
)
from support.marks import needs_engine

pytestmark = [
    pytest.mark.sample(4),
    pytest.mark.lenient,
    needs_engine,
]

# One for each kind of tile, with partial tiles of pixels and partial vectors of features; the
# padding of most is so wide that no tap reaches a source for some outputs.
SPECS = {
    "dense": ConvSpec(1, 5, 37, (6, 7), (3, 2), (1, 1), ((4, 3), (1, 1)), (1, 1), 1),
    "1x1": ConvSpec(2, 40, 72, (5, 3), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "1x1 padded": ConvSpec(1, 33, 24, (5, 3), (1, 1), (1, 1), ((1, 0), (0, 2)), (1, 1), 1),
    "grouped": ConvSpec(1, 6, 57, (9,), (3,), (2,), ((5, 4),), (1,), 3),
    "one vector": ConvSpec(1, 4, 8, (9,), (2,), (1,), ((1, 1),), (1,), 1),
    "narrow groups": ConvSpec(1, 32, 32, (4, 5), (3, 3), (1, 1), ((1, 4), (1, 1)), (1, 1), 8),
    "few features": ConvSpec(1, 64, 3, (6, 5), (3, 3), (1, 1), ((1, 5), (1, 1)), (1, 1), 1),
    "depthwise": ConvSpec(2, 37, 37, (7, 9), (3, 3), (1, 1), ((1, 5), (1, 1)), (1, 1), 37),
    "few channels": ConvSpec(1, 3, 3, (11,), (4,), (2,), ((6, 1),), (1,), 3),
    "multiplier": ConvSpec(1, 17, 51, (6, 5), (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 1), 17),
    "3-D": ConvSpec(1, 16, 16, (3, 4, 5), (2, 2, 2), (1,) * 3, ((1, 0),) * 3, (1,) * 3, 16),
}
SUBSETS = list(itertools.product((False, True), repeat=3))
EXACT = (None, "relu", "relu6", "leaky_relu")  # of small integers, and with a slope of 1/4


def small_integers(shape, dtype, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(DTYPES[dtype])


def epilogue_of(activation: str | None, subset=(False,) * 3) -> Epilogue:
    slope = 0.25 if activation == "leaky_relu" else 0.0
    parts = dict(zip(EPILOGUE_OPERANDS, subset, strict=True))
    return Epilogue(**parts, activation=activation, negative_slope=slope)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECS)
def test_epilogues_of_integers_are_exact(instruction_set, name, dtype):
    """Every subset of the operands; results of 16 bits are the exact ones, rounded once."""
    spec = SPECS[name]
    x, kernel = (
        small_integers(s, dtype, i) for i, s in enumerate(spec.operand_shapes(Operator.CONV))
    )
    for activation, subset in itertools.product(EXACT, SUBSETS):
        epilogue = epilogue_of(activation, subset)
        values = epilogue_operands(spec, epilogue, dtype)
        values = [small_integers(v.shape, dtype, 2 + i) for i, v in enumerate(values)]
        expected, _ = fused_oracle(spec, epilogue, x, kernel, values)
        result = bare_fused(spec, epilogue, dtype, x, kernel, values)
        assert np.array_equal(result, expected.astype(DTYPES[dtype])), epilogue


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECS)
def test_all_activations(instruction_set, name, dtype):
    spec = SPECS[name]
    x, kernel = operands(Operator.CONV, spec, dtype)
    for activation, subset in zip(ACTIVATIONS, itertools.cycle(SUBSETS[::-1]), strict=False):
        epilogue = epilogue_of(activation, subset)
        values = epilogue_operands(spec, epilogue, dtype)
        result = bare_fused(spec, epilogue, dtype, x, kernel, values)
        expected = fused_oracle(spec, epilogue, x, kernel, values)
        assert fused_close(spec, result, expected, dtype), epilogue


def test_a_wrong_epilogue_is_found():
    """The comparison fails with another operand, another activation, or a part left out."""
    spec = SPECS["dense"]
    epilogue = epilogue_of("leaky_relu", (True, True, True))
    x, kernel = operands(Operator.CONV, spec, "float32")
    values = epilogue_operands(spec, epilogue, "float32")
    result = bare_fused(spec, epilogue, "float32", x, kernel, values)
    assert fused_close(spec, result, fused_oracle(spec, epilogue, x, kernel, values), "float32")
    for wrong in ((values[1], values[0], values[2]), (values[0], values[1], values[2][:, ::-1])):
        expected = fused_oracle(spec, epilogue, x, kernel, wrong)
        assert not fused_close(spec, result, expected, "float32")
    for activation in {None, *ACTIVATIONS} - {"leaky_relu"}:
        other = epilogue_of(activation, (True, True, True))
        expected = fused_oracle(spec, other, x, kernel, values)
        assert not fused_close(spec, result, expected, "float32"), activation


# Of float32, relative to the result; and absolute, of results that are flushed to zero.
RELATIVE_ERROR = {
    "silu": 1e-6,
    "gelu_tanh": 3e-5,  # in the tail, where results are below 1e-20
    "gelu_exact": 1e-6,
    "sigmoid": 1e-6,
    "hard_swish": 3e-7,
    "tanh": 1e-6,
    "leaky_relu": 1e-7,
    "relu": 0,
    "relu6": 0,
}


def activated(values: np.ndarray, activation: str, dtype: str) -> np.ndarray:
    """The activation alone: a 1×1 depthwise convolution with ones."""
    channels = 64
    x = np.resize(values, -(-len(values) // channels) * channels).reshape(1, -1, channels)
    spec = ConvSpec(1, channels, channels, (x.shape[1],), (1,), (1,), ((0, 0),), (1,), channels)
    ones = np.ones(spec.kernel_shape, DTYPES[dtype])
    y = bare_fused(spec, epilogue_of(activation), dtype, x.astype(DTYPES[dtype]), ones, ())
    return y.reshape(-1)[: len(values)]


def dense_samples(dtype) -> np.ndarray:
    """Around zero, over the usual range, and of every magnitude, with both signs."""
    magnitudes = np.logspace(-30, 30, 50_000)
    values = np.concatenate([np.linspace(0, 12, 100_000), np.linspace(12, 110, 20_000), magnitudes])
    return np.concatenate([values, -values]).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_accurate(instruction_set, activation, dtype):
    values = dense_samples(DTYPES[dtype])
    result = activated(values, activation, dtype).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = precise(values.astype(np.float64), activation)
    relative = RELATIVE_ERROR[activation] if dtype == "float32" else 1e-13
    error = np.abs(result - expected)
    wrong = ~(error <= relative * np.abs(expected) + 1e-35)
    assert not wrong.any(), (values[wrong][:5], result[wrong][:5], expected[wrong][:5])


def precise(z: np.ndarray, activation: str) -> np.ndarray:
    """Accurate relative to the result, where the textbook formula is not."""
    if activation == "gelu_tanh":
        with np.errstate(over="ignore"):
            return z / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    return activation_oracle(z, epilogue_of(activation))


LIMITS = {  # at -inf, inf; jax.nn's
    "relu": (0, math.inf),
    "relu6": (0, 6),
    "leaky_relu": (-math.inf, math.inf),
    "silu": (math.nan, math.inf),
    "gelu_tanh": (math.nan, math.inf),
    "gelu_exact": (math.nan, math.inf),
    "sigmoid": (0, 1),
    "hard_swish": (math.nan, math.inf),
    "tanh": (-1, 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_infinities_and_nan(instruction_set, activation, dtype):
    values = np.array([-np.inf, np.inf, np.nan, -np.nan])
    result = activated(values, activation, dtype).astype(np.float64)
    assert np.isnan(result[2:]).all()
    np.testing.assert_array_equal(result[:2], LIMITS[activation])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_results_are_rounded_once(instruction_set, dtype):
    """The exact result lies within half a unit in the last place."""
    spec = SPECS["1x1"]
    x, kernel = operands(Operator.CONV, spec, dtype)
    epilogue = epilogue_of("silu", (True, True, True))
    values = epilogue_operands(spec, epilogue, dtype)
    result = bare_fused(spec, epilogue, dtype, x, kernel, values).astype(np.float64)
    expected, size = fused_oracle(spec, epilogue, x, kernel, values)
    rounding = EPS[dtype] / 2 * np.abs(expected)
    assert (np.abs(result - expected) <= rounding + 1e-5 * (1 + size)).all()


LARGE = (
    ConvSpec(2, 64, 96, (30, 29), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ConvSpec(2, 96, 200, (28, 28), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    ConvSpec(2, 72, 144, (40, 37), (5, 3), (2, 1), ((2, 1), (1, 1)), (1, 2), 72),
    # More than fits any cache: results are written past it if pixels are whole cache lines.
    ConvSpec(6, 128, 128, (161, 56), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 128),
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("spec", LARGE, ids=lambda spec: "x".join(map(str, spec.kernel_shape)))
def test_results_are_bit_identical_for_any_thread_count(spec, dtype):
    epilogue = epilogue_of("silu", (True, True, True))
    x, kernel = operands(Operator.CONV, spec, dtype)
    values = epilogue_operands(spec, epilogue, dtype)
    one = bare_fused(spec, epilogue, dtype, x, kernel, values, threads=1, past_line=0)
    assert fused_close(spec, one, fused_oracle(spec, epilogue, x, kernel, values), dtype)
    for threads in (2, 3, 8):
        again = bare_fused(spec, epilogue, dtype, x, kernel, values, threads, 8 * (threads % 2))
        assert again.tobytes() == one.tobytes(), threads


@pytest.mark.parametrize("name", SPECS)
def test_a_trivial_epilogue_is_the_convolution(instruction_set, name):
    spec = SPECS[name]
    x, kernel = operands(Operator.CONV, spec, "float32")
    result = bare_fused(spec, Epilogue(), "float32", x, kernel, ())
    assert np.array_equal(result, bare(Operator.CONV, spec, "float32", x, kernel))


def test_random_fused_specs(instruction_set):
    rng = random.Random(5)
    for index in range(60):
        spec, dtype = random_spec(rng), tuple(DTYPES)[index % len(DTYPES)]
        epilogue = random_epilogue(rng)
        x, kernel = operands(Operator.CONV, spec, dtype, index)
        values = epilogue_operands(spec, epilogue, dtype, index)
        result = bare_fused(spec, epilogue, dtype, x, kernel, values, threads=1 + index % 3)
        expected = fused_oracle(spec, epilogue, x, kernel, values)
        assert fused_close(spec, result, expected, dtype), (epilogue, spec, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_through_jax(dtype):
    spec = SPECS["depthwise"]
    x, kernel = map(jnp.asarray, operands(Operator.CONV, spec, dtype))
    for activation, subset in zip((None, *ACTIVATIONS), itertools.cycle(SUBSETS), strict=False):
        epilogue = epilogue_of(activation, subset)
        values = epilogue_operands(spec, epilogue, dtype)
        result = native.fused_conv(x, kernel, tuple(map(jnp.asarray, values)), spec, epilogue)
        if dtype == "float64" and x.dtype == jnp.float32:  # without jax_enable_x64
            continue
        assert result.dtype == x.dtype
        expected = fused_oracle(spec, epilogue, np.asarray(x), np.asarray(kernel), values)
        assert fused_close(spec, np.asarray(result), expected, dtype)


def test_operands_of_another_dtype_and_the_result_dtype():
    spec = SPECS["1x1"]
    epilogue = epilogue_of("relu", (False, True, False))
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in operands(Operator.CONV, spec, "float32"))
    bias = epilogue_operands(spec, epilogue, "float32")[0]
    wide = native.fused_conv(x, kernel, (jnp.asarray(bias),), spec, epilogue)
    assert wide.dtype == jnp.float32
    expected = fused_oracle(spec, epilogue, np.asarray(x), np.asarray(kernel), (bias,))
    assert fused_close(spec, np.asarray(wide), expected, accumulator("float32"))
    narrow = native.fused_conv(x, kernel, (x[0, 0, 0, :1].repeat(72),), spec, epilogue)
    assert narrow.dtype == jnp.bfloat16


def test_without_channels_the_epilogue_applies_to_zero():
    spec = ConvSpec(2, 0, 20, (4, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    epilogue = epilogue_of("silu", (True, True, True))
    values = epilogue_operands(spec, epilogue, "float32")
    x, kernel = jnp.ones(spec.input_shape), jnp.ones(spec.kernel_shape)
    result = native.fused_conv(x, kernel, tuple(map(jnp.asarray, values)), spec, epilogue)
    z = values[1].astype(np.float64) + values[2]
    np.testing.assert_allclose(result, activation_oracle(z, epilogue), rtol=1e-6, atol=1e-6)


def test_invalid_calls_raise_with_a_reason():
    spec = SPECS["1x1"]
    epilogue = epilogue_of("relu", (True, True, True))
    x, kernel = map(jnp.asarray, operands(Operator.CONV, spec, "float32"))
    values = tuple(map(jnp.asarray, epilogue_operands(spec, epilogue, "float32")))

    def call(changed: int | None = None, array=None, count=3):
        arrays = [array if i == changed else v for i, v in enumerate(values)][:count]
        native.fused_conv(x, kernel, tuple(arrays), spec, epilogue).block_until_ready()

    call()
    for message, options in {
        r"scale must have shape \(72\), but has shape \(71\)": {
            "changed": 0,
            "array": jnp.ones(71),
        },
        r"bias must have shape \(72\), but has shape \(1, 72\)": {
            "changed": 1,
            "array": jnp.ones((1, 72)),
        },
        r"residual must have shape \(2, 5, 3, 72\)": {
            "changed": 2,
            "array": jnp.ones((2, 5, 3, 71)),
        },
        "reads 3 arrays, but 2 were given": {"count": 2},
    }.items():
        with pytest.raises(Exception, match=message):
            call(**options)


def test_every_instruction_set_gives_the_same_function():
    spec = SPECS["grouped"]
    epilogue = epilogue_of("gelu_exact", (True, True, False))
    x, kernel = operands(Operator.CONV, spec, "float32")
    values = epilogue_operands(spec, epilogue, "float32")
    results = []
    for name in instruction_sets():
        with using_instruction_set(name):
            results.append(bare_fused(spec, epilogue, "float32", x, kernel, values))
    for result in results:
        np.testing.assert_allclose(result, results[0], rtol=1e-5, atol=1e-5)
