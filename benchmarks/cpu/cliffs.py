"""Cost per product as a function of kernel extent, channels, stride and dilation.

    python -m benchmarks.cpu.cliffs                          every sweep; about half an hour
    python -m benchmarks.cpu.cliffs --reduced                fewer points
    python -m benchmarks.cpu.cliffs --only channels --json benchmarks/results/cpu_cliffs.json

Each sweep varies one size and leaves the others alone. The cost is the processor time of all
threads, at its minimum over several calls, because other work on the machine changes it less than
the time that passes; the engine's threads do not spin. A *cliff* is a step from one point of a
sweep to the next at which the cost per product grows by more than a factor of 1.5. Exits with 1 if
there is one among calls of at least 0.2 ms; below, the cost of a call itself dominates.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.common import arguments, peers, results
from benchmarks.common.machine import machine, versions
from benchmarks.cpu import tables
from jaxconv._src.dispatch.choose import choose_implementation
from jaxconv._src.geometry.spec import ConvSpec, Operator

CALLS = 7
MAX_SECONDS = 3.0  # per point

CHANNELS = (1, 2, 3, 4, 8, 33, 512)
REDUCED_EXTENTS = (1, 3, 5, 7, 9, 15, 17, 31, 33, 63, 65, 99, 101, 127, 129, 191, 193, 253, 255)


class Sweep(NamedTuple):
    """A size that varies, and the convolution for each of its values."""

    name: str
    values: tuple[int, ...]
    specs: tuple[ConvSpec, ...]


def square(
    extent: int,
    kernel: int,
    features: int,
    groups: int,
    *,
    rank: int = 2,
    batch: int = 1,
    stride: int = 1,
    dilation: int = 1,
) -> ConvSpec:
    reach = dilation * (kernel - 1)
    sides = ((reach // 2, reach - reach // 2),) * rank
    return ConvSpec(
        batch,
        features,
        features,
        (extent,) * rank,
        (kernel,) * rank,
        (stride,) * rank,
        sides,
        (dilation,) * rank,
        groups,
    )


def sweeps(reduced: bool = False) -> Iterator[Sweep]:
    odd = REDUCED_EXTENTS if reduced else tuple(range(1, 256, 2))
    cubes, small = tuple(range(1, 16, 2)), tuple(k for k in odd if k <= 65)
    steps = (1, 2, 3, 4, 5, 6, 7, 8)

    def sweep(name: str, values: tuple[int, ...], spec_of) -> Sweep:
        return Sweep(name, values, tuple(spec_of(value) for value in values))

    for c in (4, 32):
        yield sweep(f"depthwise square kernels, 128²x{c}", odd, lambda k, c=c: square(128, k, c, c))
        yield sweep(
            f"depthwise 1-D kernels, 4,096x{c}", odd, lambda k, c=c: square(4096, k, c, c, rank=1)
        )
    yield sweep("depthwise cubes, 32³x16", cubes, lambda k: square(32, k, 16, 16, rank=3))
    yield sweep("dense square kernels, 64²x16", small, lambda k: square(64, k, 16, 1))
    yield sweep("dense 1-D kernels, 4,096x32", odd, lambda k: square(4096, k, 32, 1, rank=1))
    yield sweep("dense cubes, 16³x16", cubes, lambda k: square(16, k, 16, 1, rank=3))
    yield sweep("channels, depthwise 3x3, 28²", CHANNELS, lambda c: square(28, 3, c, c))
    yield sweep("channels, dense 3x3, 28²", CHANNELS, lambda c: square(28, 3, c, 1))
    for kind, groups in (("depthwise", 64), ("dense", 1)):
        yield sweep(
            f"strides, {kind} 9x9, 112²x64",
            steps,
            lambda s, groups=groups: square(112, 9, 64, groups, stride=s),
        )
        yield sweep(
            f"dilation, {kind} 5x5, 56²x64",
            steps,
            lambda d, groups=groups: square(56, 5, 64, groups, dilation=d),
        )


def main() -> None:
    parser = arguments.parser(__doc__)
    arguments.add_only(parser, "sweeps")
    arguments.add_operators(parser)
    parser.add_argument("--reduced", action="store_true", help="fewer kernel extents")
    arguments.add_json(parser)
    args = parser.parse_args()
    os.environ.setdefault("JAXCONV_SPIN", "0")  # read when the engine is first used
    rows = []
    for sweep in sweeps(args.reduced):
        if args.only not in sweep.name:
            continue
        for name in args.operators:
            row = measure(sweep, Operator(name))
            rows.append(row)
            print(tables.cliffs([row]).splitlines()[-1], flush=True)
    report = results.report(rows, machine(), versions("jax", "jaxlib"))
    if args.json:
        results.write(args.json, report)
    print(tables.cliffs(rows), report.source, sep="\n\n")
    raise SystemExit(any(tables.largest_step(row)[0] > tables.MAX_STEP for row in rows))


def measure(sweep: Sweep, operator: Operator) -> results.Row:
    points = [_point(operator, spec) for spec in sweep.specs]
    names, milliseconds = zip(*points, strict=True)
    return {
        "sweep": sweep.name,
        "operator": operator.value,
        "values": list(sweep.values),
        "implementations": list(names),
        "milliseconds": list(milliseconds),
        "products": [spec.macs for spec in sweep.specs],
    }


def _point(operator: Operator, spec: ConvSpec) -> tuple[str, float]:
    """The implementation, and the milliseconds of processor time of a call."""
    platform = jax.default_backend()
    name = choose_implementation(operator, platform, spec, np.dtype(np.float32)).implementation
    call, _ = peers.jaxconv(operator, spec, *peers.operands(operator, spec))
    call()
    times, start = [], time.perf_counter()
    while len(times) < CALLS and time.perf_counter() - start < MAX_SECONDS:
        before = time.process_time()
        call()
        times.append(time.process_time() - before)
    return name, 1e3 * min(times)


if __name__ == "__main__":
    main()
