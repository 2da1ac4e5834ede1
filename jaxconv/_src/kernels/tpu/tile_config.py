"""The choice of tiles on TPU: those that fit in VMEM and move the fewest bytes, by generation."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import jax.numpy as jnp

from ...geometry.spec import ConvSpec, Operator
from .generations import GENERATIONS, MIB, Generation, generation_of
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
    LANES,
    SUBLANES,
    Across,
    Line,
    TileConfig,
    Window,
    across,
    round_up,
    window,
)

DTYPES = ("float32", "bfloat16")

# Every tap of the sublane axis is unrolled, and every phase of the strides is compiled separately.
MAX_SUBLANE_TAPS = 64
MAX_PHASES = 16
MAX_MULTIPLIER = 8

# With 16 channels, seven eighths of the 128 lanes, and so of all bytes and products, are padding.
MIN_CHANNELS = 32

# Registers of the sublane axis computed at a time, if there are rows to compute with them.
COLUMN_REGISTERS = 4

# Multiply-accumulates in one straight line of code, per register of sums of the generation; more
# taps run in a loop. With 225 of them v5e spilled registers.
MAX_UNROLLED_PRODUCTS = 14

# What a grid step costs beside its bytes, in bytes: about 0.35 us at v5e's 0.8 TB/s.
STEP_BYTES = 256 << 10

# The share of VMEM that a kernel may use; the compiler needs some for itself.
MAX_VMEM_SHARE = 0.75


def windows_of(p: Plan, tile: TileConfig) -> tuple[list[Window], Across]:
    """What a tile reads on the leading axes, and on the sublane axis."""
    leading = [window(line, n) for line, n in zip(p.lines, tile.extents, strict=False)]
    return leading[:3], across(p.lines[3], tile.extents[3])


def grid_of(p: Plan, tile: TileConfig) -> tuple[int, ...]:
    """The number of tiles over lanes and over the four axes, and of images."""
    tiles = [-(-line.result // n) for line, n in zip(p.lines, tile.extents, strict=True)]
    lanes = 1 if p.lanes is not None else -(-p.channels // LANES)
    return (lanes, *tiles, p.images)


def block_shapes(
    operator: Operator, p: Plan, tile: TileConfig, itemsize: int
) -> list[tuple[int, ...]]:
    """The Pallas blocks of source, result (cotangent, in a filter gradient) and kernel."""
    leading, side = windows_of(p, tile)
    source, result = ends(operator, p, p.block)
    ones = [single(p, n, itemsize) for n in (p.lines[3].source, p.lines[3].result)]
    return [
        (*[w.extent for w in leading], side.source, *ones[0], source),
        (*tile.extents, *ones[1], result),
        kernel_shape(p, p.block, itemsize),
    ]


def scratch_shapes(operator: Operator, p: Plan, tile: TileConfig) -> list[tuple[int, ...]]:
    """The staged source; the kernel in float32, or the sums of a filter gradient; and the rows in
    which the phases of a strided sublane axis are interleaved."""
    leading, side = windows_of(p, tile)
    lane_tiles = -(-p.block[1] // LANES)
    rows = SUBLANES if p.lanes is None else round_up(p.channels, SUBLANES)
    shapes = [(lane_tiles, *[w.staged for w in leading], side.staged, LANES)]
    if operator is Operator.FILTER_GRAD:
        return [*shapes, (lane_tiles, p.taps, rows, LANES)]
    # With channels on sublanes, a weight is the same in all lanes.
    shapes.append((lane_tiles, p.taps, LANES) if p.lanes is None else (1, p.taps, rows, LANES))
    step = p.lines[3].step
    if step > 1:
        shapes.append((tile.rows, round_up(side.pixels, SUBLANES) * step, LANES))
    return shapes


def vmem_bytes(operator: Operator, p: Plan, tile: TileConfig, itemsize: int) -> int:
    """The VMEM of a kernel: every block twice, so that copies overlap the computation."""
    doubled = sum(padded(shape, itemsize) for shape in block_shapes(operator, p, tile, itemsize))
    return 2 * doubled + sum(padded(s, 4) for s in scratch_shapes(operator, p, tile))


def moved_bytes(operator: Operator, p: Plan, tile: TileConfig, itemsize: int) -> int:
    """The bytes copied between HBM and VMEM.

    A block is copied whenever the next grid step needs another one: once per step of all grid axes
    up to the last on which it depends.
    """
    grid = grid_of(p, tile)
    source, result, kernel = (
        padded(shape, itemsize) for shape in block_shapes(operator, p, tile, itemsize)
    )
    leading, _ = windows_of(p, tile)
    depends = [True, *[w.last > 0 for w in leading], grid[4] > 1, grid[5] > 1]
    last = max(axis for axis, moves in enumerate(depends) if moves)
    fetched = math.prod(grid[: last + 1])
    return fetched * source + math.prod(grid) * result + grid[0] * kernel


def floor_bytes(operator: Operator, p: Plan, itemsize: int) -> int:
    """The bytes of operands and result, each moved once, in the device's padded layout."""
    shapes = [make(operator, p, itemsize) for make in (source_shape, result_shape)]
    shapes.append(kernel_shape(p, p.whole, itemsize))
    return sum(padded(shape, itemsize) for shape in shapes)


