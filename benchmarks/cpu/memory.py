"""What calls allocate beside their results: at most 4 MiB, for every workload.

    python -m benchmarks.cpu.memory                     all workloads and operators, in one process
    python -m benchmarks.cpu.memory --only "dense 3x3"

Two measurements. XLA's own temporaries are what the compiled program states. What is really taken
is the growth of the process's peak of resident memory in one call, less the result's bytes; freed
memory goes back to the system at once and pages are small, so that every call starts anew. Exits
with 1 where a call takes more. Linux alone counts so.
"""

from __future__ import annotations

import argparse
import ctypes
import math
from pathlib import Path

import jax

from benchmarks.common import peers
from benchmarks.common.workloads import WORKLOADS
from jaxconv._src.geometry.spec import ConvSpec, Operator

MOST = 4 << 20
# Each processor counts up to 32 pages of 4 KiB on its own before it adds them to the process's.
PAGE_COUNTS = 1 << 18

M_MMAP_THRESHOLD, PR_SET_THP_DISABLE = -3, 41


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--implementation", help="a kernel to force")
    args = parser.parse_args()
    count_every_page()
    worst = 0
    print("| workload | operator | result KiB | XLA's temporaries KiB | taken beside it KiB |")
    print("| --- | --- | --- | --- | --- |")
    for workload in WORKLOADS:
        if args.only in workload.name:
            for operator in Operator:
                result, temporaries, taken = measure(operator, workload.spec, args.implementation)
                worst = max(worst, temporaries, taken)
                sizes = " | ".join(f"{size / 1024:.0f}" for size in (result, temporaries, taken))
                print(f"| {workload.name} | {operator.value} | {sizes} |", flush=True)
    print(f"\nat most {worst / 1024:.0f} KiB beside the result")
    raise SystemExit(worst > MOST + PAGE_COUNTS)


def count_every_page() -> None:
    """Allocations over 64 KiB get pages of their own, given back when freed, none of them huge."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 64 << 10)
    libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


def measure(operator: Operator, spec: ConvSpec, implementation) -> tuple[int, int, int]:
    """Bytes of the result, of XLA's temporaries, and really taken beside the result."""
    a, b = map(jax.device_put, peers.operands(operator, spec))

    def fn(a, b):
        return peers.primitives.bind(
            operator, a, b, spec, dtype=a.dtype, implementation=implementation
        )

    compiled = jax.jit(fn).lower(a, b).compile()
    jax.block_until_ready(compiled(a, b))
    result = 4 * math.prod(spec.result_shape(operator))
    before = reset_peak()
    jax.block_until_ready(compiled(a, b))
    taken = max(0, resident("VmHWM") - before - result)
    return result, compiled.memory_analysis().temp_size_in_bytes, taken


def reset_peak() -> int:
    """Forgets the peak of resident memory, and returns what is resident."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    main()
