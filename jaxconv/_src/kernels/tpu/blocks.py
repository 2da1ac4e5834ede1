"""The choice of blocks on Mosaic TPU: what fits in VMEM and moves least, by generation."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import jax.numpy as jnp

from ...geometry.spec import ConvSpec, Operator
from .layout import (
    Arrangement,
    Plan,
    ends,
    kernel_shape,
    padded,
    plan,
    result_shape,
    single,
    source_shape,
)
from .tiling import (
    GENERATIONS,
    LANES,
    MIB,
    SUBLANES,
    Across,
    Blocks,
    Generation,
    Line,
    Window,
    across,
    round_up,
    window,
)

DTYPES = ("float32", "bfloat16")

# Every tap of the sublane axis is unrolled, and every phase of the strides is compiled apart.
SUBLANE_TAPS = 64
PHASES = 16
MULTIPLIER = 8

# Of 128 lanes, at least these many must be used: with 16 channels seven eighths of all bytes moved
# and of all products are padding.
CHANNELS = 32

# Registers of the sublane axis computed at a time, where there are rows to compute with them.
COLUMNS = 4

# Multiply-accumulates of registers in one straight line of code, for each register of sums that a
# generation leaves; more taps run in a loop. With 432 of them 3x3x3 2x16x32x32x64 spilled registers
# on v5e, with 225 of them 5x5 s2 4x35x35x72.
UNROLLED = 14

# What a grid step costs beside its bytes, in bytes: about 0.35 us at v5e's 0.8 TB/s.
STEP = 256 << 10

# The share of VMEM that a kernel takes at most; the compiler needs some for itself.
SHARE = 0.75


def windows_of(p: Plan, blocks: Blocks) -> tuple[list[Window], Across]:
    """What a block reads on the leading axes, and on the sublane axis."""
    leading = [window(line, t) for line, t in zip(p.lines, blocks.tile, strict=False)]
    return leading[:3], across(p.lines[3], blocks.tile[3])


def grid_of(p: Plan, blocks: Blocks) -> tuple[int, ...]:
    """Blocks of channels, of the four axes, and images; the last two meet the same padding."""
    tiles = [-(-line.result // t) for line, t in zip(p.lines, blocks.tile, strict=True)]
    lanes = 1 if p.lanes is not None else -(-p.channels // LANES)
    return (lanes, *tiles, p.images)


def block_shapes(
    operator: Operator, p: Plan, blocks: Blocks, itemsize: int
) -> list[tuple[int, ...]]:
    """Of the source, the result (or, in a filter gradient, the cotangent) and the kernel."""
    leading, side = windows_of(p, blocks)
    source, result = ends(operator, p, p.block)
    ones = [single(p, n, itemsize) for n in (p.lines[3].source, p.lines[3].result)]
    return [
        (*[w.extent for w in leading], side.source, *ones[0], source),
        (*blocks.tile, *ones[1], result),
        kernel_shape(p, p.block, itemsize),
    ]


def scratch_shapes(operator: Operator, p: Plan, blocks: Blocks) -> list[tuple[int, ...]]:
    """The staged source; then the kernel in float32, or the sums of a filter gradient; and the
    rows in which the phases of a strided sublane axis meet."""
    leading, side = windows_of(p, blocks)
    tiles = -(-p.block[1] // LANES)
    rows = SUBLANES if p.lanes is None else round_up(p.channels, SUBLANES)
    shapes = [(tiles, *[w.staged for w in leading], side.staged, LANES)]
    if operator is Operator.FILTER_GRAD:
        return [*shapes, (tiles, p.taps, rows, LANES)]
    # Weights of channels on sublanes are the same in all lanes.
    shapes.append((tiles, p.taps, LANES) if p.lanes is None else (1, p.taps, rows, LANES))
    step = p.lines[3].step
    if step > 1:
        shapes.append((blocks.rows, round_up(side.pixels, SUBLANES) * step, LANES))
    return shapes


def vmem_bytes(operator: Operator, p: Plan, blocks: Blocks, itemsize: int) -> int:
    """VMEM that the kernel takes: every block twice, so that copies overlap the computation."""
    doubled = sum(padded(shape, itemsize) for shape in block_shapes(operator, p, blocks, itemsize))
    return 2 * doubled + sum(padded(s, 4) for s in scratch_shapes(operator, p, blocks))


def moved_bytes(operator: Operator, p: Plan, blocks: Blocks, itemsize: int) -> int:
    """Bytes between HBM and VMEM. A block is copied when the grid reaches another one, so once for
    every step of all grid axes up to the last on which it depends."""
    grid = grid_of(p, blocks)
    source, result, kernel = (
        padded(shape, itemsize) for shape in block_shapes(operator, p, blocks, itemsize)
    )
    leading, _ = windows_of(p, blocks)
    depends = [True, *[w.last > 0 for w in leading], grid[4] > 1, grid[5] > 1]
    last = max(axis for axis, moves in enumerate(depends) if moves)
    fetched = math.prod(grid[: last + 1])
    return fetched * source + math.prod(grid) * result + grid[0] * kernel


def floor_bytes(operator: Operator, p: Plan, itemsize: int) -> int:
    """Bytes of operands and result, each moved once, in the device's padded layout."""
    shapes = [make(operator, p, itemsize) for make in (source_shape, result_shape)]
    shapes.append(kernel_shape(p, p.whole, itemsize))
    return sum(padded(shape, itemsize) for shape in shapes)


