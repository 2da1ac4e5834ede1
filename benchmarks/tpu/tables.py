"""Tables of the static figures of programs compiled for TPUs."""

from __future__ import annotations

from benchmarks.common.results import Row
from benchmarks.common.tables import groups, percent
from jaxconv._src.analysis.tables import format_markdown

_KEYS = ("generation", "dtype", "operator")


def programs(rows: list[Row]) -> str:
    """Every program, next to lax's if that was compiled."""
    header = ["TPU", "dtype", "workload", "operator", "moved", "lax moved", "temporaries"]
    header += ["lax temporaries", "bundles (÷ floor)", "vector", "spills"]
    return format_markdown(header, [_program(row) for row in rows])


def _program(row: Row) -> list[object]:
    names = [row[name] for name in ("generation", "dtype", "workload", "operator")]
    ours, lax = row["jaxconv"], row["lax"] or {}
    lax_moved, lax_temporaries = (
        f"{lax[key]:.2f}" if key in lax else "" for key in ("moved", "temporaries")
    )
    if "unsupported" in ours:
        return [*names, ours["unsupported"], lax_moved, "", lax_temporaries, "", "", ""]
    return [
        *names,
        f"{ours['moved']:.2f}",
        lax_moved,
        f"{ours['temporaries']:.2f}",
        lax_temporaries,
        f"{ours['bundles']:.1f} ({ours['bundles_over_floor']:.2f})",
        percent(ours["vector"]),
        ours["spills"],
    ]


def summarize_programs(rows: list[Row]) -> list[Row]:
    """The worst of all workloads; of bundles over the floor the first, the minimum, the maximum."""
    summaries = []
    compiled = [row for row in rows if "unsupported" not in row["jaxconv"]]
    for values, group in groups(compiled, *_KEYS).items():
        ours = [row["jaxconv"] for row in group]
        ratios = [one["bundles_over_floor"] for one in ours]
        first = {group[0]["workload"]: ratios[0]}
        summaries.append(
            {
                **dict(zip(_KEYS, values, strict=True)),
                "workloads": len(ours),
                "moved": max(one["moved"] for one in ours),
                "temporaries": max(one["temporaries"] for one in ours),
                "bundles_over_floor": {**first, "minimum": min(ratios), "maximum": max(ratios)},
                "spills": sum(one["spills"] for one in ours),
            }
        )
    return summaries


def static(rows: list[Row]) -> str:
    """The rows of ``summarize_programs``."""
    first = next(iter(rows[0]["bundles_over_floor"]))
    header = ["TPU", "dtype", "operator", "workloads", "moved, at most", "temporaries, at most"]
    header += [f"bundles ÷ floor, {first}", "of all workloads", "spills"]
    cells = []
    for row in rows:
        ratios = row["bundles_over_floor"]
        cells.append(
            [
                *(row[key] for key in _KEYS),
                row["workloads"],
                f"{row['moved']:.2f}",
                f"{row['temporaries']:.2f}",
                f"{ratios[first]:.2f}",
                f"{ratios['minimum']:.2f} to {ratios['maximum']:.2f}",
                row["spills"],
            ]
        )
    return format_markdown(header, cells)
