"""Times the depthwise workloads on an NVIDIA GPU, beside lax and PyTorch, which call cuDNN.

    python -m benchmarks.gpu.run                              bfloat16 and float32, all operators
    python -m benchmarks.gpu.run --dtype float16 --only 7x7 --json table.json

Times are what the device takes for one convolution: the sum over its kernels, as NVIDIA's profiler
records them, so that neither Python nor the launches count. Every call has operands of its own,
which have left the caches; PyTorch's are channels-last. Peers take turns, and results are checked
before anything is timed. Ratios are the peer's time over ours. The last column is the share of the
device's bandwidth, as a large copy reaches it, at which ours passes over its operands and result.

lax and PyTorch may round float32 operands to TF32, as they do by default; ours are not rounded.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import importlib.util
import json
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

from benchmarks.common import peers, roofline
from benchmarks.common.timing import geometric_mean
from benchmarks.common.workloads import DEPTHWISE
from benchmarks.cpu.run import line, machine, mean, number
from jaxconv._src.dispatch.choose import choose_implementation
from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.kernels.xla import lax as reference
from jaxconv._src.primitives import rules

# Operands and results of all calls of a turn, together: more than any level-2 cache holds.
TURN_BYTES = 150e6
CALLS = (4, 32)
TURNS = 3

# Seconds without work by which the turns are told apart in what the profiler recorded.
PAUSE = 1e-2

COPIED_BYTES = 2**31

# Shares of the largest entry by which peers may differ: matrix units and results round to 8 bits.
ROUNDING = 2**-6

EXACT = "exact"  # not a peer, but what they are checked against

Turn = Callable[[], Any]
Kernel = tuple[float, float]  # when it began and ended, in seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--operators", nargs="+", default=[operator.value for operator in Operator])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--json", type=Path, help="where to write all rows")
    args = parser.parse_args()
    if jax.default_backend() != "gpu":
        print("jax finds no GPU here, so there is nothing to time.")
        return
    cases = [
        (workload.name, Operator(operator), workload.spec, jnp.dtype(dtype))
        for dtype in args.dtype
        for operator in args.operators
        for workload in DEPTHWISE
        if args.only in workload.name
    ]
    rate = copy_rate()
    with concurrent.futures.ThreadPoolExecutor() as pool:  # compilers take a second or more each
        programs = list(pool.map(lambda case: compiled(*case[1:]), cases))
    rows = [measure(*case, program, rate) for case, program in zip(cases, programs, strict=True)]
    report = {"machine": machine() | cudnn(), "bytes_per_second": rate, "rows": rows}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    print(markdown(report))


def compiled(operator: Operator, spec: ConvSpec, dtype) -> dict[str, Callable]:
    """The programs of jax's peers."""

    def ours(a, b):
        return rules.bind(operator, a, b, spec, dtype=dtype)

    plain = functools.partial(getattr(reference, operator.value), spec=spec)
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in spec.operand_shapes(operator)]
    programs = {
        name: jax.jit(one).lower(*shapes).compile()
        for name, one in (("lax", plain), ("jaxconv", ours))
    }
    return programs | {EXACT: exact(operator, spec)}


def measure(name: str, operator: Operator, spec: ConvSpec, dtype, compiled, rate) -> dict[str, Any]:
    """One row: every peer, checked, then timed."""
    a, b = (jnp.asarray(array).astype(dtype) for array in peers.operands(operator, spec))
    size = roofline.footprint(operator, spec, dtype.itemsize)
    pairs = [(jnp.copy(a), jnp.copy(b)) for _ in range(calls(size))]
    wanted = np.asarray(compiled.pop(EXACT)(a, b))
    turns = {peer: functools.partial(in_jax, program, pairs) for peer, program in compiled.items()}
    results = {peer: np.asarray(turn(), np.float32) for peer, turn in turns.items()}
    if importlib.util.find_spec("torch") is not None:
        turns["torch"], results["torch"] = in_torch(operator, spec, dtype, a, b, len(pairs))
    for peer, result in results.items():
        error = np.abs(result - wanted).max()
        if not error <= ROUNDING * np.abs(wanted).max():
            raise SystemExit(f"{name} {operator.value} {dtype} {peer}: differs by {error:.3g}")
    seconds = device_seconds([*turns.values()] * TURNS)
    samples = {
        peer: [total / len(pairs) for total in seconds[at :: len(turns)]]
        for at, peer in enumerate(turns)
    }
    times = {peer: statistics.median(sample) for peer, sample in samples.items()}
    told = ", ".join(f"{peer} {1e6 * time:.1f}" for peer, time in times.items())
    print(f"{name} {operator.value} {dtype}: {told} µs", file=sys.stderr)
    choice = choose_implementation(operator, "cuda", spec, dtype)
    return {
        "workload": name,
        "operator": operator.value,
        "dtype": dtype.name,
        "kernel": choice.implementation,
        "tile": str(choice.tile),
        "microseconds": {peer: 1e6 * time for peer, time in times.items()},
        "of_bandwidth": size / rate / times["jaxconv"],
        "samples": samples,
    }


