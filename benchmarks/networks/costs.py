"""Measures the first call, the compilation and the memory of one network in one library.

    python -m benchmarks.networks.costs "MobileNetV2 8x224x224x3" inference torch

``first_call_s`` is the time until the first result, with parameters and input in memory: tracing,
compiling and running. ``compile_s`` is the part before the first run. ``peak_mib`` is the growth of
the process's resident memory from before the compilation to the maximum during two later calls, so
that it contains the compiled program, packed weights, buffers that the library keeps, the
temporaries and the result. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time

from benchmarks.cpu.memory import reset_peak, resident
from benchmarks.networks.cases import CASES
from benchmarks.networks.peers import NAMES, PEERS

Costs = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("case", choices=[case.name for case in CASES])
    parser.add_argument("mode", choices=PEERS)
    parser.add_argument("peer", choices=NAMES)
    args = parser.parse_args()
    print(json.dumps(measure(args.case, args.mode, args.peer)))


def in_new_process(case: str, mode: str, peer: str) -> Costs:
    """The costs in a process of its own, which has loaded nothing else."""
    command = [sys.executable, "-m", "benchmarks.networks.costs", case, mode, peer]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(case: str, mode: str, peer: str) -> Costs:
    (found,) = (each for each in CASES if each.name == case)
    build = PEERS[mode][peer](found)
    before = _reset()
    start = time.perf_counter()
    program = build()
    built = time.perf_counter()
    program.call()
    end = time.perf_counter()
    _reset()
    for _ in range(2):
        program.call()
    peak = max(0, resident("VmHWM") - before)
    return {"first_call_s": end - start, "compile_s": built - start, "peak_mib": peak / 2**20}


def _reset() -> int:
    """Returns unused memory to the system and resets the peak; the resident memory in bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return reset_peak()


if __name__ == "__main__":
    main()