def unsupported_reason(operator: Operator, spec: ConvSpec, dtype, generation: str) -> str | None:
    """Why the kernels cannot compute ``operator`` of ``spec`` in ``dtype``, or None."""
    name = jnp.dtype(dtype).name
    if name not in DTYPES:
        return f"the TPU kernels compute {' and '.join(DTYPES)}, not {name}"
    if not spec.depthwise:
        return (
            "the TPU kernels serve depthwise convolutions only, but a group has "
            f"{spec.group_in} in-features"
        )
    if spec.empty:
        return "there is nothing to compute"
    if spec.in_features < CHANNELS:
        return f"{spec.in_features} channels leave most of a TPU's {LANES} lanes empty"
    if spec.group_out > MULTIPLIER:
        return f"a channel multiplier of {spec.group_out} needs more than {MULTIPLIER} blocks"
    p = plan(operator, spec)
    if p.lines[3].kernel > SUBLANE_TAPS:
        return f"{p.lines[3].kernel} taps on the last axis are too many to unroll"
    phases = math.prod(line.step for line in p.lines)
    if phases > PHASES:
        return f"every phase of the strides is compiled apart, and {phases} are too many"
    if next(_fitting(operator, p, jnp.dtype(dtype).itemsize, generation), None) is None:
        return f"no block of it fits in the {GENERATIONS[generation].vmem // MIB} MiB of VMEM"
    return None


@functools.lru_cache(maxsize=4096)
def candidates(
    operator: Operator, spec: ConvSpec, dtype, generation: str, count: int = 8
) -> tuple[Blocks, ...]:
    """The cuts that fit, those first that are expected to take least time."""
    p, itemsize = plan(operator, spec), jnp.dtype(dtype).itemsize
    fitting = list(_fitting(operator, p, itemsize, generation))
    cores = GENERATIONS[generation].cores
    fitting.sort(key=lambda blocks: _cost(operator, p, blocks, itemsize, cores))
    return tuple(fitting[:count])


def blocks(operator: Operator, spec: ConvSpec, dtype, generation: str) -> Blocks:
    """The cut that is expected to take least time."""
    return candidates(operator, spec, jnp.dtype(dtype), generation)[0]


def _cost(operator: Operator, p: Plan, blocks: Blocks, itemsize: int, cores: int) -> float:
    """In bytes: those moved, each grid step, and the first and last blocks, which overlap nothing.

    Cores share the axes that no sum runs over.
    """
    grid = grid_of(p, blocks)
    shared = grid[:1] if operator is Operator.FILTER_GRAD else grid[:4]
    steps = -(-math.prod(shared) // cores) * math.prod(grid) / math.prod(shared)
    each = moved_bytes(operator, p, blocks, itemsize) / math.prod(grid)
    return steps * (each + STEP) + each


def _fitting(operator: Operator, p: Plan, itemsize: int, generation: str) -> Iterator[Blocks]:
    chip = GENERATIONS[generation]
    exact = operator is Operator.FILTER_GRAD
    cuts = [_cuts(line, exact) for line in p.lines[:3]]
    for tile in itertools.product(*cuts, [_sublane_tile(p)]):
        cut = Blocks(tile, *_registers(p, tile, chip))
        if vmem_bytes(operator, p, cut, itemsize) <= SHARE * chip.vmem:
            yield cut


def _cuts(line: Line, exact: bool) -> list[int]:
    """Extents of a tile: a multiple of the phases; and a divisor, where sums run over blocks."""
    parts = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, line.result}
    tiles = {round_up(-(-line.result // n), line.step) for n in parts if n <= line.result}
    if exact:
        tiles |= {d for d in range(1, line.result + 1) if line.result % d == 0}
    return sorted((t for t in tiles if not exact or line.result % t == 0), reverse=True)


def _sublane_tile(p: Plan) -> int:
    line = p.lines[3]
    tiled = p.arrangement is Arrangement.BATCH and line.result % (2 * SUBLANES) == 0
    return 2 * SUBLANES if tiled else line.result


def _registers(p: Plan, tile, chip: Generation) -> tuple[int, int]:
    """Rows and columns that are computed at a time, whose sums fill the registers allowed."""
    count, columns = -(-tile[2] // p.lines[2].step), -(-tile[3] // p.lines[3].step)
    registers = -(-columns // SUBLANES) if p.lanes is None else 1  # each has weights of its own
    sums = min(chip.sums, max(1, UNROLLED * chip.sums // p.lines[3].kernel))
    high = min(sums, max(COLUMNS, sums // count))
    if registers > high:
        high = next((n for n in range(high, high // 2, -1) if registers % n == 0), high)
    rows = max(1, min(count, sums // min(high, registers)))
    even = max(n for n in range(1, rows + 1) if count % n == 0)
    return (even if 2 * even > rows else rows), min(high, registers) * SUBLANES
