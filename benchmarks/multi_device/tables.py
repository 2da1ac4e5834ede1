"""Tables about several devices: what is sent between them, and times of sharded convolutions."""

from __future__ import annotations

from benchmarks.common.results import Row
from jaxconv._src.analysis.tables import format_markdown


def collectives(rows: list[Row]) -> str:
    """A row per sharding: jaxconv's collectives, and lax's."""
    cells = []
    for row in rows:
        ours, lax = (_sent(row[name]) for name in ("jaxconv", "lax"))
        lax = "the same" if lax == ours else lax
        wrong = "" if row["lax_correct"] else "; wrong values"
        cells.append([row["kind"], row["sharded"], ours, lax + wrong])
    return format_markdown(["kind", "sharded axes", "jaxconv", "lax"], cells)


def _sent(collectives: Row) -> str:
    return (
        ", ".join(
            f"{found['count']} {kind} ({found['kib']:.0f} KiB)"
            for kind, found in collectives.items()
        )
        or "none"
    )


def sharded_times(rows: list[Row]) -> str:
    """A row per workload and program: times relative to the unsharded program's."""
    partitions = list(rows[0]["relative_time"])
    cells = [
        [row["workload"], row["program"], *(f"{row['relative_time'][p]:.2f}" for p in partitions)]
        for row in rows
    ]
    return format_markdown(["workload", "program", *partitions], cells)


def scaling(rows: list[Row]) -> str:
    """A row per sharded axis, target and collective."""
    header = ["sharded axis", "chips", "collective", "count"]
    header += ["payload KiB per chip", "sent KiB per chip"]
    cells = [
        [
            row["axis"],
            row["target"],
            kind,
            found["count"],
            *(f"{found[key]:,.1f}" for key in ("payload_kib", "sent_kib")),
        ]
        for row in rows
        for kind, found in row["collectives"].items()
    ]
    return format_markdown(header, cells)
