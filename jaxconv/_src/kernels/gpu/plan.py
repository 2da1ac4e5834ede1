"""How a depthwise convolution is split into GPU programs, apart from any kernel language.

The forward convolution and the input gradient are the same computation. The outputs of an axis form
``phases``; through its tap number ``i``, output ``j`` of phase ``r`` reads the input
``step * j + dilation * i + base(r)`` with the weight ``first(r) + every * i``. The forward
convolution has one phase. An input gradient has one per residue of the stride, as
``geometry/phases.py`` derives; there ``every`` is ``s/c`` and ``dilation`` is ``-d/c``.

A program computes a tile of ``strips`` by ``features``, for each of the ``columns`` neighboring
outputs of a strip. Features are on neighboring threads, so that loads are coalesced, and an input
that several outputs of a strip read is loaded once.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from ...geometry import phases
from ...geometry.spec import ConvSpec, Operator

# Offsets into arrays are 32-bit integers, and all axes of a grid but the first are limited.
MAX_ELEMENTS = 2**31 - 1
MAX_GRID_EXTENT = 65535

# The bytes of a tile per thread. ptxas issues all loads of a step before the first product only if
# a tile is one register per thread: with 16 bytes a convolution took 5.9 us, with 4 it takes 2.8.
# Filter gradients end in a reduction, which 8 bytes make shorter. See docs/design/measurements.md.
BYTES_PER_THREAD = {Operator.CONV: 4, Operator.INPUT_GRAD: 4, Operator.FILTER_GRAD: 8}

# The warps of a program, and the threads of a warp.
WARPS = 4
WARP = 32

# The taps and outputs of the last axis that a program computes at a time, their products, and the
# sums of a filter gradient. A step waits once for its loads, so longer steps are better, but
# compiling more products takes seconds.
MAX_STEP_TAPS = 32
MAX_COLUMNS = 8
MAX_STEP_PRODUCTS = 128
MAX_SUMS = 9

# A filter gradient has this many programs per multiprocessor, as long as its partial sums are at
# most 1/MIN_OPERANDS_PER_SUM of its operands.
PROGRAMS_PER_MULTIPROCESSOR = 4
MIN_OPERANDS_PER_SUM = 8

# Multiprocessors by device kind; other devices are assumed to have as many as an A100.
MULTIPROCESSORS = {"H100": 132, "H200": 132, "B200": 148, "": 108}


class Axis(NamedTuple):
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
        """The outputs of one phase."""
        return -(-self.writes // self.phases)

    @property
    def phase_taps(self) -> int:
        """The number of taps of the phase that has most."""
        return -(-self.taps // self.every)


class TileConfig(NamedTuple):
    """What one program computes; ``strips``, ``features`` and ``warps`` are powers of two."""

    strips: int
    columns: int
    features: int
    taps: int  # of the last axis, computed at a time
    warps: int
    rows: int = 1  # taps of the other axes that one program of a filter gradient sums
    chunks: int = 1  # programs that share the pixels of a filter gradient


def axes_of(operator: Operator, spec: ConvSpec) -> list[Axis]:
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
        return [_input_grad_axis(*axis) for axis in sizes]
    return [Axis(n, o, k, 1, 1, s, d, low) for n, o, k, s, d, low in sizes]


def _input_grad_axis(n: int, o: int, k: int, s: int, d: int, low: int) -> Axis:
    tap_step, output_step = phases.steps(s, d)
    return Axis(o, n, k, s, tap_step, 1, -output_step, low)


def phase_of(axis: Axis, r):
    """``first`` and ``base`` of phase ``r``.

    With several phases ``r`` is traced, and this is ``geometry.phases.phase`` in traced integers:
    ``base`` is its ``output``, and ``first`` is past the kernel if no tap reaches the phase.
    """
    if axis.phases == 1:
        return 0, axis.low if axis.dilation < 0 else -axis.low
    s, every, output_step = axis.phases, axis.every, -axis.dilation
    common = s // every
    shifted = r + axis.low % s
    residue = lax.rem(shifted, s)
    first = lax.rem(lax.div(residue, common) * pow(output_step, -1, every), every)
    base = lax.div(shifted - first * output_step * common, s) + axis.low // s
    return jnp.where(lax.rem(residue, common) == 0, first, axis.taps), base


def strip_extents(spec: ConvSpec, axes: list[Axis], tile: TileConfig) -> list[int]:
    """How strips are numbered: by image, output on all axes but the last, strip along it."""
    *outer, last = axes
    return [spec.batch, *[axis.outputs for axis in outer], -(-last.outputs // tile.columns)]


def reads(last: Axis, columns: int, taps: int) -> dict[int, list[tuple[int, int]]]:
    """The offsets at which a strip reads, each with its ``(column, tap)`` pairs."""
    offsets: dict[int, list[tuple[int, int]]] = {}
    for column, tap in itertools.product(range(columns), range(taps)):
        offset = column * last.step + tap * last.dilation
        offsets.setdefault(offset, []).append((column, tap))
    return dict(sorted(offsets.items()))


def unsupported_reason(operator: Operator, spec: ConvSpec) -> str | None:
    shapes = (spec.input_shape, spec.kernel_shape, spec.output_shape)
    if not all(isinstance(n, int) for shape in shapes for n in shape):
        return "the GPU kernels need sizes known at compile time, but some are symbolic"
    largest = max(math.prod(shape) for shape in shapes)
    if largest > MAX_ELEMENTS:
        return f"the GPU kernels index elements with 32 bits, but an array has {largest}"
    count = math.prod(spec.strides)
    if operator is Operator.INPUT_GRAD and count > MAX_GRID_EXTENT:
        return (
            f"the GPU kernels support at most {MAX_GRID_EXTENT} phases of an input gradient, but "
            f"the strides {spec.strides} have {count}"
        )
    return None


def grid(operator: Operator, spec: ConvSpec, tile: TileConfig) -> tuple[int, int, int]:
    """The number of programs over strips or chunks, over features, and over phases or taps."""
    axes = axes_of(operator, spec)
    features = -(-spec.result_shape(operator)[-1] // tile.features)
    if operator is Operator.FILTER_GRAD:
        taps = axes[-1].taps
        return tile.chunks, features, spec.taps // taps // tile.rows * -(-taps // tile.taps)
    strips = -(-math.prod(strip_extents(spec, axes, tile)) // tile.strips)
    return strips, features, math.prod(axis.phases for axis in axes)


def tile_config(operator: Operator, spec: ConvSpec, dtype, device_kind: str) -> TileConfig:
    """The tile to use where nothing was measured."""
    last = axes_of(operator, spec)[-1]
    if operator is Operator.FILTER_GRAD:
        outer = spec.taps // last.taps
        taps = -(-last.taps // -(-last.taps // MAX_SUMS))
        rows = max(n for n in range(1, outer + 1) if outer % n == 0 and n * taps <= MAX_SUMS)
        columns = _columns(operator, last, taps, MAX_COLUMNS)
        return _fitted(
            operator, spec, dtype, device_kind, TileConfig(0, columns, 0, taps, WARPS, rows)
        )
    taps = -(-last.phase_taps // -(-last.phase_taps // MAX_STEP_TAPS))
    for max_columns in (min(MAX_COLUMNS, MAX_STEP_PRODUCTS // taps), 4, 2, 1):
        columns = _columns(operator, last, taps, max_columns)
        tile = _fitted(operator, spec, dtype, device_kind, TileConfig(0, columns, 0, taps, WARPS))
        if math.prod(grid(operator, spec, tile)) >= _multiprocessors(device_kind):
            break
    return tile


def _columns(operator: Operator, last: Axis, taps: int, max_columns: int) -> int:
    """The number of outputs per strip that loads least, including loads outside the image."""

    def loads(columns: int) -> float:
        strips = -(-last.outputs // columns)
        if operator is not Operator.FILTER_GRAD:
            return strips * (len(reads(last, columns, taps)) + taps)
        # Strips that extend past the image need a selection for every product.
        beyond = 1.3 if last.outputs % columns else 1.0
        return strips * (len(reads(last, columns, taps)) + columns) * beyond

    return min(range(1, min(max_columns, last.outputs) + 1), key=loads)


def _fitted(
    operator: Operator,
    spec: ConvSpec,
    dtype,
    device_kind: str,
    tile: TileConfig,
    thread_bytes: int | None = None,
) -> TileConfig:
    """``tile`` with as many strips and features as threads hold, with the fewest threads idle."""
    vector = (thread_bytes or BYTES_PER_THREAD[operator]) // jnp.dtype(dtype).itemsize
    total = spec.result_shape(operator)[-1]
    # Rows of few features are not whole sectors of memory: each row costs as much as 8 more.
    extents = [2**i for i in range(8) if 2**i <= WARP * tile.warps * vector]
    features = min(extents, key=lambda n: -(-total // n) * (n + 8))
    strips = math.prod(strip_extents(spec, axes_of(operator, spec), tile))
    max_strips = 2 ** (strips - 1).bit_length()
    tile_strips = WARP * tile.warps * vector // features
    if max_strips < tile_strips:
        tile_strips, warps = max_strips, max(max_strips * features // (WARP * vector), 1)
        tile = tile._replace(warps=warps)
    tile = tile._replace(strips=tile_strips, features=features)
    if operator is not Operator.FILTER_GRAD:
        return tile
    return tile._replace(chunks=_chunks(spec, device_kind, tile, -(-strips // tile_strips)))


def _chunks(spec: ConvSpec, device_kind: str, tile: TileConfig, turns: int) -> int:
    """Enough programs to fill the device, as long as their partial sums stay small."""
    programs = math.prod(grid(Operator.FILTER_GRAD, spec, tile._replace(chunks=1)))
    wanted = -(-_multiprocessors(device_kind) * PROGRAMS_PER_MULTIPROCESSOR // programs)
    operands = math.prod(spec.input_shape) + math.prod(spec.output_shape)
    max_chunks = operands // MIN_OPERANDS_PER_SUM // spec.parameters
    share = -(-turns // max(min(wanted, max_chunks, turns), 1))
    return -(-turns // share)


def _multiprocessors(device_kind: str) -> int:
    return next(n for kind, n in MULTIPROCESSORS.items() if kind in device_kind)


def candidates(
    operator: Operator, spec: ConvSpec, dtype, device_kind: str
) -> tuple[TileConfig, ...]:
    """The tiles that are worth measuring, ``tile_config`` first."""
    default = tile_config(operator, spec, dtype, device_kind)
    outputs = axes_of(operator, spec)[-1].outputs
    others = [
        _fitted(
            operator,
            spec,
            dtype,
            device_kind,
            default._replace(columns=columns, warps=warps),
            thread_bytes,
        )
        for columns, warps, thread_bytes in itertools.product((2, 4, 8), (1, 2, 8), (4, 8))
        if columns <= outputs and columns * default.taps <= MAX_STEP_PRODUCTS
    ]
    return tuple(dict.fromkeys([default, *others]))
