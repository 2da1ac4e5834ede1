"""Tables and sentences about the GPU kernels: times on a device, figures of compiled programs."""

from __future__ import annotations

from benchmarks.common.results import Row
from benchmarks.common.tables import groups, mean_and_minimum, number, percent
from benchmarks.common.timing import geometric_mean
from jaxconv._src.analysis.tables import format_markdown

PEERS = ("jaxconv", "lax", "torch")


def operators(rows: list[Row]) -> str:
    """A row per workload and dtype: microseconds of all peers, for each operator."""
    timed = _timed(rows)
    names = list(dict.fromkeys(row["operator"] for row in rows))
    header = ["workload", "dtype", *(f"{name}: {', '.join(timed)}" for name in names)]
    cells = []
    for (dtype, workload), group in groups(rows, "dtype", "workload").items():
        times = {
            row["operator"]: ", ".join(number(row["microseconds"][name]) for name in timed)
            for row in group
        }
        cells.append([workload, dtype, *(times.get(name, "") for name in names)])
    return format_markdown(header, cells)


def summary(rows: list[Row]) -> str:
    """Geometric means (minima in parentheses) for each dtype and operator."""
    others = _timed(rows)[1:]
    header = ["operator", "dtype", *(f"speedup over {name} (minimum)" for name in others)]
    header.append("of bandwidth (minimum)")
    cells = [
        [
            operator,
            dtype,
            *(mean_and_minimum(speedups(group, name)) for name in others),
            mean_and_minimum([row["of_bandwidth"] for row in group], percent),
        ]
        for (dtype, operator), group in groups(rows, "dtype", "operator").items()
    ]
    return format_markdown(header, cells)


def headline(rows: list[Row]) -> str:
    """The main result, in one sentence."""
    lax, torch = (speedups(rows, name) for name in ("lax", "torch"))
    return (
        f"Depthwise convolutions and their gradients are {geometric_mean(lax):.1f} times faster "
        f"than `lax` and {geometric_mean(torch):.1f} times faster than PyTorch (geometric means; "
        f"the minima are {min(lax):.2f} and {min(torch):.2f})."
    )


def speedups(rows: list[Row], peer: str) -> list[float]:
    return [row["microseconds"][peer] / row["microseconds"]["jaxconv"] for row in rows]


def _timed(rows: list[Row]) -> list[str]:
    return [name for name in PEERS if all(name in row["microseconds"] for row in rows)]


def programs(rows: list[Row]) -> str:
    """Every compiled program: what ``ptxas`` and XLA report."""
    header = ["device", "workload", "operator", "dtype", "implementation", "registers"]
    header += ["spilled bytes", "shared bytes", "temporary bytes", "bytes per load", "programs"]
    header.append("library calls")
    return format_markdown(header, [_program(row) for row in rows])


def _program(row: Row) -> list[object]:
    programs = row["programs"]
    maxima = [
        max((program[key] for program in programs), default="")
        for key in ("registers", "spilled_bytes", "shared_bytes")
    ]
    names = ("device", "workload", "operator", "dtype", "implementation")
    loads = sorted({int(size) for program in programs for size in program["loads"]})
    calls = ", ".join(call for call in row["calls"] if "triton" not in call)
    sizes = " ".join(map(str, loads))
    return [*map(row.get, names), *maxima, row["temporary_bytes"], sizes, len(programs), calls]


def summarize_programs(rows: list[Row]) -> list[Row]:
    """Over all workloads, for each device, operator and dtype."""
    summaries = []
    keys = ("device", "operator", "dtype")
    for values, group in groups(rows, *keys).items():
        ours = [row for row in group if row["implementation"] == "pallas"]
        lax = [row for row in group if row["implementation"] == "lax"]
        registers = [max(one["registers"] for one in row["programs"]) for row in ours]
        megabytes = {
            name: sum(row["temporary_bytes"] for row in rows) / 1e6
            for name, rows in (("jaxconv", ours), ("lax", lax))
        }
        summaries.append(
            {
                **dict(zip(keys, values, strict=True)),
                "registers": [min(registers), max(registers)],
                "spilled_bytes": sum(p["spilled_bytes"] for row in ours for p in row["programs"]),
                "temporary_megabytes": megabytes,
            }
        )
    return summaries


def static(rows: list[Row]) -> str:
    """The rows of ``summarize_programs``."""
    header = ["device", "operator", "dtype", "registers per thread", "spilled bytes"]
    header += ["temporaries, MB", "lax's temporaries, MB"]
    cells = [
        [
            *(row[key] for key in ("device", "operator", "dtype")),
            "{} to {}".format(*row["registers"]),
            row["spilled_bytes"],
            *(f"{row['temporary_megabytes'][name]:.1f}" for name in ("jaxconv", "lax")),
        ]
        for row in rows
    ]
    return format_markdown(header, cells)
