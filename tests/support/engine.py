"""Testing the CPU engine: random specs, an independent NumPy oracle, and calls without XLA."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import math
import os
import pathlib
import random
import subprocess
import sys

import ml_dtypes
import numpy as np

from jaxconv._src.geometry.epilogue import ACTIVATIONS, Epilogue
from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.kernels.cpu import library, native

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


def random_spec(rng: random.Random) -> ConvSpec:
    """A small convolution of any kind, mostly with unequal sizes."""
    while True:
        rank = rng.choice((1, 2, 2, 3))
        kind = rng.random()
        if kind < 0.4:  # depthwise
            groups = rng.choice((1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 48, 70, 512))
            channels, features = groups, groups * rng.choice((1, 1, 1, 2, 3, 5, 8))
        elif kind < 0.5:  # narrow groups, which together fill whole vectors
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
    padded = np.zeros((spec.batch, *spec.padded_spatial, spec.in_features))
    if operator is not Operator.INPUT_GRAD:
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
    for tap in taps:
        part = np.einsum("...gf,cgf->...gc", grouped(a), grouped(b[tap]))
        padded[window(tap)] += part.reshape(*part.shape[: rank + 1], -1)
    dx = np.zeros(spec.input_shape)
    dx[(slice(None), *crop)] = padded[(slice(None), *inner)]
    return dx


EPILOGUE_OPERANDS = ("scale", "bias", "residual")


def random_epilogue(rng: random.Random) -> Epilogue:
    activation = rng.choice((None, "relu", *ACTIVATIONS))
    slope = rng.choice((0.01, 0.3, 2.0)) if activation == "leaky_relu" else 0.0
    parts = {name: rng.random() < 0.5 for name in EPILOGUE_OPERANDS}
    return Epilogue(**parts, activation=activation, negative_slope=slope)


def epilogue_operands(spec, epilogue: Epilogue, dtype, seed=0) -> tuple[np.ndarray, ...]:
    random_state = np.random.default_rng([seed, 1])
    shapes = {
        "scale": (spec.out_features,),
        "bias": (spec.out_features,),
        "residual": spec.output_shape,
    }
    return tuple(
        random_state.standard_normal(shapes[name]).astype(DTYPES[dtype])
        for name in epilogue.operands
    )


def activation_oracle(z: np.ndarray, epilogue: Epilogue) -> np.ndarray:
    """The activation in float64, by its textbook formula."""
    return {
        None: lambda: z,
        "relu": lambda: np.maximum(z, 0),
        "relu6": lambda: np.minimum(np.maximum(z, 0), 6),
        "leaky_relu": lambda: np.where(z < 0, z * epilogue.negative_slope, z),
        "silu": lambda: z / (1 + np.exp(-z)),
        "gelu_tanh": lambda: z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
        "gelu_exact": lambda: z / 2 * np.vectorize(math.erfc, "d")(-z * math.sqrt(0.5)),
        "sigmoid": lambda: 1 / (1 + np.exp(-z)),
        "hard_swish": lambda: z * np.minimum(np.maximum(z + 3, 0), 6) / 6,
        "tanh": lambda: np.tanh(z),
    }[epilogue.activation]()


def fused_oracle(spec, epilogue: Epilogue, x, kernel, values) -> tuple[np.ndarray, float]:
    """The result in float64, and the size of the values that were added to it."""
    y = oracle(Operator.CONV, spec, x, kernel)
    named = dict(zip(epilogue.operands, (v.astype(np.float64) for v in values), strict=True))
    scale, bias, residual = (named.get(name, i == 0) for i, name in enumerate(EPILOGUE_OPERANDS))
    with np.errstate(over="ignore"):
        result = activation_oracle(y * scale + bias + residual, epilogue)
    size = sum(np.abs(part).max(initial=0) for part in (y * scale, bias, residual))
    return result, size * max(1, epilogue.negative_slope)


def fused_close(spec, result, expected: tuple[np.ndarray, float], dtype: str) -> bool:
    """Within the errors of the sum, of the activation, and of rounding to the dtype."""
    values, size = expected
    summed = allowed(Operator.CONV, spec, np.asarray(size), accumulator(dtype))
    error = np.abs(result.astype(np.float64) - values)
    return bool(np.all(error <= summed + EPS[dtype] * np.abs(values)))


def accumulator(dtype: str) -> str:
    return "float64" if dtype == "float64" else "float32"


def terms(operator: Operator, spec: ConvSpec) -> int:
    """The number of products that are summed to one element of the result."""
    return {
        Operator.CONV: spec.taps * spec.group_in,
        Operator.INPUT_GRAD: spec.taps * spec.group_out,
        Operator.FILTER_GRAD: spec.batch * math.prod(spec.output_spatial),
    }[operator]


def allowed(operator, spec, expected, dtype: str) -> float:
    """The allowed error of one element: of its sum, and of rounding it to the dtype."""
    scale = np.abs(expected).max(initial=0) + 1
    accumulator = EPS["float64" if dtype == "float64" else "float32"]
    return (4 * accumulator * math.sqrt(terms(operator, spec)) + EPS[dtype]) * scale


def close(operator, spec, result, expected, dtype: str) -> bool:
    error = np.abs(result.astype(np.float64) - expected)
    return bool(np.all(error <= allowed(operator, spec, expected, dtype)))


def adjoint(spec, dtype: str, operands, results) -> bool:
    """Whether ``<g, conv(x, k)> = <x, input_grad(g, k)> = <k, filter_grad(x, g)>``.

    Errors of elements are independent, so that the error of an inner product is that of one element
    times the norm of the other array.
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
    """Calls the library on these arrays' memory, without XLA."""
    message = ctypes.create_string_buffer(512)
    sizes = np.array(native.sizes(spec), np.int64)
    failed = library.load().jaxconv_run(
        ctypes.c_int64(native.OPERATORS.index(operator)),
        ctypes.c_int64(native.ELEMENTS.index(dtype)),
        ctypes.c_int64(spec.rank),
        *(ctypes.c_void_p(array.ctypes.data) for array in (sizes, a, b, result)),
        ctypes.c_int64(threads),
        message,
        ctypes.c_int64(len(message)),
    )
    assert not failed, message.value


