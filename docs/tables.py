"""Writes the tables of README.md and docs/ from the measurements in benchmarks/results/.

    python docs/tables.py

A page marks the place of a table with two comments, and the text between them is replaced:

    <!-- table: cpu_summary -->
    <!-- end -->

To measure again, run a benchmark with ``--json benchmarks/results/NAME.json``, then this script.
``docs/speedups.py`` draws the README's picture.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "extensions")]

import sources  # noqa: E402
from benchmarks.common import results  # noqa: E402
from benchmarks.cpu import tables as cpu  # noqa: E402
from benchmarks.gpu import tables as gpu  # noqa: E402
from benchmarks.multi_device import tables as multi_device  # noqa: E402
from benchmarks.networks import tables as networks  # noqa: E402
from benchmarks.tpu import tables as tpu  # noqa: E402

# By name: the measurement, and the function that makes a table or a sentence of its rows.
TABLES: dict[str, tuple[str, Callable[[list[results.Row]], str]]] = {
    "cpu_headline": ("cpu_operators", cpu.headline),
    "cpu_kinds": ("cpu_operators", cpu.kinds),
    "cpu_summary": ("cpu_operators", cpu.summary),
    "cpu_operators": ("cpu_operators", cpu.operators),
    "cpu_memory_headline": ("cpu_memory", cpu.memory_headline),
    "cpu_memory": ("cpu_memory", cpu.memory),
    "cpu_cliffs": ("cpu_cliffs", cpu.cliffs),
    "cpu_temporaries": ("cpu_temporaries", cpu.temporaries),
    "accuracy": ("accuracy", cpu.accuracy),
    "peer_tests": ("peer_tests", cpu.peer_tests),
    "gpu_headline": ("gpu_operators", gpu.headline),
    "gpu_summary": ("gpu_operators", gpu.summary),
    "gpu_operators": ("gpu_operators", gpu.operators),
    "gpu_static": ("gpu_static", gpu.static),
    "tpu_static": ("tpu_static", tpu.static),
    "tpu_programs": ("tpu_programs", tpu.programs),
    "networks": ("networks", networks.networks),
    "networks_summary": ("networks", networks.summary),
    "networks_costs": ("networks", networks.costs),
    "accelerate": ("accelerate", networks.accelerate),
    "recipes": ("recipes", networks.recipes),
    "collectives": ("collectives", multi_device.collectives),
    "sharded_times": ("sharded_times", multi_device.sharded_times),
    "scaling_static": ("scaling_static", multi_device.scaling),
}
SOURCE = "_source"  # NAME_source: the command, date, machine and versions of a measurement

_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sources.committed()]


def text_of(name: str) -> str:
    """The table or sentence of that name."""
    if name.endswith(SOURCE):
        return _read(name.removesuffix(SOURCE)).source
    if name not in TABLES:
        raise ValueError(f"there is no table {name!r}; docs/tables.py has {', '.join(TABLES)}")
    measurement, make = TABLES[name]
    return make(_read(measurement).rows)


def _read(measurement: str) -> results.Report:
    return results.read(results.FOLDER / f"{measurement}.json")


def filled(page: str) -> str:
    """The page with every table written anew."""
    return _PLACE.sub(lambda place: f"{place[1]}\n{text_of(place[2])}\n\n{place[3]}", page)


def names(page: str) -> list[str]:
    """The tables that a page shows."""
    return [place[2] for place in _PLACE.finditer(page)]


def main() -> None:
    for path in pages():
        page = path.read_text()
        if (new := filled(page)) != page:
            path.write_text(new)
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
