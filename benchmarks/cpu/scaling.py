"""Checks that the time per output stays the same at batches 1 to 64 and extents 14 to 224.

    python -m benchmarks.cpu.scaling

Depthwise and dense 3x3, every operator, as networks run them: one after the other in a program,
each on the result of the one before. A row's times per output must lie within a factor of 1.5 of
each other from 1 MFLOP on; below that dispatch dominates, and such sizes are shown but not
compared. Exits with 1 if a row's times do not.

Rows of copies stand beside them: their times grow with the level of memory that holds their arrays.
So do rows of single calls, which also pay for Python and for fresh pages.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.common import arguments, peers, roofline
from benchmarks.common.tables import number
from benchmarks.common.timing import interleaved, median_ms
from jaxconv._src.analysis.tables import format_markdown
from jaxconv._src.geometry.spec import ConvSpec, Operator

MAX_SPREAD = 1.5
MIN_COMPARED_FLOPS = 1e6
LENGTH = 64  # convolutions, or pairs of a convolution and its gradient, per program

BATCHES = (1, 2, 4, 8, 16, 32, 64)
EXTENTS = (14, 28, 56, 112, 224)
KINDS = {"depthwise": (64, 64), "dense": (32, 1)}  # features, groups

Call = Callable[[], object]


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
    parser = arguments.parser(__doc__)
    arguments.add_seconds(parser, 0.2, "size")
    parser.add_argument("--only", choices=KINDS, help="one kind of convolution alone")
    args = parser.parse_args()
    kinds = KINDS if args.only is None else [args.only]
    failed = False
    for kind in kinds:
        for name, specs in sweeps(kind).items():
            rows = [time_row(*row, specs, args.seconds) for row in programs(specs)]
            print(f"\n{table(kind, name, specs, rows)}", flush=True)
            chains = [row for row in rows if row.name in CHAINS]
            failed = failed or any(row.spread > MAX_SPREAD for row in chains)
    raise SystemExit(failed)


class Timed(NamedTuple):
    """Nanoseconds per output of the forward convolution, for each size."""

    name: str
    nanoseconds: dict[str, float]
    spread: float


def programs(specs: dict[str, ConvSpec]) -> Iterator[tuple[str, dict[str, Call], int]]:
    """The rows of a table: a name, what is called for each size, and its number of convolutions."""
    yield "copy, one call", {n: copy(spec) for n, spec in specs.items()}, 1
    for operator in Operator:
        name = f"{operator.value}, one call"
        yield name, {n: single(operator, spec) for n, spec in specs.items()}, 1
    yield "copy", {n: copies(spec) for n, spec in specs.items()}, LENGTH
    for name, chain in CHAINS.items():
        yield name, {n: chain(spec) for n, spec in specs.items()}, LENGTH


def time_row(
    name: str, calls: dict[str, Call], length: int, specs: dict[str, ConvSpec], seconds: float
) -> Timed:
    for call in calls.values():
        call()
    samples = interleaved(calls, seconds)
    nanoseconds = {
        size: 1e6 * median_ms(samples[size]) / length / math.prod(spec.output_shape)
        for size, spec in specs.items()
    }
    compared = [nanoseconds[n] for n, spec in specs.items() if 2 * spec.macs >= MIN_COMPARED_FLOPS]
    return Timed(name, nanoseconds, max(compared) / min(compared))


def table(kind: str, name: str, specs: dict[str, ConvSpec], rows: list[Timed]) -> str:
    header = [f"{kind} {name}, ns per output", *specs, "spread"]
    cells = [
        [row.name, *map(number, row.nanoseconds.values()), f"{row.spread:.2f}"] for row in rows
    ]
    return format_markdown(header, cells)


def copy(spec: ConvSpec) -> Call:
    return roofline.copy_of(roofline.footprint(Operator.CONV, spec))


def copies(spec: ConvSpec) -> Call:
    """Copies an array of the row's size into another, and back."""
    x = jnp.ones(spec.output_shape, jnp.float32)

    def there_and_back(_, x):
        # XLA computes the first in a loop of its own; the second is a plain copy.
        there = jax.lax.optimization_barrier(x[::-1] + 1)
        return there[::-1]

    def run(x):
        return jax.lax.fori_loop(0, LENGTH // 2, there_and_back, x)

    return compiled(run, x)


def single(operator: Operator, spec: ConvSpec) -> Call:
    return peers.jaxconv(operator, spec, *peers.operands(operator, spec))[0]


def chain(operator: Operator, spec: ConvSpec) -> Call:
    """The operator, again and again on its own result."""
    convolve = peers.primitive(operator, spec, jnp.float32)

    def run(a, b):
        for _ in range(LENGTH):
            a = convolve(a, b)
        return a

    return compiled(run, *peers.operands(operator, spec))


def steps(spec: ConvSpec) -> Call:
    """Convolutions and their filter gradients; each kernel depends on the gradient before it."""
    convolve = peers.primitive(Operator.CONV, spec, jnp.float32)
    filter_grad = peers.primitive(Operator.FILTER_GRAD, spec, jnp.float32)

    def run(x, kernel):
        for _ in range(LENGTH):
            kernel += 0 * filter_grad(x, convolve(x, kernel))
        return kernel

    return compiled(run, *peers.operands(Operator.CONV, spec))


def compiled(run: Callable, *operands) -> Call:
    operands = jax.device_put(operands)
    program = peers.compiled(run, *operands)
    return lambda: jax.block_until_ready(program(*operands))


CHAINS = {
    "conv": functools.partial(chain, Operator.CONV),
    "input_grad": functools.partial(chain, Operator.INPUT_GRAD),
    "conv and filter_grad": steps,
}


if __name__ == "__main__":
    main()
