"""Times training steps and inference of whole networks.

    python -m benchmarks.networks.run                          all networks, training and inference
    python -m benchmarks.networks.run --only MobileNet --without flax
    python -m benchmarks.networks.run --compile --json benchmarks/results/networks.json

All peers (see ``benchmarks/networks/peers.py``) compute the same network with the same weights.
Outputs, or the losses of two steps, are checked against the first peer's before anything is timed,
in alternating blocks in one process. A training step is forward, backward and plain gradient
descent on the mean square of the outputs. A speedup is the peer's median time divided by that of
``optimized`` if it is available, else of ``fused``, else of ``jaxconv``.
``benchmarks/networks/costs.py`` measures first call, compilation and memory, in one process per
peer.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

from benchmarks.common import arguments, results
from benchmarks.common.machine import machine, versions
from benchmarks.common.timing import interleaved, median_ms
from benchmarks.networks import costs, peers, tables
from benchmarks.networks.cases import CASES, NETWORKS, Case
from benchmarks.networks.peers import PEERS

TOLERANCE = 2e-3  # relative to the largest output or the first loss: float32 through 80 layers
PACKAGES = ("jax", "flax", "torch", "onnxruntime", "openvino")


def main() -> None:
    parser = arguments.parser(__doc__)
    arguments.add_only(parser, "networks")
    parser.add_argument(
        "--modes", nargs="+", choices=PEERS, default=list(PEERS), help="what to time"
    )
    parser.add_argument(
        "--without", nargs="*", choices=peers.NAMES, default=[], help="peers to leave out"
    )
    parser.add_argument(
        "--compile", action="store_true", help="with torch.compile, which needs a C++ compiler"
    )
    parser.add_argument(
        "--costs",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="first call, compilation and memory, in a process per peer",
    )
    arguments.add_seconds(parser, 2.0, "peer of a row")
    arguments.add_json(parser)
    args = parser.parse_args()
    left_out = {*args.without, *([] if args.compile else ["torch_compile"])}
    names = [name for name in peers.NAMES if name not in left_out and peers.available(name)]
    rows = []
    for case in CASES:
        for mode in args.modes:
            if args.only in case.name and mode in case.modes:
                print(f"{case.name} {mode}", file=sys.stderr)
                row = measure(case, mode, names, args.seconds)
                rows.append(row | (costs_of(case, mode, row) if args.costs else {}))
                if args.json:  # after every row, since all of them take an hour
                    results.write(args.json, report_of(rows))
    made = (tables.networks(rows), tables.summary(rows), tables.costs(rows))
    print(*made, report_of(rows).source, sep="\n\n")


def report_of(rows: list[results.Row]) -> results.Report:
    return results.report(rows, machine(), versions(*PACKAGES))


def measure(case: Case, mode: str, names: list[str], seconds: float) -> dict[str, Any]:
    """One row: all peers, checked, then timed."""
    calls, reference = {}, None
    for name, peer in PEERS[mode].items():
        if name not in names:
            continue
        program = peer(case)()
        result = _result(program, mode)
        reference = result if reference is None else reference
        error = np.abs(result - reference).max() / np.abs(reference).max()
        if result.shape != reference.shape or not error <= TOLERANCE:
            raise SystemExit(f"{case.name} {mode} {name}: differs by {error:.3g}")
        calls[name] = program.call
    times = {name: median_ms(times) for name, times in interleaved(calls, seconds).items()}
    kind = tables.WHOLE if case in NETWORKS else tables.PARTS
    row = {"network": case.name, "kind": kind, "mode": mode, "milliseconds": times}
    ours = tables.ours(row)
    speedup = {name: times[name] / times[ours] for name in times if ours and name != ours}
    return row | {"speedup": speedup}


def _result(program: peers.Program, mode: str) -> np.ndarray:
    """The outputs, or the losses of two steps."""
    if mode == "inference":
        return program.read(program.call())
    return np.array([float(program.call()), float(program.call())])


def costs_of(case: Case, mode: str, row: dict[str, Any]) -> dict[str, Any]:
    """By figure and peer, for the peers that the row has timed, except plain Flax's layers."""
    timed = [name for name in row["milliseconds"] if name not in tables.FLAX]
    found = {name: costs.in_new_process(case.name, mode, name) for name in timed}
    return {
        figure: {name: measured[figure] for name, measured in found.items()}
        for figure in tables.COSTS
    }


if __name__ == "__main__":
    main()
