"""Temporaries of every workload and operator, as multiples of the largest of its three arrays.

    python -m benchmarks.cpu.temporaries                     float32, with dispatch's choice
    python -m benchmarks.cpu.temporaries --dtype bfloat16
    python -m benchmarks.cpu.temporaries --without-engine    as on a machine without a compiler

The figures are properties of the compiled programs, the same in every run. They leave out what the
CPU engine itself allocates: see ``memory.py``.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common import arguments, peers, results
from benchmarks.common.machine import versions
from benchmarks.common.workloads import WORKLOADS, Workload
from benchmarks.cpu import tables
from jaxconv._src.dispatch.choose import choose_implementation
from jaxconv._src.geometry.spec import ConvSpec, Operator


def main() -> None:
    parser = arguments.parser(__doc__)
    arguments.add_only(parser)
    parser.add_argument("--dtype", default="float32", help="of operands and results")
    parser.add_argument("--without-engine", action="store_true", help="plain XLA alone")
    arguments.add_json(parser)
    args = parser.parse_args()
    plain = "--without-engine was given" if args.without_engine else None
    rows = [
        measure(workload, operator, jnp.dtype(args.dtype), plain)
        for workload in WORKLOADS
        if args.only in workload.name
        for operator in Operator
    ]
    report = results.report(rows, {}, versions("jax"))
    if args.json:
        results.write(args.json, report)
    print(tables.temporaries(rows), report.source, sep="\n\n")


def measure(workload: Workload, operator: Operator, dtype, plain: str | None) -> dict[str, Any]:
    spec = workload.spec
    platform = jax.default_backend()
    choice = choose_implementation(operator, platform, spec, dtype, None, plain)
    return {
        "workload": workload.name,
        "operator": operator.value,
        "implementation": choice.implementation,
        "temporaries": temporaries(operator, spec, dtype, choice.implementation),
    }


def temporaries(operator: Operator, spec: ConvSpec, dtype, implementation: str) -> float:
    """Bytes of XLA's temporaries over those of the largest operand or result."""
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in spec.operand_shapes(operator)]
    function = peers.primitive(operator, spec, dtype, implementation)
    memory = peers.compiled(function, *shapes).memory_analysis()
    arrays = (spec.result_shape(operator), *spec.operand_shapes(operator))
    largest = max(math.prod(shape) for shape in arrays)
    return memory.temp_size_in_bytes / (largest * dtype.itemsize)


if __name__ == "__main__":
    main()