def calls(size: int) -> int:
    """How many calls a turn has, of so many bytes each."""
    fewest, most = CALLS
    return max(fewest, min(most, math.ceil(TURN_BYTES / size)))


def in_jax(program: Callable, pairs):
    for a, b in pairs:
        result = program(a, b)
    return jax.block_until_ready(result)


def in_torch(
    operator: Operator, spec: ConvSpec, dtype, a, b, count: int
) -> tuple[Turn, np.ndarray]:
    """A turn of PyTorch's, which has chosen its algorithms by timing them, and its result."""
    import torch

    torch.backends.cudnn.benchmark = True
    a, b = (np.asarray(array, np.float32) for array in (a, b))
    all_calls = [
        peers.torch(operator, spec, a, b, device="cuda", dtype=dtype.name) for _ in range(count)
    ]

    def turn():
        for call, _ in all_calls:
            result = call()
        torch.cuda.synchronize()
        return result

    _, to_numpy = all_calls[-1]
    return turn, to_numpy(turn())


def exact(operator: Operator, spec: ConvSpec) -> Callable:
    """lax's result of the rounded operands in float32 throughout."""
    compute = getattr(reference, operator.value)
    precise = (jax.lax.Precision.HIGHEST,) * 2

    def program(a, b):
        wide = (array.astype(jnp.float32) for array in (a, b))
        return compute(*wide, spec, precision=precise)

    return jax.jit(program, compiler_options={"xla_gpu_autotune_level": 0})


def device_seconds(turns: list[Turn]) -> list[float]:
    """What the device's kernels take together in each turn."""
    return [sum(end - start for start, end in kernels) for kernels in recorded(turns)]


def recorded(turns: list[Turn]) -> list[list[Kernel]]:
    """The kernels and copies of each turn, all of which have run before."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = options.host_tracer_level = 0
    with tempfile.TemporaryDirectory() as directory:
        jax.profiler.start_trace(directory, profiler_options=options)
        for turn in turns:
            turn()
            time.sleep(PAUSE)
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
        if turn and kernel[0] - turn[-1][1] > PAUSE / 2:
            yield turn
            turn = []
        turn.append(kernel)
    yield turn


def copy_rate() -> float:
    """Bytes a second that a large elementwise pass reads and writes."""
    turn = roofline.copy_of(COPIED_BYTES)
    turn()
    return COPIED_BYTES / min(device_seconds([turn] * TURNS))


def cudnn() -> dict[str, str]:
    torch = sys.modules.get("torch")
    return {} if torch is None else {"cudnn": str(torch.backends.cudnn.version())}


def markdown(report: dict[str, Any]) -> str:
    rows = report["rows"]
    names = [name for name in ("jaxconv", "lax", "torch") if name in rows[0]["microseconds"]]
    others = names[1:]
    header = ["workload", "operator", "dtype", *(f"{name} µs" for name in names)]
    header += [*(f"{name} ÷ ours" for name in others), "of bandwidth"]
    lines = [line(header), line(["---"] * len(header))]
    for row in rows:
        times = row["microseconds"]
        cells = [row["workload"], row["operator"], row["dtype"]]
        cells += [number(times[name]) for name in names]
        cells += [number(times[name] / times["jaxconv"]) for name in others]
        lines.append(line([*cells, f"{row['of_bandwidth']:.0%}"]))
    facts = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    facts += f", {1e-12 * report['bytes_per_second']:.2f} TB/s"
    return "\n".join([*lines, "", *summary(rows, others), "", facts])


def summary(rows, others: list[str]) -> list[str]:
    header = ["operator", "dtype", *(f"{name} ÷ ours (least)" for name in others)]
    header.append("of bandwidth (least)")
    lines = [line(header), line(["---"] * len(header))]
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        for operator in dict.fromkeys(row["operator"] for row in rows):
            group = [r for r in rows if (r["operator"], r["dtype"]) == (operator, dtype)]
            columns = [
                [r["microseconds"][name] / r["microseconds"]["jaxconv"] for r in group]
                for name in others
            ]
            shares = [row["of_bandwidth"] for row in group]
            cells = [mean(ratios) for ratios in columns]
            cells.append(f"{geometric_mean(shares):.0%} ({min(shares):.0%})")
            lines.append(line([operator, dtype, *cells]))
    return lines


if __name__ == "__main__":
    main()
