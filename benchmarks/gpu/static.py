"""Compiles the depthwise workloads for GPUs, without needing one, and reads the programs.

    python -m benchmarks.gpu.static                          H100 and A100, bfloat16
    python -m benchmarks.gpu.static --devices H100 --dtypes float32 --only 7x7
    python -m benchmarks.gpu.static --json benchmarks/results/gpu_static.json

Prints registers per thread, spilled bytes, shared memory and bytes per load of every GPU program,
and XLA's temporaries, for jaxconv's kernels and for lax. Then a summary, which ``--json`` writes.
These figures are static: good for comparing programs, but not times. cuDNN's own programs and
workspaces are chosen on the device, so only their names appear here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

INSTALL = 'This needs NVIDIA\'s compiler but no GPU: pip install "jax[cuda13]", about 4.5 GB.'
DUMP = Path(tempfile.mkdtemp(prefix="jaxconv-static-gpu-"))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAXCONV_TUNING"] = "off"
flags = f"--xla_dump_to={DUMP} --xla_gpu_dump_llvmir --xla_dump_emitter_re=^ptx"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import AbstractDevice, AbstractMesh  # noqa: E402

from benchmarks.common import arguments, peers, results  # noqa: E402
from benchmarks.common.machine import versions  # noqa: E402
from benchmarks.common.workloads import DEPTHWISE  # noqa: E402
from benchmarks.gpu import tables  # noqa: E402
from benchmarks.gpu.targets import TARGETS, describe  # noqa: E402
from jaxconv._src.geometry.spec import Operator  # noqa: E402


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--devices", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"])
    arguments.add_only(parser)
    arguments.add_operators(parser)
    arguments.add_json(parser)
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
                    for dtype in args.dtypes:
                        case = (operator, workload.spec, np.dtype(dtype))
                        names = {"device": device, "workload": workload.name}
                        names |= {"operator": operator.value, "dtype": dtype}
                        for name in ("pallas", "lax"):
                            figures = measure(device, name, case)
                            rows.append(names | {"implementation": name} | figures)
                        print(f"{device} {workload.name} {operator.value}", file=sys.stderr)
    report = results.report(tables.summarize_programs(rows), {}, versions("jax"))
    if args.json:
        results.write(args.json, report)
    print(tables.programs(rows), tables.static(report.rows), report.source, sep="\n\n")


def find_assembler() -> str | None:
    """ptxas of the CUDA wheels, or else of the machine."""
    found = importlib.util.find_spec("nvidia")
    folders = found.submodule_search_locations or [] if found else []
    wheels = [path for folder in folders for path in Path(folder).glob("*/bin/ptxas")]
    return str(wheels[0]) if wheels else shutil.which("ptxas")


def measure(device: str, implementation: str, case) -> dict[str, Any]:
    """One compiled function: its temporaries, its GPU programs, and its library calls."""
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


def compile_for(device: str, implementation: str, operator: Operator, spec, dtype) -> Any:
    kind, _, cores, *_ = TARGETS[device]
    topology = describe(device)
    place = jax.sharding.SingleDeviceSharding(topology.devices[0])
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=place)
        for shape in spec.operand_shapes(operator)
    ]
    fn = peers.primitive(operator, spec, dtype, implementation)
    abstract = AbstractMesh((), (), abstract_device=AbstractDevice(kind, cores, "gpu"))
    with jax.sharding.use_abstract_mesh(abstract):
        return peers.compiled(fn, *shapes)


def assembled(path: Path, architecture: str) -> list[dict[str, Any]]:
    """What ptxas reports of each program: registers per thread, spilled and shared bytes."""
    command = [find_assembler(), "-v", f"-arch={architecture}", str(path), "-o", os.devnull]
    messages = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    programs = []
    for message in messages.split("Compiling entry function ")[1:]:
        programs.append(
            {
                "name": message.split("'")[1],
                "registers": total(r"Used (\d+) registers", message),
                "spilled_bytes": total(r"(\d+) bytes spill (?:stores|loads)", message),
                "shared_bytes": total(r"(\d+) bytes smem", message),
                "loads": loads(path.read_text(), message.split("'")[1]),
            }
        )
    return programs


def total(pattern: str, text: str) -> int:
    return sum(map(int, re.findall(pattern, text)))


def loads(text: str, name: str) -> dict[str, int]:
    """The number of loads from global memory in a program, by bytes per thread."""
    body = re.split(r"^\.visible \.entry ", text, flags=re.M)
    (program,) = [part for part in body if part.startswith(f"{name}(")]
    counts: dict[str, int] = {}
    for vector, bits in re.findall(r"ld\.global\S*?(?:\.v(\d))?\.[bfus](\d+)\s", program):
        size = str(int(vector or 1) * int(bits) // 8)
        counts[size] = counts.get(size, 0) + 1
    return counts


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(DUMP)
