"""Cost grows with the work alone: time an output over batches 1 … 64 and extents 14² … 224².

    python benchmarks/scaling.py

Depthwise and dense 3×3, every operator. A row's times an output lie within 1.5 of each other from
1 MFLOP on; below that dispatch counts, and such sizes are shown but not compared. Exits with 1
where a row's do not. A copy of as many bytes stands beside them, for what the caches and fresh
pages alone cost.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

from jaxconv.spec import ConvSpec, Operator

sys.path.insert(0, str(Path(__file__).parent))
import peers
import roofline
from timing import interleaved, median_ms

MOST = 1.5
LEAST_FLOPS = 1e6

BATCHES = (1, 2, 4, 8, 16, 32, 64)
EXTENTS = (14, 28, 56, 112, 224)
KINDS = {"depthwise": (64, 64), "dense": (32, 1)}  # features, groups


def same_3x3(kind: str, batch: int, extent: int) -> ConvSpec:
    features, groups = KINDS[kind]
    sides = ((1, 1), (1, 1))
    return ConvSpec(
        batch, features, features, (extent, extent), (3, 3), (1, 1), sides, (1, 1), groups
    )


def sweeps(kind: str) -> dict[str, dict[str, ConvSpec]]:
    return {
        "batch": {f"{n}×28²": same_3x3(kind, n, 28) for n in BATCHES},
        "extent": {f"4×{n}²": same_3x3(kind, 4, n) for n in EXTENTS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.2, help="spent on each size")
    parser.add_argument("--only", default="", help="of depthwise and dense, one")
    args = parser.parse_args()
    failed = False
    for kind in KINDS:
        if args.only in kind:
            for name, specs in sweeps(kind).items():
                print(f"\n| {kind} {name} | {' | '.join(specs)} | spread |")
                print(f"|{' --- |' * (len(specs) + 2)}")
                row("copy", specs, {name: copy(spec) for name, spec in specs.items()}, args.seconds)
                for operator in Operator:
                    calls = {name: call(operator, spec) for name, spec in specs.items()}
                    spread = row(operator.value, specs, calls, args.seconds)
                    failed = failed or spread > MOST
    raise SystemExit(failed)


def copy(spec: ConvSpec) -> Callable[[], object]:
    return roofline.copy_of(roofline.footprint(Operator.CONV, spec))


def call(operator: Operator, spec: ConvSpec) -> Callable[[], object]:
    return peers.jaxconv(operator, spec, *peers.operands(operator, spec))[0]


def row(name: str, specs: dict[str, ConvSpec], calls: dict, seconds: float) -> float:
    """Prints a row, and returns how far its times lie apart."""
    times = nanoseconds(specs, calls, seconds)
    spread = spread_of(specs, times)
    cells = " | ".join(f"{time:.3g}" for time in times.values())
    print(f"| {name} ns an output | {cells} | {spread:.2f} |", flush=True)
    return spread


def nanoseconds(specs: dict[str, ConvSpec], calls: dict, seconds: float) -> dict[str, float]:
    """Median time of each size, an output of the forward convolution."""
    for warm in calls.values():
        warm()
    samples = interleaved(calls, seconds)
    return {
        name: 1e6 * median_ms(samples[name]) / math.prod(spec.output_shape)
        for name, spec in specs.items()
    }


def spread_of(specs: dict[str, ConvSpec], times: dict[str, float]) -> float:
    large = [times[name] for name, spec in specs.items() if 2 * spec.macs >= LEAST_FLOPS]
    return max(large) / min(large)


if __name__ == "__main__":
    main()
