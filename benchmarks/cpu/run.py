"""Times every workload and operator against its peers, and writes a table and JSON.

    python -m benchmarks.cpu.run                  all workloads: lax, torch if installed, ours
    python -m benchmarks.cpu.run --only depthwise --implementations taps dots
    python -m benchmarks.cpu.run --json table.json
    python -m benchmarks.cpu.run --platform cuda  or tpu: on this machine's accelerator

Each peer's result is checked against lax's before anything is timed. Ratios are the peer's median
time over ours: more than 1 means that ours is faster. The last column is the fraction of the
machine's roofline that ours reaches: see ``roofline.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.common import peers, roofline
from benchmarks.common.timing import geometric_mean, interleaved, median_ms
from benchmarks.common.workloads import WORKLOADS, Workload
from jaxconv._src.dispatch import registry
from jaxconv._src.dispatch.choose import choose_implementation
from jaxconv._src.geometry.spec import Operator

COPY = "copy"  # of the row's bytes: not a peer, but timed beside them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--operators", nargs="+", default=[operator.value for operator in Operator])
    parser.add_argument("--implementations", nargs="*", default=[], help="kernels to force as well")
    parser.add_argument("--seconds", type=float, default=0.4, help="spent on each peer of a row")
    parser.add_argument("--json", type=Path, help="where to write all samples")
    parser.add_argument("--platform", choices=("cpu", "cuda", "tpu"), help="by default jax's own")
    args = parser.parse_args()
    if args.platform is not None:
        jax.config.update("jax_platforms", args.platform)
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # jax asserts where it was built without the platform
        print(f"jax finds no {args.platform} device here, so there is nothing to time.")
        return
    available = peers.available(args.implementations)
    peaks = roofline.peaks()
    rows = []
    for workload in WORKLOADS:
        if args.only in workload.name:
            for operator in map(Operator, args.operators):
                rows.append(measure(workload, operator, available, args.seconds, peaks))
                print(f"{rows[-1]['workload']} {operator.value}", file=sys.stderr)
    report = {"machine": machine(), "gflops": peaks, "rows": rows}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    print(markdown(report))


def measure(
    workload: Workload, operator: Operator, available, seconds: float, peaks: dict[str, float]
) -> dict[str, Any]:
    """One row: every peer that can serve it, checked, then timed."""
    spec = workload.spec
    a, b = peers.operands(operator, spec)
    reference = None
    calls = {}
    for name, peer in available.items():
        _, _, forced = name.partition(":")
        if forced and refused(forced, operator, spec):
            continue
        call, to_numpy = peer(operator, spec, a, b)
        result = to_numpy(call())
        reference = result if reference is None else reference
        check(f"{workload.name} {operator.value} {name}", result, reference, spec, operator)
        calls[name] = call
    footprint = roofline.footprint(operator, spec)
    calls[COPY] = roofline.copy_of(footprint)
    samples = interleaved(calls, seconds)
    milliseconds = {name: median_ms(times) for name, times in samples.items()}
    bound = roofline.bound_ms(operator, spec, milliseconds[COPY], peaks)
    choice = choose_implementation(operator, platform_name(), spec, np.dtype(np.float32))
    return {
        "workload": workload.name,
        "kind": workload.kind,
        "operator": operator.value,
        "kernel": choice.implementation,
        "temporary_bytes": temporary_bytes(operator, spec, a, b),
        "footprint_bytes": footprint,
        "macs": spec.macs,
        "milliseconds": milliseconds,
        "roofline_ms": bound,
        "of_roofline": bound / milliseconds["jaxconv"],
        "samples": samples,
    }


def platform_name() -> str:
    """The platform in use, as lowering calls it."""
    return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())


def refused(name: str, operator: Operator, spec) -> bool:
    """Whether a forced kernel cannot serve on this platform."""
    modules = registry.IMPLEMENTATIONS[name]
    dtype = np.dtype(np.float32)
    return platform_name() not in modules or bool(
        registry.unsupported_reason(name, operator, spec, dtype)
    )


def check(what: str, result: np.ndarray, reference: np.ndarray, spec, operator: Operator) -> None:
    """Equal to rounding: float32 sums of n terms of order 1/sqrt(n) err by about eps*sqrt(n).

    Matrix units round lax's operands first, to 8 bits or more.
    """
    terms = spec.macs / np.prod(spec.result_shape(operator))
    rounding = np.finfo(np.float32).eps * np.sqrt(terms)
    rounding = max(rounding, 0.0 if platform_name() == "cpu" else 2**-9)
    bound = 8 * rounding * max(1.0, np.abs(reference).max())
    error = np.abs(result - reference).max()
    if result.shape != reference.shape or not error <= bound:
        raise SystemExit(f"{what}: differs from lax by {error:.3g}, more than {bound:.3g}")


def temporary_bytes(operator: Operator, spec, a: np.ndarray, b: np.ndarray) -> int:
    """What our compiled program allocates beside operands and result."""

    def fn(a, b):
        return peers.primitives.bind(operator, a, b, spec, dtype=np.float32)

    return jax.jit(fn).lower(a, b).compile().memory_analysis().temp_size_in_bytes


def machine() -> dict[str, str]:
    versions = {"jax": jax.__version__, "python": platform.python_version()}
    if "torch" in sys.modules:
        versions["torch"] = sys.modules["torch"].__version__
    device = {} if platform_name() == "cpu" else {"device": jax.devices()[0].device_kind}
    return {
        **device,
        "processor": _processor(),
        "threads": str(len(os.sched_getaffinity(0))),
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


def markdown(report: dict[str, Any]) -> str:
    """The rows with the times of all peers, and geometric means of the ratios to ours."""
    rows = report["rows"]
    names = sorted({name for row in rows for name in row["milliseconds"]}, key=_order)
    others = [name for name in names if name not in ("jaxconv", COPY)]
    header = ["workload", "operator", "kernel", *(f"{name} ms" for name in names)]
    header += [*(f"{name} ÷ ours" for name in others), "of roofline"]
    lines = [line(header), line(["---"] * len(header))]
    for row in rows:
        times = row["milliseconds"]
        cells = [row["workload"], row["operator"], row["kernel"]]
        cells += [number(times.get(name)) for name in names]
        cells += [number(_ratio(times, name)) for name in others]
        cells.append(f"{row['of_roofline']:.0%}")
        lines.append(line(cells))
    facts = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    facts += "".join(f", {name} {peak:.0f} GFLOP/s" for name, peak in report["gflops"].items())
    return "\n".join([*lines, "", *_summary(rows, others), "", facts])


def _summary(rows, others) -> list[str]:
    header = ["kind", "operator", "rows", *(f"{name} ÷ ours (least)" for name in others)]
    header.append("of roofline (least)")
    lines = [line(header), line(["---"] * len(header))]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        for operator in dict.fromkeys(row["operator"] for row in rows):
            group = [r for r in rows if (r["kind"], r["operator"]) == (kind, operator)]
            ratios = [[_ratio(row["milliseconds"], name) for row in group] for name in others]
            cells = [mean([ratio for ratio in values if ratio]) for values in ratios]
            cells.append(mean([row["of_roofline"] for row in group]))
            lines.append(line([kind, operator, str(len(group)), *cells]))
    return lines


def mean(ratios: list[float]) -> str:
    return f"{geometric_mean(ratios):.2f} ({min(ratios):.2f})" if ratios else ""


def _ratio(times: dict[str, float], name: str) -> float | None:
    return times[name] / times["jaxconv"] if name in times else None


def _order(name: str) -> tuple[int, str]:
    first = (COPY, "lax", "torch", "jaxconv")
    return (first.index(name) if name in first else len(first), name)


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
