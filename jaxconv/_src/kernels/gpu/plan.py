"""How a GPU walks a depthwise convolution: phases, taps and blocks, apart from any kernel language.

The forward convolution and the input gradient are one computation. The outputs of an axis fall into
``phases``; output ``j`` of phase ``r`` is ``r + phases * j``, and its tap ``i`` reads the input
``step * j + dilation * i + base(r)`` with the weight ``first(r) + every * i``. The forward
convolution has one phase. An input gradient has as many as strides: ``q = r + s*j`` was read by the
outputs ``o`` with ``s*o + d*t - low = q``, so by every ``s/c``-th tap from the first that fits,
where ``c = gcd(s, d)``, and from one of them to the next ``o`` falls by ``d/c``.

A program computes a tile of ``strips`` by ``features``, for each of the ``columns`` neighbouring
outputs of a strip. Features lie on neighbouring threads, so that loads are coalesced, and an input
that several outputs of a strip read is loaded once.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from ...geometry.spec import ConvSpec, Operator

# Offsets into arrays are 32-bit integers; only the first axis of a grid may be longer than GRID.
ELEMENTS = 2**31 - 1
GRID = 65535

# The bytes of a tile that one thread holds. ptxas spares registers to fit as many threads as there
# may be, and then waits for every few loads: only of tiles of one register does it issue all loads
# of a step before the first product. 3x3 s2 8x28x28x256 takes an H200 5.9 us with 16 bytes, 2.8
# with 4. A program of a filter gradient has an epilogue, which 8 bytes make shorter.
VECTOR = {Operator.CONV: 4, Operator.INPUT_GRAD: 4, Operator.FILTER_GRAD: 8}

# The threads of a program.
WARPS = 4
WARP = 32

# Taps and outputs of the last axis that a program computes at once, their products, and sums of a
# filter gradient. A step waits once for its loads: 31x31 1x28x28x128 takes an H200 20 us with all
# taps of a row in a step of 4 outputs, 57 with 7 of them. Compilers take seconds for more products.
MOST_TAPS = 32
MOST_COLUMNS = 8
MOST_PRODUCTS = 128
MOST_SUMS = 9

# Programs that a filter gradient gives each multiprocessor, as long as its partial sums are at most
# this share of its operands; and how many multiprocessors devices have, others at least as many.
PROGRAMS = 4
PARTIAL_SHARE = 8
MULTIPROCESSORS = {"H100": 132, "H200": 132, "B200": 148, "": 108}


class Walk(NamedTuple):
    """One spatial axis of the computation above; ``low`` is the forward convolution's padding."""

    reads: int  # the extent of the array that is read
    writes: int  # the extent of the array that is written
    taps: int  # of the kernel
    phases: int
    every: int
    step: int
    dilation: int
    low: int

    @property
    def outputs(self) -> int:
        """Of a phase."""
        return -(-self.writes // self.phases)

    @property
    def reached(self) -> int:
        """The most taps that a phase has."""
        return -(-self.taps // self.every)


class Blocks(NamedTuple):
    """How one program's work is cut; a tile's extents and ``warps`` are powers of two."""

    strips: int
    columns: int
    features: int
    taps: int  # of the last axis, computed at once
    warps: int
    rows: int = 1  # taps of the other axes that one program of a filter gradient sums
    chunks: int = 1  # programs that share the pixels of a filter gradient


def walks(operator: Operator, spec: ConvSpec) -> list[Walk]:
    sizes = zip(
        spec.input_spatial,
        spec.output_spatial,
        spec.kernel_spatial,
        spec.strides,
        spec.dilation,
        [low for low, _ in spec.padding],
        strict=True,
    )
    if operator is Operator.INPUT_GRAD:
        return [_adjoint(*axis) for axis in sizes]
    return [Walk(n, o, k, 1, 1, s, d, low) for n, o, k, s, d, low in sizes]


def _adjoint(n: int, o: int, k: int, s: int, d: int, low: int) -> Walk:
    common = math.gcd(s, d)
    return Walk(o, n, k, s, s // common, 1, -d // common, low)


def phase_of(walk: Walk, r):
    """``first`` and ``base`` of phase ``r``, a traced integer where there are several phases.

    The first tap is the least ``i`` with ``r + low - d*i = 0 (mod s)``. With ``c = gcd(s, d)`` it
    is ``(r + low)/c * (d/c)^-1 (mod s/c)`` where c divides ``r + low``; else no tap fits, and
    ``first`` lies past the kernel.
    """
    if walk.phases == 1:
        return 0, walk.low if walk.dilation < 0 else -walk.low
    s, every, distance = walk.phases, walk.every, -walk.dilation
    common = s // every
    shifted = r + walk.low % s
    residue = lax.rem(shifted, s)
    first = lax.rem(lax.div(residue, common) * pow(distance, -1, every), every)
    base = lax.div(shifted - first * distance * common, s) + walk.low // s
    return jnp.where(lax.rem(residue, common) == 0, first, walk.taps), base


def strip_extents(spec: ConvSpec, walks: list[Walk], cut: Blocks) -> list[int]:
    """What strips are numbered by: images, places on all axes but the last, strips along it."""
    *outer, last = walks
    return [spec.batch, *[walk.outputs for walk in outer], -(-last.outputs // cut.columns)]


def reads(last: Walk, columns: int, taps: int) -> dict[int, list[tuple[int, int]]]:
    """Where a strip reads: for each offset, the ``(column, tap)`` pairs that it serves."""
    offsets: dict[int, list[tuple[int, int]]] = {}
    for column, tap in itertools.product(range(columns), range(taps)):
        offset = column * last.step + tap * last.dilation
        offsets.setdefault(offset, []).append((column, tap))
    return dict(sorted(offsets.items()))


def unsupported_reason(operator: Operator, spec: ConvSpec) -> str | None:
    shapes = (spec.input_shape, spec.kernel_shape, spec.output_shape)
    if not all(isinstance(n, int) for shape in shapes for n in shape):
        return "it needs sizes known at compile time, but some are symbolic"
    largest = max(math.prod(shape) for shape in shapes)
    if largest > ELEMENTS:
        return f"it counts elements with 32 bits, but an array has {largest}"
    phases = math.prod(spec.strides)
    if operator is Operator.INPUT_GRAD and phases > GRID:
        return (
            f"it computes at most {GRID} phases of an input gradient, but the strides make {phases}"
        )
    return None


def grid(operator: Operator, spec: ConvSpec, cut: Blocks) -> tuple[int, int, int]:
    """The programs: of strips or chunks, of features, of phases or taps."""
    axes = walks(operator, spec)
    features = -(-spec.result_shape(operator)[-1] // cut.features)
    if operator is Operator.FILTER_GRAD:
        taps = axes[-1].taps
        return cut.chunks, features, spec.taps // taps // cut.rows * -(-taps // cut.taps)
    strips = -(-math.prod(strip_extents(spec, axes, cut)) // cut.strips)
    return strips, features, math.prod(walk.phases for walk in axes)


def blocks(operator: Operator, spec: ConvSpec, dtype, generation: str) -> Blocks:
    """The blocks that run where no measurement says better; ``generation`` is a device's kind."""
    last = walks(operator, spec)[-1]
    if operator is Operator.FILTER_GRAD:
        outer = spec.taps // last.taps
        taps = -(-last.taps // -(-last.taps // MOST_SUMS))
        rows = max(n for n in range(1, outer + 1) if outer % n == 0 and n * taps <= MOST_SUMS)
        columns = _columns(operator, last, taps, MOST_COLUMNS)
        return _fitted(operator, spec, dtype, generation, Blocks(0, columns, 0, taps, WARPS, rows))
    taps = -(-last.reached // -(-last.reached // MOST_TAPS))
    for most in (min(MOST_COLUMNS, MOST_PRODUCTS // taps), 4, 2, 1):
        columns = _columns(operator, last, taps, most)
        cut = _fitted(operator, spec, dtype, generation, Blocks(0, columns, 0, taps, WARPS))
        if math.prod(grid(operator, spec, cut)) >= _multiprocessors(generation):
            break
    return cut


def _columns(operator: Operator, last: Walk, taps: int, most: int) -> int:
    """The outputs a strip for which least is loaded, that beside the image included."""

    def loads(columns: int) -> float:
        strips = -(-last.outputs // columns)
        if operator is not Operator.FILTER_GRAD:
            return strips * (len(reads(last, columns, taps)) + taps)
        # Strips that reach past the image take a selection for every product.
        beyond = 1.3 if last.outputs % columns else 1.0
        return strips * (len(reads(last, columns, taps)) + columns) * beyond

    return min(range(1, min(most, last.outputs) + 1), key=loads)


def _fitted(
    operator: Operator, spec: ConvSpec, dtype, generation: str, cut: Blocks, held: int | None = None
) -> Blocks:
    """The tile for ``cut``: ``held`` bytes a thread, on features that leave fewest threads idle."""
    vector = (held or VECTOR[operator]) // jnp.dtype(dtype).itemsize
    total = spec.result_shape(operator)[-1]
    # Rows of 8 features are not whole sectors of memory: each row costs as much as 8 more.
    extents = [2**i for i in range(8) if 2**i <= WARP * cut.warps * vector]
    features = min(extents, key=lambda n: -(-total // n) * (n + 8))
    strips = math.prod(strip_extents(spec, walks(operator, spec), cut))
    most = 2 ** (strips - 1).bit_length()
    tile = WARP * cut.warps * vector // features
    if most < tile:
        tile, warps = most, max(most * features // (WARP * vector), 1)
        cut = cut._replace(warps=warps)
    cut = cut._replace(strips=tile, features=features)
    if operator is not Operator.FILTER_GRAD:
        return cut
    return cut._replace(chunks=_chunks(spec, generation, cut, -(-strips // tile)))


def _chunks(spec: ConvSpec, generation: str, cut: Blocks, turns: int) -> int:
    """Enough programs to fill the device, while their partial sums stay small."""
    beside = math.prod(grid(Operator.FILTER_GRAD, spec, cut._replace(chunks=1)))
    wanted = -(-_multiprocessors(generation) * PROGRAMS // beside)
    operands = math.prod(spec.input_shape) + math.prod(spec.output_shape)
    small = operands // PARTIAL_SHARE // spec.parameters
    share = -(-turns // max(min(wanted, small, turns), 1))
    return -(-turns // share)


def _multiprocessors(generation: str) -> int:
    return next(n for kind, n in MULTIPROCESSORS.items() if kind in generation)


def candidates(operator: Operator, spec: ConvSpec, dtype, generation: str) -> tuple[Blocks, ...]:
    """What is worth measuring beside ``blocks``, which comes first."""
    usual = blocks(operator, spec, dtype, generation)
    outputs = walks(operator, spec)[-1].outputs
    others = [
        _fitted(
            operator, spec, dtype, generation, usual._replace(columns=columns, warps=warps), held
        )
        for columns, warps, held in itertools.product((2, 4, 8), (1, 2, 8), (4, 8))
        if columns <= outputs and columns * usual.taps <= MOST_PRODUCTS
    ]
    return tuple(dict.fromkeys([usual, *others]))
