"""The CPU engine against a NumPy loop that shares no code with it, and its promises."""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import pathlib
import random
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxconv.kernels import native
from jaxconv.spec import ConvSpec, Operator

OPERATORS = {
    Operator.CONV: native.conv,
    Operator.INPUT_GRAD: native.input_grad,
    Operator.FILTER_GRAD: native.filter_grad,
}
DTYPES = {
    "float32": np.float32,
    "float64": np.float64,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}
EPS = {name: float(ml_dtypes.finfo(dtype).eps) for name, dtype in DTYPES.items()}
CANARY = 64  # bytes around every buffer
LINE = 64  # of a cache

# Kernels are called as lowering calls them: their mixed operands are promoted on purpose.
pytestmark = [
    pytest.mark.lenient,
    pytest.mark.skipif(isinstance(native._library(), str), reason="the CPU engine is not built"),
]


def random_spec(rng: random.Random) -> ConvSpec:
    """A small convolution of any kind, its sizes unequal more often than not."""
    while True:
        rank = rng.choice((1, 2, 2, 3))
        kind = rng.random()
        if kind < 0.4:  # depthwise
            groups = rng.choice((1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 48, 70, 512))
            channels, features = groups, groups * rng.choice((1, 1, 1, 2, 3, 5, 8))
        elif kind < 0.5:  # narrow groups, as many as fill whole vectors
            groups = rng.choice((2, 4, 8, 16, 24))
            channels = features = groups * rng.choice((2, 4, 8))
        else:
            groups = rng.choice((1, 1, 1, 2, 3, 5))
            channels = groups * rng.choice((1, 2, 3, 4, 7, 16, 33, 40, 57))
            features = groups * rng.choice((1, 2, 3, 4, 8, 9, 17, 33, 52, 65, 100))
        extents = (1, 2, 3, 3, 4, 5, 7, 9) if rank < 3 else (1, 2, 3)
        spec = ConvSpec(
            batch=rng.randint(1, 3),
            in_features=channels,
            out_features=features,
            input_spatial=tuple(rng.randint(1, 20 if rank < 3 else 8) for _ in range(rank)),
            kernel_spatial=tuple(rng.choice(extents) for _ in range(rank)),
            strides=tuple(rng.choice((1, 1, 1, 2, 3, 4)) for _ in range(rank)),
            padding=tuple((rng.randint(-2, 6), rng.randint(-2, 6)) for _ in range(rank)),
            dilation=tuple(rng.choice((1, 1, 1, 2, 3, 4)) for _ in range(rank)),
            groups=groups,
        )
        axes = zip(spec.input_spatial, spec.padding, strict=True)
        cropped = min(n + min(lo, 0) + min(hi, 0) for n, (lo, hi) in axes)
        if not spec.empty and spec.macs < 2_000_000 and cropped > 0:
            return spec


