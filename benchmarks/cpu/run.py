"""Times every workload and operator against lax and PyTorch.

    python -m benchmarks.cpu.run                  all workloads: lax, torch if installed, jaxconv
    python -m benchmarks.cpu.run --only depthwise --implementations taps dots
    python -m benchmarks.cpu.run --json benchmarks/results/cpu_operators.json
    python -m benchmarks.cpu.run --platform cuda  (or tpu) on this machine's accelerator

Each peer's result is checked against lax's before anything is timed. A speedup is the peer's median
time divided by jaxconv's: above 1, jaxconv is faster. The last column is the share of the machine's
roofline that jaxconv reaches: see ``benchmarks/common/roofline.py``.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import jax
import numpy as np

from benchmarks.common import arguments, peers, results, roofline
from benchmarks.common.machine import machine, platform_name, versions
from benchmarks.common.timing import interleaved, median_ms
from benchmarks.common.workloads import WORKLOADS, Workload
from benchmarks.cpu import tables
from jaxconv._src.dispatch.choose import choose_implementation
from jaxconv._src.dispatch.registry import IMPLEMENTATIONS, unsupported_reason
from jaxconv._src.geometry.spec import ConvSpec, Operator


def main() -> None:
    args = parse_args()
    if args.platform is not None:
        jax.config.update("jax_platforms", args.platform)
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # jax asserts if it was built without the platform
        print(f"jax finds no {args.platform} device here, so there is nothing to time.")
        return
    available = peers.available(args.implementations)
    peaks = roofline.peaks()
    rows = []
    for workload in WORKLOADS:
        if args.only in workload.name:
            for operator in map(Operator, args.operators):
                print(f"{workload.name} {operator.value}", file=sys.stderr)
                rows.append(measure(workload, operator, available, args.seconds, peaks))
    gflops = {f"{name} peak": f"{peak:.0f} GFLOP/s" for name, peak in peaks.items()}
    report = results.report(rows, machine() | gflops, versions("jax", "torch"))
    if args.json:
        results.write(args.json, report)
    print(tables.operators(rows), tables.summary(rows), report.source, sep="\n\n")


def parse_args() -> argparse.Namespace:
    parser = arguments.parser(__doc__)
    arguments.add_only(parser)
    arguments.add_operators(parser)
    parser.add_argument(
        "--implementations", nargs="*", default=[], help="implementations to time as well"
    )
    arguments.add_seconds(parser, 0.4, "peer of a row")
    parser.add_argument(
        "--platform",
        choices=("cpu", "cuda", "tpu"),
        help="where to run (default: jax's own choice)",
    )
    arguments.add_json(parser)
    return parser.parse_args()


def measure(
    workload: Workload, operator: Operator, available, seconds: float, peaks: dict[str, float]
) -> dict[str, Any]:
    """One row: all peers that support the workload, checked, then timed."""
    spec = workload.spec
    a, b = peers.operands(operator, spec)
    reference = None
    calls = {}
    for name, peer in available.items():
        _, _, forced = name.partition(":")
        if forced and not supported(forced, operator, spec):
            continue
        call, to_numpy = peer(operator, spec, a, b)
        result = to_numpy(call())
        reference = result if reference is None else reference
        check(f"{workload.name} {operator.value} {name}", result, reference, spec, operator)
        calls[name] = call
    calls[tables.COPY] = roofline.copy_of(roofline.footprint(operator, spec))
    milliseconds = {name: median_ms(times) for name, times in interleaved(calls, seconds).items()}
    ours = milliseconds["jaxconv"]
    others = [name for name in calls if name not in ("jaxconv", tables.COPY)]
    choice = choose_implementation(operator, platform_name(), spec, np.dtype(np.float32))
    return {
        "workload": workload.name,
        "kind": workload.kind,
        "operator": operator.value,
        "implementation": choice.implementation,
        "milliseconds": milliseconds,
        "speedup": {name: milliseconds[name] / ours for name in others},
        "of_roofline": roofline.bound_ms(operator, spec, milliseconds[tables.COPY], peaks) / ours,
    }


def supported(name: str, operator: Operator, spec: ConvSpec) -> bool:
    """Whether an implementation can compute the operator on this platform."""
    if platform_name() not in IMPLEMENTATIONS[name]:
        return False
    return unsupported_reason(name, operator, spec, np.dtype(np.float32)) is None


def check(
    what: str, result: np.ndarray, reference: np.ndarray, spec: ConvSpec, operator: Operator
) -> None:
    """Exits unless results are equal up to rounding.

    A float32 sum of n terms of order 1/sqrt(n) is off by about eps*sqrt(n). Matrix units round
    lax's operands first, to no fewer than 8 bits.
    """
    terms = spec.macs / np.prod(spec.result_shape(operator))
    rounding = np.finfo(np.float32).eps * np.sqrt(terms)
    rounding = max(rounding, 0.0 if platform_name() == "cpu" else 2**-9)
    tolerance = 8 * rounding * max(1.0, np.abs(reference).max())
    error = np.abs(result - reference).max()
    if result.shape != reference.shape or not error <= tolerance:
        raise SystemExit(f"{what}: differs from lax by {error:.3g}, more than {tolerance:.3g}")


if __name__ == "__main__":
    main()
