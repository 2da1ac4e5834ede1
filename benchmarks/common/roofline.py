"""The roofline: the minimum time of a row on this machine, by its memory or by its arithmetic.

Memory: a jitted elementwise pass into a fresh array, timed beside the row, that reads and writes as
many bytes as the row's operands and result together. It pays for new pages and for dispatch as the
row does.

Arithmetic: multiply-adds on registers alone (``fma.c``), on every thread at once. No convolution
and no matrix product reaches it. A large matrix product in jax is shown beside it, and replaces it
if there is no C compiler.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxconv._src.geometry.spec import ConvSpec, Operator

REPEATS = 10
MATRIX_SIZE = 2048


def footprint(operator: Operator, spec: ConvSpec, itemsize: int = 4) -> int:
    """Bytes of both operands and the result, each counted once."""
    shapes = (*spec.operand_shapes(operator), spec.result_shape(operator))
    return itemsize * sum(map(math.prod, shapes))


def copy_of(footprint: int) -> Callable[[], jax.Array]:
    """A call that reads half of ``footprint`` bytes and writes the other half."""
    x = jnp.ones(max(1, footprint // 8), jnp.float32)
    compiled = jax.jit(lambda x: x + 1).lower(x).compile()
    return lambda: jax.block_until_ready(compiled(x))


def peaks() -> dict[str, float]:
    """Float32 GFLOP/s of multiply-adds on registers, if they compile, and of a matrix product."""
    matmul = {"matmul": matmul_peak()}
    return matmul if shutil.which("cc") is None else {"fma": fma_peak(), **matmul}


def bound_ms(operator: Operator, spec: ConvSpec, copy_ms: float, peaks: dict[str, float]) -> float:
    """The time of copying the row's bytes or of its multiply-adds, whichever is longer."""
    return max(copy_ms, 1e3 * 2 * spec.macs / (1e9 * max(peaks.values())))


def fma_peak() -> float:
    threads = len(os.sched_getaffinity(0))
    rounds = 2_000_000
    with tempfile.TemporaryDirectory() as directory:
        library = _compile(Path(directory))
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:

            def run():  # ctypes releases the GIL
                calls = [pool.submit(library.fma_rounds, rounds, 0.5, 1.0) for _ in range(threads)]
                for call in calls:
                    call.result()

            return 1e-9 * threads * rounds * library.fma_flops() / _best(run)


def _compile(directory: Path) -> ctypes.CDLL:
    path = directory / "fma.so"
    source = Path(__file__).with_name("fma.c")
    flags = ("-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")
    subprocess.run(["cc", *flags, source, "-o", path], check=True)
    library = ctypes.CDLL(str(path))
    library.fma_flops.restype = ctypes.c_int64
    library.fma_rounds.argtypes = [ctypes.c_int64, ctypes.c_float, ctypes.c_float]
    library.fma_rounds.restype = ctypes.c_float
    return library


def matmul_peak() -> float:
    a = jnp.ones((MATRIX_SIZE, MATRIX_SIZE), jnp.float32)
    product = jax.jit(lambda a: a @ a).lower(a).compile()
    return 1e-9 * 2 * MATRIX_SIZE**3 / _best(lambda: jax.block_until_ready(product(a)))


def _best(run: Callable[[], object]) -> float:
    """Seconds of the fastest run: a peak is what is reached at best."""

    def once() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return min(once() for _ in range(REPEATS))