def run_fused_engine(
    spec, epilogue: Epilogue, dtype, x, kernel, *operands_and_result, threads=1
) -> None:
    """The same for a fused convolution; a kernel of bytes is a packed one."""
    *values, result = operands_and_result
    named = dict(zip(epilogue.operands, values, strict=True))
    pointers = (ctypes.c_void_p * 3)(
        *(named[name].ctypes.data if name in named else None for name in EPILOGUE_OPERANDS)
    )
    message = ctypes.create_string_buffer(512)
    sizes = np.array(native.sizes(spec), np.int64)
    failed = library.load().jaxconv_run_fused(
        ctypes.c_int64(native.ELEMENTS.index(dtype)),
        ctypes.c_int64(spec.rank),
        *(ctypes.c_void_p(array.ctypes.data) for array in (sizes, x, kernel)),
        ctypes.c_int64(kernel.nbytes if kernel.dtype == np.uint8 else 0),
        pointers,
        ctypes.c_int64(native.activation_index(epilogue)),
        ctypes.c_double(epilogue.negative_slope),
        ctypes.c_void_p(result.ctypes.data),
        ctypes.c_int64(threads),
        message,
        ctypes.c_int64(len(message)),
    )
    assert not failed, message.value


def bare_packed(spec, dtype, kernel: np.ndarray, threads=1) -> np.ndarray | None:
    """The packed kernel, packed between canaries; None if the engine reads it in place."""
    size = native.packed_size(spec, dtype)
    if size is None:
        return None
    memory = np.full(size + 2 * CANARY, 0xA5, np.uint8)
    packed = memory[CANARY : CANARY + size]
    message = ctypes.create_string_buffer(512)
    sizes = np.array(native.sizes(spec), np.int64)
    failed = library.load().jaxconv_pack(
        ctypes.c_int64(native.ELEMENTS.index(dtype)),
        ctypes.c_int64(spec.rank),
        *(ctypes.c_void_p(array.ctypes.data) for array in (sizes, kernel, packed)),
        *(ctypes.c_int64(size), ctypes.c_int64(threads)),
        message,
        ctypes.c_int64(len(message)),
    )
    assert not failed, message.value
    assert (memory[:CANARY] == 0xA5).all()
    assert (memory[CANARY + size :] == 0xA5).all()
    return packed.copy()


