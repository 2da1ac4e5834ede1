"""Compiles the depthwise workloads for TPUs that are not there, and reads what was compiled.

    pip install libtpu
    python -m benchmarks.tpu.static                           v5e and v6e, as a markdown table
    python -m benchmarks.tpu.static --generations v4 v5p v7x --only "3x3 8x56" --json table.json

All figures are static: properties of compiled programs, none of them a time.

    moved        bytes between HBM and VMEM over the least there can be: operands and result once,
                 as the compiled program lays them out. Our kernels' are counted from the grid, the
                 index maps and the blocks, with all that XLA adds around them; lax's are XLA's own
                 count, in which accesses to VMEM are too.
    temporaries  HBM that the program allocates beside operands and result, over these
    bundles      instruction words for each 8x128 register of the result (in an input gradient, of
                 the cotangent), every loop counted; in parentheses over what the vector unit needs
                 for the multiplications and additions alone
    vector       the share of the vector unit's slots that are filled
    spills       instructions that save or restore registers
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

TOPOLOGIES = {
    "v4": ("v4:2x2x1", "TPU v4"),
    "v5e": ("v5e:2x2", "TPU v5 lite"),
    "v5p": ("v5p:2x2x1", "TPU v5"),
    "v6e": ("v6e:2x2", "TPU v6 lite"),
    "v7x": ("tpu7x:2x2x1", "TPU7x"),
}
OPERATORS = ("conv", "input_grad", "filter_grad")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generations", nargs="+", default=["v5e", "v6e"], choices=TOPOLOGIES)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--operators", nargs="+", default=OPERATORS, choices=OPERATORS)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of workloads' names")
    parser.add_argument("--ours", action="store_true", help="leave lax out, which takes minutes")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    args = parser.parse_args()
    if importlib.util.find_spec("libtpu") is None:
        print("This needs the TPU compiler, which `pip install libtpu` installs; no TPU is needed.")
        return
    # Of lax nothing is dumped, since 31x31 alone makes gigabytes: another process compiles it.
    prepare()
    other = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with tempfile.TemporaryDirectory() as dump, other:
        other.submit(os.getpid).result()
        os.environ["LIBTPU_INIT_ARGS"] = (
            f"--xla_jf_dump_to={dump} --xla_jf_dump_llo_text=true "
            "--xla_jf_dump_llo_static_gaps=true"
        )
        # Only now: jax and libtpu read the environment when they are loaded.
        from benchmarks.tpu import program

        rows = []
        for case in program.cases(args):
            print(*case.words, file=sys.stderr)
            topology = TOPOLOGIES[case.generation]
            lax = None if args.ours else other.submit(program.measure_lax, case, topology)
            ours = program.measure(case, topology, Path(dump))
            names = ("generation", "dtype", "workload", "operator")
            row = dict(zip(names, case.words, strict=True))
            rows.append(row | {"ours": ours, "lax": lax and lax.result()})
        report = {"versions": program.versions(), "rows": rows}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    print(markdown(report))


def prepare() -> None:
    """What jax and libtpu must find in the environment before they are loaded."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no TPU to ask about
    os.environ.update(TPU_WORKER_HOSTNAMES="localhost", TPU_WORKER_ID="0")
    os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-4"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"


def markdown(report: dict[str, Any]) -> str:
    """A row for each program, then one for each generation, dtype and operator."""
    header = ["TPU", "dtype", "workload", "operator", "moved", "lax moved"]
    header += ["temporaries", "lax temporaries", "bundles (÷ floor)", "vector", "spills"]
    lines = [_line(header), _line(["---"] * len(header))]
    lines += [_line(_cells(row)) for row in report["rows"]]
    facts = ", ".join(f"{key} {value}" for key, value in report["versions"].items())
    lines += ["", *summary(report["rows"]), ""]
    return "\n".join([*lines, f"Static figures of compiled programs, not times. {facts}."])


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """The worst of all workloads, and the bundles over the vector unit's floor: of the first, and
    the least and the most of any."""
    header = ["TPU", "dtype", "operator", "workloads", "moved, at most", "temporaries, at most"]
    header += [f"bundles ÷ floor, {rows[0]['workload']}", "of any", "spills"]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if "refused" not in row["ours"]:
            name = (row["generation"], row["dtype"], row["operator"])
            groups.setdefault(name, []).append(row["ours"])
    lines = [_line(header), _line(["---"] * len(header))]
    for name, ours in groups.items():
        ratios = [one["bundles"] / one["vector_floor"] for one in ours]
        worst = [f"{max(one[key] for one in ours):.2f}" for key in ("moved", "temporaries")]
        counts = [f"{ratios[0]:.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]
        spills = str(sum(one["spills"] for one in ours))
        lines.append(_line([*name, str(len(ours)), *worst, *counts, spills]))
    return lines


def _cells(row: dict[str, Any]) -> list[str]:
    names = [row[name] for name in ("generation", "dtype", "workload", "operator")]
    ours, lax = row["ours"], row["lax"]
    theirs = [f"{lax[name]:.2f}" if lax else "" for name in ("moved", "temporaries")]
    if "refused" in ours:
        return [*names, ours["refused"], theirs[0], "", theirs[1], "", "", ""]
    ratio = ours["bundles"] / ours["vector_floor"]
    return [
        *names,
        f"{ours['moved']:.2f}",
        theirs[0],
        f"{ours['temporaries']:.2f}",
        theirs[1],
        f"{ours['bundles']:.1f} ({ratio:.2f})",
        f"{ours['vector']:.0%}",
        str(ours["spills"]),
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
