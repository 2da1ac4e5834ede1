"""What the scripts write is what the tables read."""

import doctest

import numpy as np

from benchmarks.common import peers, results, tables
from benchmarks.common.workloads import WORKLOADS
from benchmarks.cpu import causal, run, temporaries
from benchmarks.cpu import tables as cpu
from benchmarks.gpu import tables as gpu
from benchmarks.tpu import tables as tpu
from jaxconv._src.geometry.spec import Operator

(WORKLOAD,) = [workload for workload in WORKLOADS if "1x112x112x32" in workload.name]


def committed(name: str) -> list[results.Row]:
    return results.read(results.FOLDER / f"{name}.json").rows


def test_reports_are_read_as_they_were_written(tmp_path):
    rows = [{"workload": "3>4 ×", "milliseconds": {"lax": 0.123456789, "jaxconv": 12590.7}}]
    report = results.report(rows, {"threads": "2"}, {"jax": "0.10"})
    results.write(tmp_path / "report.json", report)
    read = results.read(tmp_path / "report.json")
    assert read.rows[0]["milliseconds"] == {"lax": 0.123457, "jaxconv": 12590.7}
    assert (read.command, read.date, read.source) == (report.command, report.date, report.source)
    assert read.source.endswith("(threads 2; jax 0.10).")


def test_cells():
    found = doctest.testmod(tables, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0


def test_rows_of_operators():
    timed = {"lax": peers.lax, "jaxconv": peers.jaxconv}
    row = run.measure(WORKLOAD, Operator.CONV, timed, 1e-3, {"fma": 100.0})
    assert row.keys() == committed("cpu_operators")[0].keys()
    assert row["milliseconds"].keys() == {"copy", "lax", "jaxconv"}
    assert row["speedup"] == {"lax": row["milliseconds"]["lax"] / row["milliseconds"]["jaxconv"]}
    for table in (cpu.operators([row]), cpu.summary([row])):
        assert table.count("\n") == 2
        assert tables.number(row["speedup"]["lax"]) in table


def test_rows_of_temporaries():
    row = temporaries.measure(WORKLOAD, Operator.CONV, np.dtype(np.float32), None)
    assert row.keys() == committed("cpu_temporaries")[0].keys()
    assert f"| {row['implementation']} {row['temporaries']:.2f} |" in cpu.temporaries([row])


def test_rows_of_causal_convolutions():
    for packed, other in ((False, "lax"), (True, "taps")):
        row = causal.measure(causal.Case((1, 40, 8), 4, "float32", packed), 1e-3)
        assert {"copy", "jaxconv", other} <= row["milliseconds"].keys()
        assert other in row["speedup"]
        assert cpu.causal([row]).count("\n") == 2


def test_summaries_of_gpu_programs():
    """Registers of the worst program of each workload; other figures are sums."""

    def row(implementation, temporary_bytes, *programs):
        names = {"device": "H100", "operator": "conv", "dtype": "float32", "workload": "3x3"}
        programs = [{"registers": r, "spilled_bytes": s} for r, s in programs]
        figures = {"temporary_bytes": temporary_bytes, "programs": programs}
        return names | {"implementation": implementation} | figures

    rows = [
        row("pallas", 1_000_000, (32, 0), (40, 4)),
        row("lax", 7_000_000, (255, 99)),
        row("pallas", 2_000_000, (64, 8)),
        row("lax", 3_000_000),
    ]
    (summary,) = gpu.summarize_programs(rows)
    assert summary.keys() == committed("gpu_static")[0].keys()
    assert summary["registers"] == [40, 64]
    assert summary["spilled_bytes"] == 12
    assert summary["temporary_megabytes"] == {"jaxconv": 3.0, "lax": 10.0}
    assert "| 40 to 64 | 12 | 3.0 | 10.0 |" in gpu.static([summary])


def test_summaries_of_tpu_programs_agree_with_the_programs():
    programs = committed("tpu_programs")
    expected = [
        row
        for row in committed("tpu_static")
        if (row["generation"], row["dtype"]) == ("v5e", "bfloat16")
    ]
    assert tpu.summarize_programs(programs) == expected


def test_unsupported_tpu_programs_are_shown_and_not_summarized():
    program = committed("tpu_programs")[0]
    unsupported = program | {"jaxconv": {"unsupported": "too long"}, "lax": None}
    assert "| too long |" in tpu.programs([unsupported])
    assert tpu.summarize_programs([unsupported, program])[0]["workloads"] == 1
