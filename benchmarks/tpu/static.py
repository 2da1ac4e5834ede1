"""Compiles the depthwise workloads for TPUs, without needing one, and reads the programs.

    pip install libtpu
    python -m benchmarks.tpu.static                           v5e and v6e
    python -m benchmarks.tpu.static --generations v4 v5p v7x --only "3x3 8x56"
    python -m benchmarks.tpu.static --without-lax --json benchmarks/results/tpu_static.json

All figures are static: properties of compiled programs, not times.

    moved        bytes between HBM and VMEM, over the minimum: operands and result once, as the
                 compiled program lays them out. jaxconv's are counted from the kernel's grid, index
                 maps and block shapes, and from the XLA operations around it; lax's are XLA's own
                 count, which includes accesses to VMEM.
    temporaries  HBM allocated in addition to operands and result, over these
    bundles      instruction words per 8x128 register of the result (in an input gradient, of the
                 cotangent), with all iterations of every loop; in parentheses, over the floor: what
                 the vector unit needs for the multiplications and additions alone
    vector       the share of the vector unit's slots that are filled
    spills       instructions that save or restore registers

``--json`` writes the summary of all workloads, ``--programs`` the row of every program.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.common import arguments
from benchmarks.tpu.targets import TOPOLOGIES, prepare


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--generations", nargs="+", default=["v5e", "v6e"], choices=TOPOLOGIES)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    arguments.add_operators(parser)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of workloads' names")
    parser.add_argument(
        "--without-lax", action="store_true", help="do not compile lax, which takes minutes"
    )
    parser.add_argument("--json", type=Path, help="also write the summary to this file")
    parser.add_argument("--programs", type=Path, help="also write every program's row to this file")
    args = parser.parse_args()
    if importlib.util.find_spec("libtpu") is None:
        print("This needs the TPU compiler but no TPU: `pip install libtpu`.")
        return
    # Another process compiles lax without dumping: 31x31 alone would write gigabytes.
    prepare()
    other = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with tempfile.TemporaryDirectory() as dump, other:
        other.submit(os.getpid).result()
        os.environ["LIBTPU_INIT_ARGS"] = (
            f"--xla_jf_dump_to={dump} --xla_jf_dump_llo_text=true "
            "--xla_jf_dump_llo_static_gaps=true"
        )
        # Imported only now: jax and libtpu read the environment when they are loaded.
        from benchmarks.common import machine, results
        from benchmarks.tpu import program, tables

        rows = []
        for case in program.cases(args):
            print(*case.words, file=sys.stderr)
            topology = TOPOLOGIES[case.generation]
            lax = None if args.without_lax else other.submit(program.measure_lax, case, topology)
            ours = program.measure(case, topology, Path(dump))
            names = ("generation", "dtype", "workload", "operator")
            row = dict(zip(names, case.words, strict=True))
            rows.append(row | {"jaxconv": ours, "lax": lax and lax.result()})
    versions = machine.versions("jax", "libtpu")
    summary = results.report(tables.summarize_programs(rows), {}, versions)
    if args.json:
        results.write(args.json, summary)
    if args.programs:
        results.write(args.programs, results.report(rows, {}, versions))
    print(tables.programs(rows), tables.static(summary.rows), summary.source, sep="\n\n")


if __name__ == "__main__":
    main()