def oracle(operator: Operator, spec: ConvSpec, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One tap at a time, in float64."""
    groups, rank = spec.groups, spec.rank
    a, b = a.astype(np.float64), b.astype(np.float64)
    padded_shape = (spec.batch, *spec.padded_spatial, spec.in_features)
    low, high = [max(p[0], 0) for p in spec.padding], [max(p[1], 0) for p in spec.padding]
    crop = tuple(
        slice(max(-lo, 0), n - max(-hi, 0))
        for n, (lo, hi) in zip(spec.input_spatial, spec.padding, strict=True)
    )
    inner = tuple(
        slice(lo, n - hi) for lo, hi, n in zip(low, high, spec.padded_spatial, strict=True)
    )

    def window(tap):
        axes = zip(tap, spec.dilation, spec.output_spatial, spec.strides, strict=True)
        return (slice(None), *(slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, o, s in axes))

    def grouped(array):
        return array.reshape(*array.shape[:-1], groups, -1)

    taps = list(itertools.product(*map(range, spec.kernel_spatial)))
    if operator is not Operator.INPUT_GRAD:
        padded = np.zeros(padded_shape)
        padded[(slice(None), *inner)] = a[(slice(None), *crop)]
    if operator is Operator.CONV:
        y = np.zeros((*spec.output_shape[:-1], groups, spec.group_out))
        for tap in taps:
            y += np.einsum("...gc,cgf->...gf", grouped(padded[window(tap)]), grouped(b[tap]))
        return y.reshape(spec.output_shape)
    if operator is Operator.FILTER_GRAD:
        dk = np.zeros((*spec.kernel_spatial, spec.group_in, groups, spec.group_out))
        for tap in taps:
            dk[tap] = np.einsum(
                "pgc,pgf->cgf",
                grouped(padded[window(tap)]).reshape(-1, groups, spec.group_in),
                grouped(b).reshape(-1, groups, spec.group_out),
            )
        return dk.reshape(spec.kernel_shape)
    padded = np.zeros(padded_shape)
    for tap in taps:
        part = np.einsum("...gf,cgf->...gc", grouped(a), grouped(b[tap]))
        padded[window(tap)] += part.reshape(*part.shape[: rank + 1], -1)
    dx = np.zeros(spec.input_shape)
    dx[(slice(None), *crop)] = padded[(slice(None), *inner)]
    return dx


def terms(operator: Operator, spec: ConvSpec) -> int:
    """The longest sum that makes one element of the result."""
    return {
        Operator.CONV: spec.taps * spec.group_in,
        Operator.INPUT_GRAD: spec.taps * spec.group_out,
        Operator.FILTER_GRAD: spec.batch * math.prod(spec.output_spatial),
    }[operator]


def allowed(operator, spec, expected, dtype: str) -> float:
    """The error of one element: of its sum, and of rounding it to the dtype."""
    scale = np.abs(expected).max(initial=0) + 1
    accumulator = EPS["float64" if dtype == "float64" else "float32"]
    return (4 * accumulator * math.sqrt(terms(operator, spec)) + EPS[dtype]) * scale


def close(operator, spec, result, expected, dtype: str) -> bool:
    error = np.abs(result.astype(np.float64) - expected)
    return bool(np.all(error <= allowed(operator, spec, expected, dtype)))


def adjoint(spec, dtype: str, operands, results) -> bool:
    """Whether ``<g, conv(x, k)> = <x, input_grad(g, k)> = <k, filter_grad(x, g)>``.

    Errors of elements are independent: a pairing's is that of one, times the other side's norm.
    """
    pairings, bounds = [], []
    for operator, other in zip(OPERATORS, operands, strict=True):
        other, result = other.astype(np.float64), results[operator].astype(np.float64)
        pairings.append(np.vdot(other, result))
        bounds.append(np.linalg.norm(other) * allowed(operator, spec, result, dtype))
    return abs(np.subtract.outer(pairings, pairings)).max() <= sum(bounds)


def operands(operator, spec, dtype, seed=0):
    random_state = np.random.default_rng(seed)
    return tuple(
        random_state.standard_normal(shape).astype(DTYPES[dtype])
        for shape in spec.operand_shapes(operator)
    )


def run_engine(operator, spec, dtype, a, b, result, threads=1) -> None:
    """The library's plain entry, without XLA, on these arrays' memory."""
    words = ctypes.create_string_buffer(512)
    sizes = np.array(native._sizes(spec), np.int64)
    refused = native._loaded().jaxconv_run(
        ctypes.c_int64(native.OPERATORS.index(operator)),
        ctypes.c_int64(native.ELEMENTS.index(dtype)),
        ctypes.c_int64(spec.rank),
        *(ctypes.c_void_p(array.ctypes.data) for array in (sizes, a, b, result)),
        ctypes.c_int64(threads),
        words,
        ctypes.c_int64(len(words)),
    )
    assert not refused, words.value


def bare(operator, spec, dtype, a, b, threads=1, past_line=None) -> np.ndarray:
    """The operator on memory of exactly its size, canaries around the result and both operands.

    Arrays begin ``past_line`` bytes into a cache line (XLA's 0), or wherever NumPy has memory.
    """
    buffers = []
    for shape, source in zip(
        (*spec.operand_shapes(operator), spec.result_shape(operator)), (a, b, None), strict=True
    ):
        size = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        memory = np.full(size + 2 * CANARY + (0 if past_line is None else LINE), 0xA5, np.uint8)
        if past_line is not None:
            memory = memory[(past_line - memory.ctypes.data - CANARY) % LINE :]
        view = memory[CANARY : CANARY + size].view(DTYPES[dtype]).reshape(shape)
        if source is not None:
            view[...] = source
        buffers.append((memory, size, view))
    run_engine(operator, spec, dtype, *(view for *_, view in buffers), threads=threads)
    for memory, size, _ in buffers:
        assert (memory[:CANARY] == 0xA5).all()
        assert (memory[CANARY + size :] == 0xA5).all()
    for (*_, view), source in zip(buffers, (a, b), strict=False):
        assert view.tobytes() == source.tobytes()
    return buffers[2][2]


def instruction_sets() -> list[str]:
    best = native.instruction_set()
    names = ["avx512", "avx2", "baseline"]
    return names[names.index(best) :]


@pytest.fixture(params=["avx512", "avx2", "baseline"])
def instruction_set(request):
    best = native.instruction_set()
    try:
        native.use_instruction_set(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    native.use_instruction_set(best)


def check_random(count: int, seed: int, dtypes=tuple(DTYPES)) -> None:
    """Every operator of each spec against the oracle, and the three against one another."""
    rng = random.Random(seed)
    for index in range(count):
        spec, dtype = random_spec(rng), dtypes[index % len(dtypes)]
        x, kernel = operands(Operator.CONV, spec, dtype, index)
        g = operands(Operator.INPUT_GRAD, spec, dtype, index + count)[0]
        pairs = ((x, kernel), (g, kernel), (x, g))
        results = {}
        for operator, (a, b) in zip(OPERATORS, pairs, strict=True):
            results[operator] = bare(operator, spec, dtype, a, b, threads=1 + index % 3)
            expected = oracle(operator, spec, a, b)
            assert close(operator, spec, results[operator], expected, dtype), (operator, spec)
        assert adjoint(spec, dtype, (g, x, kernel), results), (spec, dtype)


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
    # Few features, or few channels in the input gradient: vectors of the other side.
    ConvSpec(2, 70, 3, (40, 37), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ConvSpec(2, 4, 100, (40, 37), (5, 5), (2, 2), ((2, 2), (1, 2)), (1, 1), 1),
    ConvSpec(2, 72, 4, (40, 37), (3, 3), (1, 1), ((1, 1), (0, 2)), (1, 2), 2),
    ConvSpec(2, 33, 1, (40, 37), (2, 3), (1, 2), ((1, 1), (1, 1)), (1, 1), 1),
    # Pixels 2048 bytes apart, whose rows are copied and kept.
    ConvSpec(3, 512, 512, (11, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 512),
    ConvSpec(2, 512, 512, (12, 9), (5, 3), (2, 1), ((3, 1), (2, 2)), (2, 2), 512),
    ConvSpec(2, 512, 512, (4, 7, 3), (2, 3, 3), (1, 2, 1), ((1, 0), (1, 1), (1, 1)), (1,) * 3, 512),
    # More than stays in any cache: results are written past it, where pixels are whole lines.
    ConvSpec(6, 128, 128, (161, 56), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 128),
    ConvSpec(4, 64, 64, (301, 149), (3, 4), (2, 2), ((1, 1), (0, 2)), (1, 1), 64),
    # Less, whose rows are fetched.
    ConvSpec(5, 132, 132, (160, 45), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 132),
    ConvSpec(2, 64, 64, (14, 62, 42), (2, 3, 2), (1, 1, 1), ((0, 0), (2, 0), (0, 1)), (1,) * 3, 64),
)


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
        native.use_instruction_set(isa)
        result = bare(Operator.CONV, spec, "float16", x, ones)
        assert np.array_equal(result, x)
    native.use_instruction_set(instruction_sets()[0])


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


def test_unknown_calls_are_errors_with_words():
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
        "entries an axis": {"padding": np.array([1, 1], np.int64)},
        "must have size": {"out": (2, 30, 30, 96)},
        "batch size": {"out": (3, 30, 29, 96)},
        "out-features": {"out": (2, 30, 29, 95)},
        "axes": {"out": (2, 30, 96)},
        "element type": {"dtype": jnp.int32},
    }.items():
        with pytest.raises(Exception, match=message):
            call(**options)


def test_refusals_are_sentences():
    spec = LARGE[0]
    assert native.refusal(Operator.CONV, spec, jnp.float32) is None
    assert "complex64" in native.refusal(Operator.CONV, spec, jnp.complex64)
    symbolic = spec.replace(batch=jax.export.symbolic_shape("b")[0])
    assert "symbolic" in native.refusal(Operator.CONV, symbolic, jnp.float32)
    huge = ConvSpec(1, 2, 2, (40000,), (20000,), (1,), ((0, 0),), (1,), 1)
    assert "taps" in native.refusal(Operator.CONV, huge, jnp.float32)
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


def run_python(code: str, **environment) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=pathlib.Path(__file__).parent,  # not the sources: the library may be installed
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_eight_devices_meet_in_a_collective():
    code = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from jaxconv.kernels import native
from jaxconv.spec import ConvSpec
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
    code = """
import os
import jax, jax._src.xla_bridge as bridge
before = os.listdir("/proc/self/task")
import jaxconv, jaxconv.nnx, jaxconv.linen
from jaxconv.kernels import native
assert os.listdir("/proc/self/task") == before
assert not bridge.backends_are_initialized() and native._library.cache_info().currsize == 0
"""
    if not pathlib.Path("/proc/self/task").exists():
        pytest.skip("counts threads through /proc")
    run_python(code)
