"""Results as data: what a script writes with ``--json`` and ``docs/tables.py`` reads.

``benchmarks/results/`` holds one file for each published measurement. A file states the command,
the date, the machine and the versions, then the rows, one per line.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import shlex
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "results"

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Report:
    """The rows of one measurement and where they come from."""

    command: str
    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    rows: list[Row]

    @property
    def source(self) -> str:
        """One sentence: command, date, machine and versions."""
        facts = [
            ", ".join(f"{name} {value}" for name, value in facts.items())
            for facts in (self.machine, self.versions)
            if facts
        ]
        return f"Produced by `{self.command}` on {self.date} ({'; '.join(facts)})."


def report(rows: list[Row], machine: dict[str, str], versions: dict[str, str]) -> Report:
    """A report of the running script, made today."""
    today = datetime.date.today().isoformat()
    return Report(_command(), today, machine, versions, rows)


def _command() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = f"-m {spec.name}" if spec else sys.argv[0]
    return shlex.join(["python", *name.split(), *sys.argv[1:]])


def write(path: Path, report: Report) -> None:
    """Writes the report, with six significant digits."""
    fields = _rounded(dataclasses.asdict(report))
    rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in fields.pop("rows"))
    head = json.dumps(fields, indent=1, ensure_ascii=False).removesuffix("\n}")
    path.write_text(f'{head},\n "rows": [\n  {rows}\n ]\n}}\n')


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def read(path: Path) -> Report:
    return Report(**json.loads(path.read_text()))