def unsupported_reason(operator: Operator, spec: ConvSpec, dtype, device_kind: str) -> str | None:
    """Why the kernels cannot compute ``operator`` of ``spec`` in ``dtype``, or None."""
    name, generation = jnp.dtype(dtype).name, generation_of(device_kind)
    if name not in DTYPES:
        return f"the TPU kernels support {' and '.join(DTYPES)}, not {name}"
    if not spec.depthwise:
        return (
            "the TPU kernels support only depthwise convolutions, but each group has "
            f"{spec.group_in} input channels"
        )
    if spec.empty:
        return "the result is empty"
    if spec.in_features < MIN_CHANNELS:
        return (
            f"the TPU kernels need at least {MIN_CHANNELS} channels, or most of the {LANES} lanes "
            f"are empty, but there are {spec.in_features}"
        )
    if spec.group_out > MAX_MULTIPLIER:
        return (
            f"the TPU kernels support channel multipliers of at most {MAX_MULTIPLIER}, not "
            f"{spec.group_out}"
        )
    p = plan(operator, spec)
    if p.lines[3].kernel > MAX_SUBLANE_TAPS:
        return (
            f"the TPU kernels unroll at most {MAX_SUBLANE_TAPS} taps on the last axis, but there "
            f"are {p.lines[3].kernel}"
        )
    phases = math.prod(line.step for line in p.lines)
    if phases > MAX_PHASES:
        return (
            f"the TPU kernels compile each phase of the strides separately, up to {MAX_PHASES}, "
            f"but the strides {spec.strides} have {phases}"
        )
    if next(_fitting(operator, p, jnp.dtype(dtype).itemsize, generation), None) is None:
        return f"no tile of it fits in the {GENERATIONS[generation].vmem // MIB} MiB of VMEM"
    return None


@functools.lru_cache(maxsize=4096)
def candidates(
    operator: Operator, spec: ConvSpec, dtype, device_kind: str, count: int = 8
) -> tuple[TileConfig, ...]:
    """The tiles that fit, the fastest by the cost model first."""
    generation = generation_of(device_kind)
    p, itemsize = plan(operator, spec), jnp.dtype(dtype).itemsize
    fitting = list(_fitting(operator, p, itemsize, generation))
    cores = GENERATIONS[generation].cores
    fitting.sort(key=lambda tile: _cost(operator, p, tile, itemsize, cores))
    return tuple(fitting[:count])


def tile_config(operator: Operator, spec: ConvSpec, dtype, device_kind: str) -> TileConfig:
    """The fastest tile by the cost model."""
    return candidates(operator, spec, jnp.dtype(dtype), device_kind)[0]


def _cost(operator: Operator, p: Plan, tile: TileConfig, itemsize: int, cores: int) -> float:
    """The time of a kernel, in bytes: those moved, and each grid step's overhead.

    The first and last copies overlap no computation. Cores share the axes that are not summed over.
    """
    grid = grid_of(p, tile)
    shared = grid[:1] if operator is Operator.FILTER_GRAD else grid[:4]
    steps = -(-math.prod(shared) // cores) * math.prod(grid) / math.prod(shared)
    each = moved_bytes(operator, p, tile, itemsize) / math.prod(grid)
    return steps * (each + STEP_BYTES) + each


def _fitting(operator: Operator, p: Plan, itemsize: int, generation: str) -> Iterator[TileConfig]:
    chip = GENERATIONS[generation]
    exact = operator is Operator.FILTER_GRAD
    choices = [_extents(line, exact) for line in p.lines[:3]]
    for extents in itertools.product(*choices, [_sublane_extent(p)]):
        tile = TileConfig(extents, *_registers(p, extents, chip))
        if vmem_bytes(operator, p, tile, itemsize) <= MAX_VMEM_SHARE * chip.vmem:
            yield tile


def _extents(line: Line, exact: bool) -> list[int]:
    """The extents to try: multiples of the phases, and divisors if sums run over tiles."""
    parts = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, line.result}
    extents = {round_up(-(-line.result // n), line.step) for n in parts if n <= line.result}
    if exact:
        extents |= {d for d in range(1, line.result + 1) if line.result % d == 0}
    return sorted((n for n in extents if not exact or line.result % n == 0), reverse=True)


def _sublane_extent(p: Plan) -> int:
    line = p.lines[3]
    tiled = p.arrangement is Arrangement.BATCH and line.result % (2 * SUBLANES) == 0
    return 2 * SUBLANES if tiled else line.result


def _registers(p: Plan, extents, chip: Generation) -> tuple[int, int]:
    """The rows and columns computed at a time, whose sums fill the registers for sums."""
    count, columns = -(-extents[2] // p.lines[2].step), -(-extents[3] // p.lines[3].step)
    registers = -(-columns // SUBLANES) if p.lanes is None else 1  # each has its own weights
    sums = min(chip.sums, max(1, MAX_UNROLLED_PRODUCTS * chip.sums // p.lines[3].kernel))
    high = min(sums, max(COLUMN_REGISTERS, sums // count))
    if registers > high:
        high = next((n for n in range(high, high // 2, -1) if registers % n == 0), high)
    rows = max(1, min(count, sums // min(high, registers)))
    even = max(n for n in range(1, rows + 1) if count % n == 0)
    return (even if 2 * even > rows else rows), min(high, registers) * SUBLANES
