"""Tables and sentences about the operators' times on the CPU, from the rows of ``run.py``."""

from __future__ import annotations

import math

from benchmarks.common.results import Row
from benchmarks.common.tables import groups, mean_and_minimum, number, percent
from benchmarks.common.timing import geometric_mean
from jaxconv._src.analysis.tables import format_markdown

COPY = "copy"  # of the row's bytes: not a peer, but timed with them
_ORDER = (COPY, "lax", "torch", "jaxconv")


def operators(rows: list[Row]) -> str:
    """Every row: the times of all peers, jaxconv's speedup over each, its share of the roofline."""
    timed = _names(rows, "milliseconds")
    others = _names(rows, "speedup")
    header = ["workload", "operator", "implementation", *(f"{name} ms" for name in timed)]
    header += [*(f"speedup over {name}" for name in others), "of roofline"]
    cells = [
        [
            *(row[key] for key in ("workload", "operator", "implementation")),
            *(number(row["milliseconds"].get(name)) for name in timed),
            *(number(row["speedup"].get(name)) for name in others),
            percent(row["of_roofline"]),
        ]
        for row in rows
    ]
    return format_markdown(header, cells)


def summary(rows: list[Row]) -> str:
    """Geometric means (minima in parentheses) for each kind of convolution and operator."""
    others = _names(rows, "speedup")
    header = ["kind", "operator", "workloads"]
    header += [*(f"speedup over {name} (minimum)" for name in others), "of roofline (minimum)"]
    cells = [
        [
            kind,
            operator,
            len(group),
            *(mean_and_minimum(speedups(group, name)) for name in others),
            mean_and_minimum([row["of_roofline"] for row in group], percent),
        ]
        for (kind, operator), group in groups(rows, "kind", "operator").items()
    ]
    return format_markdown(header, cells)


def kinds(rows: list[Row]) -> str:
    """Geometric means (minima in parentheses) for each kind of convolution, over all operators."""
    others = _names(rows, "speedup")
    cells = [
        [kind, len(group), *(mean_and_minimum(speedups(group, name)) for name in others)]
        for (kind,), group in groups(rows, "kind").items()
    ]
    return format_markdown(["kind", "rows", *(f"speedup over {name}" for name in others)], cells)


def headline(rows: list[Row]) -> str:
    """The main results, in two sentences."""
    depthwise = [row for row in rows if row["kind"] == "depthwise"]
    grouped = [row for row in rows if row["kind"] == "grouped"]
    rest = [row for row in rows if row["kind"] != "depthwise"]
    over_lax = speedups([*depthwise, *grouped], "lax")
    return (
        f"Depthwise and grouped convolutions are {_rounded_down(min(over_lax))} to "
        f"{_rounded_down(max(over_lax))} times faster than `lax`. Depthwise convolutions are "
        f"{geometric_mean(speedups(depthwise, 'torch')):.1f} times faster than PyTorch, all "
        f"others {geometric_mean(speedups(rest, 'torch')):.2f} times (geometric means)."
    )


def speedups(rows: list[Row], peer: str) -> list[float]:
    return [row["speedup"][peer] for row in rows if peer in row["speedup"]]


def _rounded_down(value: float) -> str:
    """Two significant digits, never more than was measured."""
    unit = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return f"{math.floor(value / unit) * unit:,}"


def _names(rows: list[Row], key: str) -> list[str]:
    names = {name for row in rows for name in row[key]}
    return sorted(
        names, key=lambda name: (name not in _ORDER, _ORDER.index(name) if name in _ORDER else name)
    )


def temporaries(rows: list[Row]) -> str:
    """A row per workload: the implementation of each operator and its temporaries."""
    by_workload = groups(rows, "workload")
    operators = [row["operator"] for row in next(iter(by_workload.values()))]
    cells = [
        [workload, *(f"{row['implementation']} {row['temporaries']:.2f}" for row in group)]
        for (workload,), group in by_workload.items()
    ]
    return format_markdown(["workload", *operators], cells)


