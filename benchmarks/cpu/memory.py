"""Memory that calls allocate in addition to their results: at most 4 MiB for every workload.

    python -m benchmarks.cpu.memory                     all workloads and operators, in one process
    python -m benchmarks.cpu.memory --only "dense 3x3"

Two figures per row. XLA's temporaries are what the compiled program states. The memory allocated is
the growth of the process's peak resident memory during one call, less the bytes of the result.
Freed memory goes back to the system at once and pages are small, so that every call starts afresh.
Exits with 1 if a call allocates more than 4 MiB. Linux only.
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common import arguments, peers, results
from benchmarks.common.machine import machine, versions
from benchmarks.common.workloads import WORKLOADS, Workload
from benchmarks.cpu import tables
from jaxconv._src.geometry.spec import Operator

MAX_ALLOCATED_BYTES = 4 << 20
# Each processor counts up to 32 pages of 4 KiB before it adds them to the process's count.
UNCOUNTED_BYTES = 1 << 18

M_MMAP_THRESHOLD, PR_SET_THP_DISABLE = -3, 41


def main() -> None:
    parser = arguments.parser(__doc__)
    arguments.add_only(parser)
    parser.add_argument("--implementation", help="the implementation to force")
    arguments.add_json(parser)
    args = parser.parse_args()
    count_every_page()
    rows = [
        measure(workload, operator, args.implementation)
        for workload in WORKLOADS
        if args.only in workload.name
        for operator in Operator
    ]
    report = results.report(rows, machine(), versions("jax"))
    if args.json:
        results.write(args.json, report)
    print(tables.memory(rows), tables.memory_headline(rows), report.source, sep="\n\n")
    raise SystemExit(1024 * tables.most_allocated_kib(rows) > MAX_ALLOCATED_BYTES + UNCOUNTED_BYTES)


def count_every_page() -> None:
    """Allocations over 64 KiB get pages of their own, small ones, which are unmapped when freed."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 64 << 10)
    libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


def measure(workload: Workload, operator: Operator, implementation: str | None) -> dict[str, Any]:
    spec = workload.spec
    a, b = map(jax.device_put, peers.operands(operator, spec))
    function = peers.primitive(operator, spec, jnp.float32, implementation)
    program = peers.compiled(function, a, b)
    jax.block_until_ready(program(a, b))
    result = 4 * math.prod(spec.result_shape(operator))
    before = reset_peak()
    jax.block_until_ready(program(a, b))
    allocated = max(0, resident("VmHWM") - before - result)
    return {
        "workload": workload.name,
        "operator": operator.value,
        "result_kib": result / 1024,
        "temporaries_kib": program.memory_analysis().temp_size_in_bytes / 1024,
        "allocated_kib": allocated / 1024,
    }


def reset_peak() -> int:
    """Resets the peak of resident memory, and returns the resident memory."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    main()
