"""Temporaries of every workload and operator, in multiples of the largest of its three arrays.

    python -m benchmarks.cpu.temporaries               float32, what dispatch chooses
    python -m benchmarks.cpu.temporaries --dtype bfloat16
    python -m benchmarks.cpu.temporaries --without-engine    what a machine without a compiler runs

The numbers are of the compiled programs and the same on every run. What the CPU engine allocates
for itself is not among them.
"""

from __future__ import annotations

import argparse
import math

import jax
import jax.numpy as jnp

from benchmarks.common.workloads import WORKLOADS
from jaxconv._src.dispatch.choose import choose_implementation
from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.primitives import rules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--without-engine", action="store_true")
    args = parser.parse_args()
    dtype = jnp.dtype(args.dtype)
    plain = "asked for plain XLA" if args.without_engine else None
    print("| workload |", " | ".join(operator.value for operator in Operator), "|")
    print("| --- |", " | ".join("---" for _ in Operator), "|")
    for workload in WORKLOADS:
        if args.only in workload.name:
            cells = (cell(operator, workload.spec, dtype, plain) for operator in Operator)
            print("|", workload.name, "|", " | ".join(cells), "|", flush=True)


def cell(operator: Operator, spec: ConvSpec, dtype, plain: str | None) -> str:
    choice = choose_implementation(operator, jax.default_backend(), spec, dtype, None, plain)
    kernel = choice.implementation
    return f"{kernel} {temporaries(operator, spec, dtype, kernel):.2f}"


def temporaries(operator: Operator, spec: ConvSpec, dtype, kernel: str) -> float:
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in spec.operand_shapes(operator)]

    def fn(a, b):
        return rules.bind(operator, a, b, spec, dtype=dtype, implementation=kernel)

    memory = jax.jit(fn).lower(*shapes).compile().memory_analysis()
    arrays = (spec.result_shape(operator), *spec.operand_shapes(operator))
    largest = max(math.prod(shape) for shape in arrays)
    return memory.temp_size_in_bytes / (largest * dtype.itemsize)


if __name__ == "__main__":
    main()
