"""Cost grows with the work alone: time an output over batches 1 … 64 and extents 14² … 224².

    python -m benchmarks.cpu.scaling

Depthwise and dense 3×3, every operator, as networks run them: one after the other in a program,
each on the result of the one before, whose memory is that of the one before that. A row's times an
output lie within 1.5 of each other from 1 MFLOP on; below that dispatch counts, and such sizes are
shown but not compared. Exits with 1 where a row's do not. Copies in a row stand beside them, which
grow with the level of memory that holds their arrays, and calls of single copies and convolutions,
which wait for Python and for fresh pages.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks.common import peers, roofline
from benchmarks.common.timing import interleaved, median_ms
from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.primitives import rules

MOST = 1.5
LEAST_FLOPS = 1e6
LENGTH = 64  # convolutions, or pairs of one and its gradient, in a program

BATCHES = (1, 2, 4, 8, 16, 32, 64)
EXTENTS = (14, 28, 56, 112, 224)
KINDS = {"depthwise": (64, 64), "dense": (32, 1)}  # features, groups


def same_3x3(kind: str, batch: int, extent: int) -> ConvSpec:
    features, groups = KINDS[kind]
    sides = ((1, 1), (1, 1))
    return ConvSpec(
        batch, features, features, (extent, extent), (3, 3), (1, 1), sides, (1, 1), groups
    )


def sweeps(kind: str) -> dict[str, dict[str, ConvSpec]]:
    return {
        "batch": {f"{n}×28²": same_3x3(kind, n, 28) for n in BATCHES},
        "extent": {f"4×{n}²": same_3x3(kind, 4, n) for n in EXTENTS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.2, help="spent on each size")
    parser.add_argument("--only", default="", help="of depthwise and dense, one")
    args = parser.parse_args()
    failed = False
    for kind in KINDS:
        if args.only in kind:
            for name, specs in sweeps(kind).items():
                print(f"\n| {kind} {name} | {' | '.join(specs)} | spread |")
                print(f"|{' --- |' * (len(specs) + 2)}")
                copies = {n: copy(spec) for n, spec in specs.items()}
                row("copy, a call", specs, copies, args.seconds)
                for operator in Operator:
                    calls = {n: call(operator, spec) for n, spec in specs.items()}
                    row(f"{operator.value}, a call", specs, calls, args.seconds)
                row(
                    "copy",
                    specs,
                    {n: copies_of(spec) for n, spec in specs.items()},
                    args.seconds,
                    LENGTH,
                )
                for label, program in PROGRAMS.items():
                    programs = {n: program(spec) for n, spec in specs.items()}
                    spread = row(label, specs, programs, args.seconds, LENGTH)
                    failed = failed or spread > MOST
    raise SystemExit(failed)


def copy(spec: ConvSpec) -> Callable[[], object]:
    return roofline.copy_of(roofline.footprint(Operator.CONV, spec))


def copies_of(spec: ConvSpec) -> Callable[[], object]:
    """Passes from one array of the row's size into another, and back."""
    x = jnp.ones(spec.output_shape, jnp.float32)

    def there_and_back(_, x):
        # XLA computes the first in a loop of its own, and the way back is a copy.
        there = jax.lax.optimization_barrier(x[::-1] + 1)
        return there[::-1]

    def run(x):
        return jax.lax.fori_loop(0, LENGTH // 2, there_and_back, x)

    return compiled(run, x)


def call(operator: Operator, spec: ConvSpec) -> Callable[[], object]:
    return peers.jaxconv(operator, spec, *peers.operands(operator, spec))[0]


def chain(operator: Operator, spec: ConvSpec) -> Callable[[], object]:
    """The operator on its own result."""
    bind = functools.partial(rules.bind, operator, spec=spec, dtype=jnp.float32)

    def run(a, b):
        for _ in range(LENGTH):
            a = bind(a, b)
        return a

    return compiled(run, *peers.operands(operator, spec))


def steps(spec: ConvSpec) -> Callable[[], object]:
    """A convolution and its filter gradient, for whose sum with the kernel the next one waits."""
    bind = functools.partial(rules.bind, spec=spec, dtype=jnp.float32)

    def run(x, kernel):
        for _ in range(LENGTH):
            g = bind(Operator.CONV, x, kernel)
            kernel += 0 * bind(Operator.FILTER_GRAD, x, g)
        return kernel

    return compiled(run, *peers.operands(Operator.CONV, spec))


def compiled(run: Callable, *operands) -> Callable[[], object]:
    operands = jax.device_put(operands)
    program = jax.jit(run).lower(*operands).compile()
    return lambda: jax.block_until_ready(program(*operands))


PROGRAMS = {
    "conv": functools.partial(chain, Operator.CONV),
    "input_grad": functools.partial(chain, Operator.INPUT_GRAD),
    "conv and filter_grad": steps,
}


def row(
    name: str, specs: dict[str, ConvSpec], calls: dict, seconds: float, length: int = 1
) -> float:
    """Prints a row of calls of so many convolutions, and returns how far their times lie apart."""
    times = {n: time / length for n, time in nanoseconds(specs, calls, seconds).items()}
    spread = spread_of(specs, times)
    cells = " | ".join(f"{time:.3g}" for time in times.values())
    print(f"| {name}, ns an output | {cells} | {spread:.2f} |", flush=True)
    return spread


def nanoseconds(specs: dict[str, ConvSpec], calls: dict, seconds: float) -> dict[str, float]:
    """Median time of each call, an output of the forward convolution."""
    for warm in calls.values():
        warm()
    samples = interleaved(calls, seconds)
    return {
        name: 1e6 * median_ms(samples[name]) / math.prod(spec.output_shape)
        for name, spec in specs.items()
    }


def spread_of(specs: dict[str, ConvSpec], times: dict[str, float]) -> float:
    large = [times[name] for name, spec in specs.items() if 2 * spec.macs >= LEAST_FLOPS]
    return max(large) / min(large)


if __name__ == "__main__":
    main()