def causal(rows: list[Row]) -> str:
    """Every row of ``causal.py``: times, speedups, and the share of a copy's bandwidth."""
    timed, others = _names(rows, "milliseconds"), _names(rows, "speedup")
    header = ["workload", *(f"{name} ms" for name in timed)]
    header += [*(f"speedup over {name}" for name in others), "of a copy"]
    cells = [
        [
            row["workload"],
            *(number(row["milliseconds"].get(name)) for name in timed),
            *(number(row["speedup"].get(name)) for name in others),
            percent(row["of_copy"]),
        ]
        for row in rows
    ]
    return format_markdown(header, cells)


def memory(rows: list[Row]) -> str:
    header = ["workload", "operator", "result KiB", "XLA's temporaries KiB", "allocated KiB"]
    sizes = ("result_kib", "temporaries_kib", "allocated_kib")
    cells = [[row["workload"], row["operator"], *(f"{row[s]:.0f}" for s in sizes)] for row in rows]
    return format_markdown(header, cells)


def most_allocated_kib(rows: list[Row]) -> float:
    return max(max(row["temporaries_kib"], row["allocated_kib"]) for row in rows)


def memory_headline(rows: list[Row]) -> str:
    return f"At most {most_allocated_kib(rows):,.0f} KiB in addition to the result."


MAX_STEP = 1.5  # by which the cost per product may grow from one point of a sweep to the next
MIN_COMPARED_MS = 0.2  # the cost of a shorter call is that of the call itself


def cliffs(rows: list[Row]) -> str:
    """A row per sweep and operator: the range of costs, and the largest growth at one step."""
    header = [
        "sweep",
        "operator",
        "implementations",
        "ps per product",
        "largest step",
        "from",
        "to",
    ]
    cells = []
    for row in rows:
        costs = _picoseconds(row)
        growth, at = largest_step(row)
        values = row["values"]
        cells.append(
            [
                row["sweep"],
                row["operator"],
                ", ".join(dict.fromkeys(row["implementations"])),
                f"{number(min(costs))} to {number(max(costs))}",
                f"{growth:.2f}",
                *((values[at], values[at + 1]) if growth > 1 else ("", "")),
            ]
        )
    return format_markdown(header, cells)


def largest_step(row: Row) -> tuple[float, int]:
    """The largest growth of the cost per product at one step, and the point before that step."""
    costs, times = _picoseconds(row), row["milliseconds"]
    steps = [
        (after / before if time >= MIN_COMPARED_MS else 0.0, at)
        for at, (before, after, time) in enumerate(zip(costs, costs[1:], times[1:], strict=False))
    ]
    return max(steps, default=(0.0, 0))


def _picoseconds(row: Row) -> list[float]:
    """Of processor time per product."""
    pairs = zip(row["milliseconds"], row["products"], strict=True)
    return [1e9 * time / products for time, products in pairs]


def accuracy(rows: list[Row]) -> str:
    """A row per implementation and operator: the largest errors in ulp, by dtype."""
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    cells = [
        [*key, *(f"{row['ulp']:.2f}" for row in group), _of_bound(group)]
        for key, group in groups(rows, "implementation", "operator").items()
    ]
    return format_markdown(["implementation", "operator", *dtypes, "of the bound"], cells)


def _of_bound(rows: list[Row]) -> str:
    """Of float32 and float64: narrower dtypes reach it, because they are rounded at the end."""
    summed = [row["of_bound"] for row in rows if row["dtype"] in ("float32", "float64")]
    shares = [share for share in summed if share is not None]
    return percent(max(shares)) if shares else "a bound of its own"


def peer_tests(rows: list[Row]) -> str:
    """A row per library: how many of its convolution tests pass without and with jaxconv."""
    header = ["library", "version", "tests", "skipped", "pass without", "pass with"]
    header += ["fail only without", "fail only with", "explained"]
    cells = [
        [
            *(row[key] for key in ("library", "version", "tests", "skipped")),
            *(row[key] for key in ("passed_without", "passed_with")),
            *(len(row[key]) for key in ("only_without", "only_with")),
            row["explained"],
        ]
        for row in rows
    ]
    return format_markdown(header, cells)
