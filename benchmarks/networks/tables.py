"""Tables and sentences about whole networks."""

from __future__ import annotations

from benchmarks.common.results import Row
from benchmarks.common.tables import groups, mean_and_minimum, number
from jaxconv._src.analysis.tables import format_markdown

OURS = ("optimized", "fused", "jaxconv")  # the first of them that was timed is compared
FLAX = ("flax", "installed", "imported")  # with layers of plain Flax
LIBRARIES = ("torch", "torch_compile", "onnxruntime", "openvino")
PEERS = (*FLAX, "jaxconv", "fused", "optimized", "optimized_flax", *LIBRARIES)
WHOLE, PARTS = "whole", "parts"
COSTS = {"first_call_s": "first call s", "compile_s": "compile s", "peak_mib": "memory MiB"}


def ours(row: Row) -> str:
    """The way to use jaxconv that a row's speedups are for; empty if none was timed."""
    return next((name for name in OURS if name in row["milliseconds"]), "")


def over_fastest(row: Row) -> float | None:
    """The speedup over the fastest of the other libraries; None if there is none."""
    speedups = [row["speedup"][name] for name in LIBRARIES if name in row["speedup"]]
    return min(speedups, default=None)


def networks(rows: list[Row]) -> str:
    """The times of all peers, and the speedup over the fastest library."""
    timed = [name for name in PEERS if any(name in row["milliseconds"] for row in rows)]
    header = ["network", "mode", *(f"{name} ms" for name in timed), "speedup over fastest library"]
    cells = [
        [
            row["network"],
            row["mode"],
            *(number(row["milliseconds"].get(name)) for name in timed),
            number(over_fastest(row)),
        ]
        for row in rows
    ]
    return format_markdown(header, cells)


def summary(rows: list[Row]) -> str:
    """Geometric mean and minimum of the speedups over each peer, by mode, parts apart."""
    others = [name for name in PEERS if any(name in row["speedup"] for row in rows)]
    cells = []
    for (kind, mode), own in groups(
        ({"kind": PARTS} | row for row in rows), "kind", "mode"
    ).items():
        columns = [[row["speedup"].get(name) for row in own] for name in others]
        columns.append([over_fastest(row) for row in own])
        known = [[value for value in column if value is not None] for column in columns]
        cells.append([kind, mode, str(len(own)), *map(mean_and_minimum, known)])
    return format_markdown(["networks", "mode", "rows", *others, "fastest library"], cells)


def costs(rows: list[Row]) -> str:
    """First call, compilation and memory, one line per network and peer."""
    cells = [
        [row["network"], row["mode"], name, *(_cost(row[figure][name]) for figure in COSTS)]
        for row in rows
        for name in row.get("peak_mib", {})
    ]
    return format_markdown(["network", "mode", "library", *COSTS.values()], cells)


def _cost(value: float) -> str:
    """Empty for what takes no time, such as compiling in PyTorch's eager mode."""
    return number(value) if value > 1e-3 else ""


def accelerate(rows: list[Row]) -> str:
    (row,) = rows
    flax, accelerated = (row["milliseconds"][name] for name in ("flax", "accelerated"))
    return (
        f"A training step of {row['network']} takes {flax:.0f} ms. Accelerated, it takes "
        f"{accelerated:.0f} ms: {flax / accelerated:.1f} times faster."
    )


def recipes(rows: list[Row]) -> str:
    header = ["recipe", "data", "result", "baseline", "seconds"]
    cells = [
        [f"`{row['recipe']}`", row["data"], row["result"], row["baseline"], row["cpu_seconds"]]
        for row in rows
    ]
    return format_markdown(header, cells)
