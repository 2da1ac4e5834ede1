"""The CPU engine against a NumPy loop that shares no code with it, and its guarantees."""

from __future__ import annotations

import os
import pathlib
import random
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.kernels.cpu import native
from support.engine import (
    DTYPES,
    OPERATORS,
    adjoint,
    bare,
    check_random,
    close,
    instruction_sets,
    operands,
    oracle,
    random_spec,
    run_python,
    using_instruction_set,
)
from support.marks import needs_engine

# The operators are called as lowering calls them: mixed operands are promoted on purpose.
pytestmark = [
    pytest.mark.lenient,
    needs_engine,
]


@pytest.mark.sample(8)
@pytest.mark.parametrize("seed", range(4))
def test_random_specs(instruction_set, seed):
    check_random(int(os.environ.get("JAXCONV_NATIVE_SPECS", "100")), seed)


def test_the_comparison_can_fail():
    spec = random_spec(random.Random(1))
    for operator in OPERATORS:
        a, b = operands(operator, spec, "float32")
        expected = oracle(operator, spec, a, b)
        assert not close(operator, spec, np.zeros_like(expected), expected, "float32")
        assert not close(operator, spec, expected * (1 + 1e-3), expected, "float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_adjoint_identity_can_fail(dtype):
    spec = ConvSpec(2, 6, 9, (7, 10), (3, 2), (2, 1), ((1, 2), (0, 3)), (1, 2), 3)
    x, kernel = operands(Operator.CONV, spec, dtype)
    g = operands(Operator.INPUT_GRAD, spec, dtype, 1)[0]
    pairs = ((x, kernel), (g, kernel), (x, g))
    right = {
        operator: oracle(operator, spec, *pair)
        for operator, pair in zip(OPERATORS, pairs, strict=True)
    }
    assert adjoint(spec, dtype, (g, x, kernel), right)
    for operator, result in right.items():
        for wrong in (np.zeros_like(result), result[::-1], 2 * result):
            assert not adjoint(spec, dtype, (g, x, kernel), right | {operator: wrong})


LARGE = (
    ConvSpec(2, 96, 96, (30, 31), (7, 7), (1, 1), ((3, 3), (3, 3)), (1, 1), 96),
    ConvSpec(2, 72, 144, (40, 37), (5, 3), (2, 1), ((2, 1), (1, 1)), (1, 2), 72),
    ConvSpec(1, 40, 40, (5000,), (4,), (1,), ((3, 0),), (1,), 40),
    ConvSpec(2, 64, 96, (30, 29), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ConvSpec(2, 64, 72, (30, 29), (4, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 2),
    ConvSpec(1, 3, 40, (90, 90), (7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    ConvSpec(1, 520, 700, (6, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ConvSpec(2, 48, 128, (31, 30), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    # Few features, or few channels in an input gradient: vectors run over the source's channels.
    ConvSpec(2, 70, 3, (40, 37), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ConvSpec(2, 4, 100, (40, 37), (5, 5), (2, 2), ((2, 2), (1, 2)), (1, 1), 1),
    ConvSpec(2, 72, 4, (40, 37), (3, 3), (1, 1), ((1, 1), (0, 2)), (1, 2), 2),
    ConvSpec(2, 33, 1, (40, 37), (2, 3), (1, 2), ((1, 1), (1, 1)), (1, 1), 1),
    # Pixels 2048 bytes apart, whose rows are copied to the row cache.
    ConvSpec(3, 512, 512, (11, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 512),
    ConvSpec(2, 512, 512, (12, 9), (5, 3), (2, 1), ((3, 1), (2, 2)), (2, 2), 512),
    ConvSpec(2, 512, 512, (4, 7, 3), (2, 3, 3), (1, 2, 1), ((1, 0), (1, 1), (1, 1)), (1,) * 3, 512),
    # More than fits any cache: results are written past it if pixels are whole cache lines.
    ConvSpec(6, 128, 128, (161, 56), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 128),
    ConvSpec(4, 64, 64, (301, 149), (3, 4), (2, 2), ((1, 1), (0, 2)), (1, 1), 64),
    # Smaller: rows are prefetched.
    ConvSpec(5, 132, 132, (160, 45), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 132),
    ConvSpec(2, 64, 64, (14, 62, 42), (2, 3, 2), (1, 1, 1), ((0, 0), (2, 0), (0, 1)), (1,) * 3, 64),
)


@pytest.mark.sample(17)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("spec", LARGE, ids=lambda spec: "x".join(map(str, spec.kernel_shape)))
def test_large_specs_are_bit_identical_for_any_thread_count(spec, dtype):
    for operator in OPERATORS:
        a, b = operands(operator, spec, dtype)
        one = bare(operator, spec, dtype, a, b, threads=1, past_line=0)
        assert close(operator, spec, one, oracle(operator, spec, a, b), dtype)
        for threads in (2, 3, 8):
            again = bare(operator, spec, dtype, a, b, threads, past_line=8 * (threads % 2))
            assert again.tobytes() == one.tobytes(), (operator, threads)


def test_through_jax_with_injected_threads():
    spec = LARGE[0]
    try:
        for operator, function in OPERATORS.items():
            a, b = map(jnp.asarray, operands(operator, spec, "float32"))
            call = jax.jit(lambda a, b, function=function: function(a, b, spec))
            results = []
            for threads in (0, 1, 4):
                native.inject_threads(threads)
                results.append(np.asarray(call(a, b)).tobytes())
            assert len(set(results)) == 1
    finally:
        native.inject_threads(0)


def test_mixed_operands_and_result_dtypes():
    spec = LARGE[3]
    x, kernel = operands(Operator.CONV, spec, "float32")
    narrow = jnp.asarray(x, jnp.bfloat16)
    mixed = native.conv(narrow, jnp.asarray(kernel), spec)
    assert mixed.dtype == jnp.float32
    expected = oracle(Operator.CONV, spec, np.asarray(narrow), kernel)
    assert close(Operator.CONV, spec, np.asarray(mixed), expected, "float32")
    both = native.conv(narrow, jnp.asarray(kernel, jnp.bfloat16), spec, dtype=jnp.float32)
    assert both.dtype == jnp.float32


def test_float16_subnormals_and_extremes_survive():
    spec = ConvSpec(1, 16, 16, (8,), (1,), (1,), ((0, 0),), (1,), 16)
    x = np.resize(
        np.array([6e-8, -6e-8, 3e-5, 65504, -65504, np.inf, 0, -0.0], np.float16), (1, 8, 16)
    )
    ones = np.ones(spec.kernel_shape, np.float16)
    for isa in instruction_sets():
        with using_instruction_set(isa):
            result = bare(Operator.CONV, spec, "float16", x, ones)
        assert np.array_equal(result, x)


def test_nan_is_confined_to_what_reads_it():
    spec = ConvSpec(1, 20, 20, (9, 9), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 20)
    x, kernel = operands(Operator.CONV, spec, "float32")
    x[0, 0, 0, 5] = np.nan
    y = bare(Operator.CONV, spec, "float32", x, kernel)
    assert np.isnan(y).sum() == 4
    assert np.isnan(y[0, :2, :2, 5]).all()


@pytest.mark.parametrize(
    "changes",
    [{"batch": 0}, {"in_features": 0, "out_features": 0, "groups": 1}, {"input_spatial": (0, 9)}],
)
def test_empty_operands(changes):
    spec = LARGE[3].replace(**changes)
    for operator, function in OPERATORS.items():
        a, b = (jnp.ones(shape) for shape in spec.operand_shapes(operator))
        result = function(a, b, spec)
        assert result.shape == spec.result_shape(operator)
        assert not np.asarray(result).any()


def test_long_strides_and_dilations_take_little_memory():
    spec = ConvSpec(1, 4, 4, (300, 300), (2, 2), (250, 250), ((0, 0), (0, 0)), (49, 47), 2)
    for operator in OPERATORS:
        a, b = operands(operator, spec, "float32")
        result = bare(operator, spec, "float32", a, b)
        assert close(operator, spec, result, oracle(operator, spec, a, b), "float32")


def test_invalid_calls_raise_with_a_reason():
    spec = LARGE[3]
    x, kernel = map(jnp.asarray, operands(Operator.CONV, spec, "float32"))

    def call(out=spec.output_shape, dtype=jnp.float32, **attributes):
        attributes = {
            "strides": np.array(spec.strides, np.int64),
            "padding": np.array(spec.padding, np.int64).reshape(-1),
            "dilation": np.array(spec.dilation, np.int64),
            "groups": np.int64(spec.groups),
        } | attributes
        result = jax.ShapeDtypeStruct(out, dtype)
        jax.block_until_ready(jax.ffi.ffi_call("jaxconv_conv", result)(x, kernel, **attributes))

    call()
    for message, options in {
        "groups": {"groups": np.int64(7)},
        "at least 1": {"strides": np.array([0, 1], np.int64)},
        "below 2": {"dilation": np.array([1 << 40, 1], np.int64)},
        "one to three": {"strides": np.array([], np.int64)},
        "per spatial axis": {"padding": np.array([1, 1], np.int64)},
        "must have size": {"out": (2, 30, 30, 96)},
        "batch size": {"out": (3, 30, 29, 96)},
        "out_features": {"out": (2, 30, 29, 95)},
        "axes": {"out": (2, 30, 96)},
        "element type": {"dtype": jnp.int32},
    }.items():
        with pytest.raises(Exception, match=message):
            call(**options)


def test_unsupported_reasons():
    spec = LARGE[0]
    assert native.unsupported_reason(Operator.CONV, spec, jnp.float32) is None
    assert "complex64" in str(native.unsupported_reason(Operator.CONV, spec, jnp.complex64))
    symbolic = spec.replace(batch=jax.export.symbolic_shape("b")[0])
    assert "symbolic" in str(native.unsupported_reason(Operator.CONV, symbolic, jnp.float32))
    huge = ConvSpec(1, 2, 2, (40000,), (20000,), (1,), ((0, 0),), (1,), 1)
    assert "taps" in str(native.unsupported_reason(Operator.CONV, huge, jnp.float32))
    with pytest.raises(ValueError, match="complex64"):
        native.conv(jnp.ones(spec.input_shape, jnp.complex64), jnp.ones(spec.kernel_shape), spec)


def test_eight_python_threads_at_once():
    spec = LARGE[3]
    call = jax.jit(lambda x, kernel: native.conv(x, kernel, spec))
    x, kernel = map(jnp.asarray, operands(Operator.CONV, spec, "float32"))
    expected = np.asarray(call(x, kernel)).tobytes()
    wrong = []

    def work():
        wrong.extend(np.asarray(call(x, kernel)).tobytes() != expected for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 160
    assert not any(wrong)


def test_eight_devices_with_a_collective():
    code = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from jaxconv._src.kernels.cpu import native
from jaxconv._src.geometry.spec import ConvSpec
spec = ConvSpec(2, 64, 64, (30, 30), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 64)
mesh = Mesh(np.array(jax.devices()), ("i",))
x = np.random.default_rng(0).standard_normal((16, 30, 30, 64)).astype(np.float32)
k = np.random.default_rng(1).standard_normal(spec.kernel_shape).astype(np.float32)
def step(x, k):
    for _ in range(3):
        x = native.conv(x, k, spec) / 9
        x = x - jax.lax.pmean(x, "i")
    return x
sharded = jax.jit(jax.shard_map(
    step, mesh=mesh, in_specs=(P("i"), P()), out_specs=P("i"), check_vma=False))
results = [np.asarray(sharded(x, k)) for _ in range(20)]
assert all((r == results[0]).all() for r in results) and np.isfinite(results[0]).all()
print(len(jax.devices()))
"""
    out = run_python(code, XLA_FLAGS="--xla_force_host_platform_device_count=8")
    assert out.strip() == "8"


def test_importing_starts_nothing():
    """The library is loaded, but it starts no thread and maps no memory of XLA's."""
    code = """
import os
import jax, jax._src.xla_bridge as bridge
before = os.listdir("/proc/self/task")
import jaxconv, jaxconv.nnx, jaxconv.linen
from jaxconv._src.kernels.cpu import native
assert os.listdir("/proc/self/task") == before
assert not bridge.backends_are_initialized()
assert "_native.so" in open("/proc/self/maps").read()
"""
    if not pathlib.Path("/proc/self/task").exists():
        pytest.skip("threads are counted in /proc")
    run_python(code)
