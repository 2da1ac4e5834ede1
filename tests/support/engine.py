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


def bare(operator, spec, dtype, a, b, threads=1, past_line=None) -> np.ndarray:
    """The operator without XLA, with canaries around the result and both operands.

    Arrays begin ``past_line`` bytes into a cache line (0 for XLA's arrays), or wherever NumPy
    allocates them.
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
    """Compares every operator of random specs with the oracle, and the three with one another."""
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