def bare(operator, spec, dtype, a, b, threads=1, past_line=None) -> np.ndarray:
    """The operator without XLA, with canaries around the result and both operands.

    Arrays begin ``past_line`` bytes into a cache line (0 for XLA's arrays), or wherever NumPy
    allocates them.
    """
    run = functools.partial(run_engine, operator, spec, dtype, threads=threads)
    return with_canaries(run, (a, b), spec.result_shape(operator), dtype, past_line)


def bare_fused(spec, epilogue, dtype, x, kernel, values, threads=1, past_line=None) -> np.ndarray:
    """A fused convolution, likewise; ``values`` are the arrays of the epilogue."""
    run = functools.partial(run_fused_engine, spec, epilogue, dtype, threads=threads)
    return with_canaries(run, (x, kernel, *values), spec.output_shape, dtype, past_line)


def with_canaries(run, arrays, result_shape, dtype, past_line) -> np.ndarray:
    """Calls ``run(*arrays, result)`` on copies between canaries, and returns the result."""
    buffers = []
    empty = np.empty(result_shape, DTYPES[dtype])
    for source in (*arrays, empty):
        size = source.nbytes
        memory = np.full(size + 2 * CANARY + (0 if past_line is None else LINE), 0xA5, np.uint8)
        if past_line is not None:
            memory = memory[(past_line - memory.ctypes.data - CANARY) % LINE :]
        view = memory[CANARY : CANARY + size].view(source.dtype).reshape(source.shape)
        if source is not empty:
            view[...] = source
        buffers.append((memory, size, view))
    run(*(view for *_, view in buffers))
    for memory, size, _ in buffers:
        assert (memory[:CANARY] == 0xA5).all()
        assert (memory[CANARY + size :] == 0xA5).all()
    for (*_, view), source in zip(buffers, arrays, strict=False):
        assert view.tobytes() == source.tobytes()
    return buffers[-1][2]


ISAS = ("avx512", "avx2", "baseline")


@functools.cache
def instruction_sets() -> list[str]:
    """Those that this machine supports, the best one first."""
    supported = []
    for name in ISAS:
        with contextlib.suppress(ValueError), using_instruction_set(name):
            supported.append(name)
    return supported


@contextlib.contextmanager
def using_instruction_set(name: str):
    """Uses ``name`` within the context; ValueError if this machine does not support it."""
    before = native.instruction_set()
    native.use_instruction_set(name)
    try:
        yield
    finally:
        native.use_instruction_set(before)


def check_random(count: int, seed: int, dtypes=tuple(DTYPES)) -> None:
    """Compares every operator of random specs with the oracle, and the three with one another.

    Likewise the fused convolution, with a random epilogue.
    """
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
        epilogue = random_epilogue(rng)
        values = epilogue_operands(spec, epilogue, dtype, index)
        fused = bare_fused(spec, epilogue, dtype, x, kernel, values, threads=1 + index % 3)
        expected = fused_oracle(spec, epilogue, x, kernel, values)
        assert fused_close(spec, fused, expected, dtype), (epilogue, spec, dtype)
        packed = bare_packed(spec, dtype, kernel, threads=1 + index % 3)
        if packed is not None:
            again = bare_fused(spec, epilogue, dtype, x, packed, values, threads=1 + index % 2)
            assert again.tobytes() == fused.tobytes(), (epilogue, spec, dtype)


def run_python(code: str, **environment) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=pathlib.Path(__file__).parents[1],  # where ``support`` is
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
