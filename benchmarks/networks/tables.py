"""Tables and sentences about whole networks."""

from __future__ import annotations

from benchmarks.common.results import Row
from benchmarks.common.tables import number
from jaxconv._src.analysis.tables import format_markdown

PEERS = ("flax", "installed", "imported", "jaxconv", "torch", "onnxruntime")


def networks(rows: list[Row]) -> str:
    """The times of all peers, and the speedup of jaxconv over each of the others."""
    timed = [name for name in PEERS if any(name in row["milliseconds"] for row in rows)]
    others = [name for name in timed if any(name in row["speedup"] for row in rows)]
    header = ["network", "mode", *(f"{name} ms" for name in timed)]
    header += [f"speedup over {name}" for name in others]
    cells = [
        [
            row["network"],
            row["mode"],
            *(number(row["milliseconds"].get(name)) for name in timed),
            *(number(row["speedup"].get(name)) for name in others),
        ]
        for row in rows
    ]
    return format_markdown(header, cells)


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
