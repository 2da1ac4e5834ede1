"""Compiles the depthwise workloads for GPUs that need not be there, and reads what was compiled.

    python -m benchmarks.gpu.static                          H100 and A100, bfloat16
    python -m benchmarks.gpu.static --devices H100 --dtype float32 --only 7x7 --json table.json

Registers a thread, spilled bytes, shared memory and bytes a load of every GPU program, and the
temporaries that XLA allocates, of our kernels and of lax's convolution. These are static figures,
good for comparing programs; they are not times. cuDNN's own programs and workspaces are chosen on
the device, so that only their names stand here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

INSTALL = 'This needs NVIDIA\'s compiler, but no GPU: pip install "jax[cuda13]", about 4.5 GB.'
DUMP = Path(tempfile.mkdtemp(prefix="jaxconv-static-gpu-"))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAXCONV_TUNING"] = "off"
flags = f"--xla_dump_to={DUMP} --xla_gpu_dump_llvmir --xla_dump_emitter_re=^ptx"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import AbstractDevice, AbstractMesh  # noqa: E402

from benchmarks.common.workloads import DEPTHWISE
from benchmarks.gpu.targets import TARGETS, describe
from jaxconv._src.geometry.spec import Operator
from jaxconv._src.primitives import rules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"])
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--operators", nargs="+", default=[operator.value for operator in Operator])
    parser.add_argument("--json", type=Path, help="where to write all rows")
    args = parser.parse_args()
    assembler = find_assembler()
    if assembler is None or importlib.util.find_spec("jax_cuda13_plugin") is None:
        print(INSTALL)
        return
    rows = []
    for device in args.devices:
        for workload in DEPTHWISE:
            if args.only in workload.name:
                for operator in map(Operator, args.operators):
                    for dtype in args.dtype:
                        case = (operator, workload.spec, np.dtype(dtype))
                        found = {"device": device, "workload": workload.name}
                        found |= {"operator": operator.value, "dtype": dtype}
                        for name in ("pallas", "lax"):
                            rows.append(found | {"kernel": name} | measure(device, name, case))
                        print(f"{device} {workload.name} {operator.value}", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps({"static": True, "jax": jax.__version__, "rows": rows}))
    print(markdown(rows))
    print(f"\nStatic figures of compiled programs, not times. jax {jax.__version__}.")


def find_assembler() -> str | None:
    """ptxas of the CUDA wheels, else of the machine."""
    found = importlib.util.find_spec("nvidia")
    folders = found.submodule_search_locations or [] if found else []
    wheels = [path for folder in folders for path in Path(folder).glob("*/bin/ptxas")]
    return str(wheels[0]) if wheels else shutil.which("ptxas")


def measure(device: str, implementation: str, case) -> dict[str, Any]:
    """One program: its temporaries, its GPU programs, and which library calls it makes."""
    for path in DUMP.glob("*"):
        path.unlink()
    compiled = compile_for(device, implementation, *case)
    programs = [one for path in DUMP.glob("*.ptx") for one in assembled(path, TARGETS[device][1])]
    text = compiled.as_text()
    return {
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "programs": programs,
        "calls": sorted(set(re.findall(r'custom_call_target="([^"]+)"', text))),
    }


def compile_for(device: str, implementation: str, operator: Operator, spec, dtype):
    kind, _, cores, *_ = TARGETS[device]
    topology = describe(device)
    place = jax.sharding.SingleDeviceSharding(topology.devices[0])
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=place)
        for shape in spec.operand_shapes(operator)
    ]

    def fn(a, b):
        return rules.bind(operator, a, b, spec, dtype=dtype, implementation=implementation)

    abstract = AbstractMesh((), (), abstract_device=AbstractDevice(kind, cores, "gpu"))
    with jax.sharding.use_abstract_mesh(abstract):
        return jax.jit(fn).lower(*shapes).compile()


def assembled(path: Path, architecture: str) -> list[dict[str, Any]]:
    """What ptxas says of each program: registers a thread, spilled and shared bytes."""
    command = [find_assembler(), "-v", f"-arch={architecture}", str(path), "-o", os.devnull]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    programs = []
    for entry in said.split("Compiling entry function ")[1:]:
        spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", entry)
        shared = re.search(r"(\d+) bytes smem", entry)
        programs.append(
            {
                "name": entry.split("'")[1],
                "registers": int(re.search(r"Used (\d+) registers", entry)[1]),
                "spilled_bytes": int(spilled[1]) + int(spilled[2]),
                "shared_bytes": int(shared[1]) if shared else 0,
                "loads": loads(path.read_text(), entry.split("'")[1]),
            }
        )
    return programs


def loads(text: str, name: str) -> dict[str, int]:
    """How many loads of global memory a program has, by their bytes a thread."""
    body = re.split(r"^\.visible \.entry ", text, flags=re.M)
    (program,) = [part for part in body if part.startswith(f"{name}(")]
    counts: dict[str, int] = {}
    for vector, bits in re.findall(r"ld\.global\S*?(?:\.v(\d))?\.[bfus](\d+)\s", program):
        size = str(int(vector or 1) * int(bits) // 8)
        counts[size] = counts.get(size, 0) + 1
    return counts


def markdown(rows: list[dict[str, Any]]) -> str:
    header = ["device", "workload", "operator", "dtype", "kernel", "registers", "spilled bytes"]
    header += ["shared bytes", "temporary bytes", "bytes a load", "programs", "library calls"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        programs = row["programs"]
        most = [
            max((program[key] for program in programs), default="")
            for key in ("registers", "spilled_bytes", "shared_bytes")
        ]
        named = [row[key] for key in ("device", "workload", "operator", "dtype", "kernel")]
        calls = ", ".join(call for call in row["calls"] if "triton" not in call)
        sizes = sorted({int(size) for program in programs for size in program["loads"]})
        a_load = " ".join(map(str, sizes))
        cells = [*named, *most, row["temporary_bytes"], a_load, len(programs), calls]
        lines.append([str(cell) for cell in cells])
    return "\n".join([*map(_line, lines), "", *map(_line, summary(rows))])


def summary(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Of all workloads, for each device, operator and dtype."""
    header = ["device", "operator", "dtype", "registers a thread", "spilled bytes"]
    header += ["our temporaries, MB", "lax's, MB"]
    lines = [header, ["---"] * len(header)]
    groups: dict[tuple[str, ...], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        name = (row["device"], row["operator"], row["dtype"])
        groups.setdefault(name, {"pallas": [], "lax": []})[row["kernel"]].append(row)
    for name, by in groups.items():
        most = [max(program["registers"] for program in row["programs"]) for row in by["pallas"]]
        spilled = [program["spilled_bytes"] for row in by["pallas"] for program in row["programs"]]
        megabytes = [
            f"{sum(row['temporary_bytes'] for row in by[kernel]) / 1e6:.1f}" for kernel in by
        ]
        lines.append([*name, f"{min(most)} to {max(most)}", str(sum(spilled)), *megabytes])
    return lines


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(DUMP)
