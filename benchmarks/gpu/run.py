"""Times the depthwise workloads on an NVIDIA GPU against lax and PyTorch, which call cuDNN.

    python -m benchmarks.gpu.run                              bfloat16 and float32, all operators
    python -m benchmarks.gpu.run --dtypes float16 --only 7x7
    python -m benchmarks.gpu.run --json benchmarks/results/gpu_operators.json

Times are the device's for one convolution: the sum over its kernels as NVIDIA's profiler records
them, without Python and launches. Every call has its own operands, which have left the caches;
PyTorch's are channels-last. Peers take turns, and results are checked before anything is timed. A
speedup is the peer's time divided by jaxconv's. The last column is the share of the device's
bandwidth, as a large copy reaches it, at which jaxconv reads its operands and writes its result.

lax and PyTorch may round float32 operands to TF32, as they do by default; jaxconv does not.
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib.util
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import arguments, peers, results, roofline
from benchmarks.common.machine import machine, versions
from benchmarks.common.workloads import DEPTHWISE
from benchmarks.gpu import tables
from jaxconv._src.dispatch.choose import choose_implementation
from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.kernels.xla import lax as reference

# Operands and results of all calls of a turn together: more than any level-2 cache holds.
MIN_TURN_BYTES = 150e6
MIN_CALLS, MAX_CALLS = 4, 32
TURNS = 3

# Idle time between turns, by which they are told apart in the profile.
PAUSE_SECONDS = 1e-2

COPIED_BYTES = 2**31

# Relative to the largest entry: matrix units and results round to 8 bits.
TOLERANCE = 2**-6

EXACT = "exact"  # not a peer, but what they are checked against

Turn = Callable[[], Any]
Kernel = tuple[float, float]  # start and end, in seconds


def main() -> None:
    parser = arguments.parser(__doc__)
    arguments.add_only(parser)
    arguments.add_operators(parser)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    arguments.add_json(parser)
    args = parser.parse_args()
    if jax.default_backend() != "gpu":
        print("jax finds no GPU here, so there is nothing to time.")
        return
    cases = [
        (workload.name, Operator(operator), workload.spec, jnp.dtype(dtype))
        for dtype in args.dtypes
        for operator in args.operators
        for workload in DEPTHWISE
        if args.only in workload.name
    ]
    rate = copy_rate()
    with concurrent.futures.ThreadPoolExecutor() as pool:  # each takes a second or more to compile
        programs = list(pool.map(lambda case: compiled(*case[1:]), cases))
    rows = [measure(*case, program, rate) for case, program in zip(cases, programs, strict=True)]
    bandwidth = {"copy bandwidth": f"{1e-12 * rate:.2f} TB/s"}
    report = results.report(rows, machine() | bandwidth, versions("jax", "torch") | cudnn())
    if args.json:
        results.write(args.json, report)
    print(tables.operators(rows), tables.summary(rows), report.source, sep="\n\n")


def compiled(operator: Operator, spec: ConvSpec, dtype) -> dict[str, Callable]:
    """The compiled programs of lax and jaxconv, and of the exact reference."""
    functions = {
        "lax": functools.partial(getattr(reference, operator.value), spec=spec),
        "jaxconv": peers.primitive(operator, spec, dtype),
    }
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in spec.operand_shapes(operator)]
    programs = {name: peers.compiled(fn, *shapes) for name, fn in functions.items()}
    return programs | {EXACT: exact(operator, spec)}


def measure(name: str, operator: Operator, spec: ConvSpec, dtype, compiled, rate) -> dict[str, Any]:
    """One row: all peers, checked, then timed."""
    a, b = (jnp.asarray(array).astype(dtype) for array in peers.operands(operator, spec))
    size = roofline.footprint(operator, spec, dtype.itemsize)
    pairs = [(jnp.copy(a), jnp.copy(b)) for _ in range(calls(size))]
    expected = np.asarray(compiled.pop(EXACT)(a, b))
    turns: dict[str, Turn] = {
        peer: functools.partial(in_jax, program, pairs) for peer, program in compiled.items()
    }
    outputs = {peer: np.asarray(turn(), np.float32) for peer, turn in turns.items()}
    if importlib.util.find_spec("torch") is not None:
        turns["torch"], outputs["torch"] = in_torch(operator, spec, dtype, a, b, len(pairs))
    for peer, output in outputs.items():
        error = np.abs(output - expected).max()
        if not error <= TOLERANCE * np.abs(expected).max():
            raise SystemExit(f"{name} {operator.value} {dtype} {peer}: differs by {error:.3g}")
    seconds = device_seconds([*turns.values()] * TURNS)
    times = {
        peer: statistics.median(seconds[at :: len(turns)]) / len(pairs)
        for at, peer in enumerate(turns)
    }
    microseconds = {peer: 1e6 * time for peer, time in times.items()}
    progress = ", ".join(f"{peer} {time:.1f}" for peer, time in microseconds.items())
    print(f"{name} {operator.value} {dtype}: {progress} µs", file=sys.stderr)
    choice = choose_implementation(operator, "cuda", spec, dtype)
    return {
        "workload": name,
        "operator": operator.value,
        "dtype": dtype.name,
        "implementation": choice.implementation,
        "tile": str(choice.tile),
        "microseconds": microseconds,
        "of_bandwidth": size / rate / times["jaxconv"],
    }


def calls(size: int) -> int:
    """The number of calls in a turn, of ``size`` bytes each."""
    return max(MIN_CALLS, min(MAX_CALLS, math.ceil(MIN_TURN_BYTES / size)))


def in_jax(program: Callable, pairs):
    result = None
    for a, b in pairs:
        result = program(a, b)
    return jax.block_until_ready(result)


def in_torch(
    operator: Operator, spec: ConvSpec, dtype, a, b, count: int
) -> tuple[Turn, np.ndarray]:
    """A turn of PyTorch, which has chosen its algorithms by timing them, and its result."""
    import torch

    torch.backends.cudnn.benchmark = True
    a, b = (np.asarray(array, np.float32) for array in (a, b))
    all_calls = [
        peers.torch(operator, spec, a, b, device="cuda", dtype=dtype.name) for _ in range(count)
    ]

    def turn():
        result = None
        for call, _ in all_calls:
            result = call()
        torch.cuda.synchronize()
        return result

    _, to_numpy = all_calls[-1]
    return turn, to_numpy(turn())


def exact(operator: Operator, spec: ConvSpec) -> Callable:
    """lax in float32 at the highest precision, on the rounded operands."""
    compute = getattr(reference, operator.value)
    precise = (jax.lax.Precision.HIGHEST,) * 2

    def program(a, b):
        wide = (array.astype(jnp.float32) for array in (a, b))
        return compute(*wide, spec, precision=precise)

    return jax.jit(program, compiler_options={"xla_gpu_autotune_level": 0})


def device_seconds(turns: list[Turn]) -> list[float]:
    """The time of all kernels together, for each turn."""
    return [sum(end - start for start, end in kernels) for kernels in recorded(turns)]


def recorded(turns: list[Turn]) -> list[list[Kernel]]:
    """The kernels and copies of each turn; all turns must have run before."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = options.host_tracer_level = 0
    with tempfile.TemporaryDirectory() as directory:
        jax.profiler.start_trace(directory, profiler_options=options)
        for turn in turns:
            turn()
            time.sleep(PAUSE_SECONDS)
        jax.profiler.stop_trace()
        (path,) = Path(directory).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
    found = list(by_pauses(sorted(kernels(profile))))
    if len(found) != len(turns):
        raise SystemExit(f"the profiler recorded {len(found)} turns where {len(turns)} ran")
    return found


def kernels(profile) -> Iterable[Kernel]:
    for plane in profile.planes:
        for stream in plane.lines if plane.name.startswith("/device:GPU") else ():
            if stream.name.startswith("Stream"):
                for event in stream.events:
                    start = 1e-9 * event.start_ns
                    yield start, start + 1e-9 * event.duration_ns


def by_pauses(kernels: list[Kernel]) -> Iterable[list[Kernel]]:
    turn: list[Kernel] = []
    for kernel in kernels:
        if turn and kernel[0] - turn[-1][1] > PAUSE_SECONDS / 2:
            yield turn
            turn = []
        turn.append(kernel)
    yield turn


def copy_rate() -> float:
    """Bytes per second that a large elementwise pass reads and writes."""
    turn = roofline.copy_of(COPIED_BYTES)
    turn()
    return COPIED_BYTES / min(device_seconds([turn] * TURNS))


def cudnn() -> dict[str, str]:
    torch = sys.modules.get("torch")
    return {} if torch is None else {"cudnn": str(torch.backends.cudnn.version())}


if __name__ == "__main__":
    main()
