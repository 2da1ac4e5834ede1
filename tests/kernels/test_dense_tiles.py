"""Every tile of the dense CPU engine, called alone, against a float64 loop over its products.

Operands are small integers, so that sums are exact in every element type and in any order. Memory
that a tile must not read is NaN, and memory that it must not write holds a pattern.
"""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest

from jaxconv._src.kernels.cpu import library, native
from support.engine import DTYPES, EPS
from support.marks import needs_engine

pytestmark = needs_engine

TILES = ("gather", "narrow_groups", "few_features", "filter_grad")  # as DenseTile numbers them
GATHERS = TILES[:3]
TILE_SIZES = 3  # kTileSizes
PATTERN = 0xA5  # in bytes that must not be written
MARGIN = 24  # elements around everything that may be written
# Runs and products per run: odd counts, because tiles take two products at a time, and counts on
# both sides of a whole vector.
REDUCTIONS = ((1, 1), (2, 1), (1, 2), (3, 3), (2, 8), (1, 16), (2, 19), (3, 35))


class GatherTileArgs(ctypes.Structure):
    """``GatherTileArgs`` of csrc/isa/dense/tile.h."""

    _fields_ = (
        ("sources", ctypes.c_void_p),
        ("offset", ctypes.c_void_p),
        ("panel_row", ctypes.c_void_p),
        ("runs", ctypes.c_int64),
        ("length", ctypes.c_int64),
        ("channel", ctypes.c_int64),
        ("panel", ctypes.c_void_p),
        ("prefetch", ctypes.c_void_p),
        ("prefetch_bytes", ctypes.c_int64),
        ("targets", ctypes.c_void_p),
        ("pixels", ctypes.c_int64),
        ("feature", ctypes.c_int64),
        ("lanes", ctypes.c_int64),
        ("bias", ctypes.c_void_p),  # null, as the others: without an epilogue
        ("limits", ctypes.c_void_p),
        ("writer", ctypes.c_void_p),
        ("write", ctypes.c_void_p),  # set by the library, for the element type
        ("direct", ctypes.c_bool),
    )


class Segment(ctypes.Structure):
    """``Segment`` of csrc/isa/dense/tile.h."""

    _fields_ = (
        ("source", ctypes.c_void_p),
        ("source_step", ctypes.c_int64),
        ("cotangent", ctypes.c_void_p),
        ("count", ctypes.c_int64),
    )


class FilterGradTileArgs(ctypes.Structure):
    """``FilterGradTileArgs`` of csrc/isa/dense/tile.h."""

    _fields_ = (
        ("segments", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("panel", ctypes.c_int64),
        ("sums", ctypes.c_void_p),
    )


@dataclasses.dataclass(frozen=True)
class CompiledTile:
    """One tile of the library, and the sizes of the table that it comes from."""

    name: str
    dtype: str
    features: int  # of a group: selects the table
    size: int  # of a gather, the index in tile_sizes.h; of a filter gradient, the rows
    vectors: int
    full: int = 0  # pixels or rows of the largest tile in the table
    full_vectors: int = 0
    lanes: int = 0  # of one vector

    @property
    def rows(self) -> int:
        """The pixels of a gather's tile, or the channels of a filter gradient's."""
        if self.name == "filter_grad":
            return self.size
        return -(-(TILE_SIZES - self.size) * self.full // TILE_SIZES)

    @property
    def width(self) -> int:
        return self.vectors * self.lanes

    def call(self, args: ctypes.Structure | None) -> CompiledTile | None:
        """Calls the tile if there are arguments; None if the library has no such tile."""
        sizes = (ctypes.c_int64 * 3)()
        compiled = library.load().jaxconv_test_dense_tile(
            *map(ctypes.c_int64, (TILES.index(self.name), native.ELEMENTS.index(self.dtype))),
            *map(ctypes.c_int64, (self.features, self.size, self.vectors)),
            None if args is None else ctypes.byref(args),
            sizes,
        )
        full, full_vectors, lanes = sizes
        found = dataclasses.replace(self, full=full, full_vectors=full_vectors, lanes=lanes)
        return found if compiled else None


def accumulator(dtype: str) -> type:
    return np.float64 if dtype == "float64" else np.float32


def vector_lanes(dtype: str) -> int:
    vector_bytes = {"avx512": 64, "avx2": 32, "baseline": 16}[native.instruction_set()]
    return vector_bytes // np.dtype(accumulator(dtype)).itemsize


def compiled_tiles(name: str, dtype: str) -> Iterator[CompiledTile]:
    """All tiles of this kind that the library has for the instruction set in use."""
    n = vector_lanes(dtype)
    widths = {
        "gather": {max(n // 4, 1), n // 2, n, 2 * n, 3 * n, 4 * n},
        "narrow_groups": {w for w in (2, 4, 8) if w < n},
        "few_features": {1, 2, 3, 4},
        "filter_grad": {max(n // 4, 1), n // 2, n, 2 * n, 3 * n},
    }
    seen = set()
    for features in sorted(widths[name]):
        for size, vectors in itertools.product(range(13), range(1, 5)):
            tile = CompiledTile(name, dtype, features, size, vectors).call(None)
            if tile is None or (name == "filter_grad" and vectors != tile.full_vectors):
                continue
            key = (tile.full, tile.full_vectors, tile.lanes, size, vectors)
            if name != "narrow_groups" and key in seen:  # several widths share a table
                continue
            seen.add(key)
            yield tile


def integers(rng: np.random.Generator, bound: int, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(-bound, bound + 1, shape).astype(np.float64)


def patterned(shape: tuple[int, ...], dtype) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.full(size, PATTERN, np.uint8).view(dtype).reshape(shape)


def row_pointers(array: np.ndarray) -> np.ndarray:
    return np.array([row.ctypes.data for row in array], np.int64)


@dataclasses.dataclass(frozen=True)
class GatherOperands:
    x: np.ndarray  # [pixels, runs, length]
    weights: np.ndarray  # [runs, length, lanes]


def gather_operands(tile: CompiledTile, pixels, lanes, runs, length, sample) -> GatherOperands:
    """Operands of a tile; narrow groups have weights within each group alone."""
    if tile.name == "narrow_groups":
        length = tile.width
    weights = sample(2, (runs, length, lanes))
    if tile.name == "narrow_groups":
        group = np.arange(tile.width) // tile.features
        weights *= group[:, None] == group
    return GatherOperands(sample(1, (pixels, runs, length)), weights)


def gather_reference(operands: GatherOperands) -> np.ndarray:
    """[pixels, lanes]: one product at a time, in float64."""
    pixels, runs, length = operands.x.shape
    y = np.zeros((pixels, operands.weights.shape[2]))
    for e in range(runs):
        for c in range(length):
            y += operands.x[:, e, c, None] * operands.weights[e, c]
    return y


def packed_panel(tile: CompiledTile, weights: np.ndarray, panel_row: np.ndarray) -> np.ndarray:
    """The panel in the order that the tile reads it."""
    runs, length, lanes = weights.shape
    panel = np.full(((panel_row.max() + length + 1), tile.width), np.nan, accumulator(tile.dtype))
    for e, row in zip(range(runs), panel_row, strict=True):
        if tile.name == "gather":
            panel[row : row + length, :lanes] = weights[e]
        elif tile.name == "few_features":
            panel.reshape(-1)[row * lanes : (row + length) * lanes] = weights[e].T.reshape(-1)
        else:
            lane = np.arange(lanes)
            for s in range(tile.features):
                panel[row + s] = weights[e, lane ^ s, lane]
    return panel


def run_gather(tile: CompiledTile, operands: GatherOperands, feature: int = 2) -> np.ndarray:
    """[rows, MARGIN + feature + width + MARGIN] of targets after the call."""
    pixels, runs, length = operands.x.shape
    channel, stride = 3, length + 2
    order = np.random.default_rng(runs).permutation(runs)  # runs lie in memory in any order
    offset, panel_row = order * stride + 1, order[::-1] * (length + 1) + 1
    sources = np.full((tile.rows, runs * stride + channel + 1), np.nan, accumulator(tile.dtype))
    for e in range(runs):
        first = offset[e] + channel
        sources[:pixels, first : first + length] = operands.x[:, e]
    panel = packed_panel(tile, operands.weights, panel_row)
    memory = patterned((tile.rows, feature + tile.width + 2 * MARGIN), DTYPES[tile.dtype])
    source_pointers, target_pointers = row_pointers(sources), row_pointers(memory[:, MARGIN:])
    args = GatherTileArgs(
        source_pointers.ctypes.data,
        offset.ctypes.data,
        panel_row.ctypes.data,
        runs,
        length,
        channel,
        panel.ctypes.data,
        panel.ctypes.data,
        64,
        target_pointers.ctypes.data,
        pixels,
        feature,
        operands.weights.shape[2],
    )
    assert tile.call(args) is not None
    return memory


def gather_writes(tile: CompiledTile, operands: GatherOperands, reference: np.ndarray) -> bool:
    """Whether the tile writes exactly the reference, and nothing around it."""
    feature = 2
    memory = run_gather(tile, operands, feature)
    expected = patterned(memory.shape, memory.dtype)
    pixels, lanes = reference.shape
    expected[:pixels, MARGIN + feature : MARGIN + feature + lanes] = reference
    return memory.tobytes() == expected.tobytes()


def gather_cases(tile: CompiledTile, sample) -> Iterator[GatherOperands]:
    """All reductions, each with another number of pixels and features that exist."""
    pixels = itertools.cycle((tile.rows, 1, max(tile.rows - 1, 1)))
    lanes = itertools.cycle((tile.width,))
    if tile.name == "gather":
        last = tile.width - tile.lanes  # a tile always has features in its last vector
        lanes = itertools.cycle((tile.width, tile.width - (tile.lanes > 1), last + 1, last + 1))
    for runs, length in REDUCTIONS:
        yield gather_operands(tile, next(pixels), next(lanes), runs, length, sample)


@pytest.fixture
def small_integers():
    rng = np.random.default_rng(0)
    return lambda bound, shape: integers(rng, bound, shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GATHERS)
def test_gather_tiles(instruction_set, name, dtype, small_integers):
    tiles = list(compiled_tiles(name, dtype))
    assert tiles or (name == "narrow_groups" and vector_lanes(dtype) == 2)
    for tile in tiles:
        for operands in gather_cases(tile, small_integers):
            assert gather_writes(tile, operands, gather_reference(operands)), (tile, operands)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GATHERS)
def test_gather_tiles_round_once(instruction_set, name, dtype):
    """Sums of real numbers are those of the accumulator, rounded once to the element type."""
    rng = np.random.default_rng(1)

    def sample(_, shape):
        return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    for tile in compiled_tiles(name, dtype):
        operands = gather_operands(tile, tile.rows, tile.width, 2, 19, sample)
        memory = run_gather(tile, operands, feature=0)
        result = memory[:, MARGIN : MARGIN + tile.width].astype(np.float64)
        reference = gather_reference(operands)
        scale = gather_reference(GatherOperands(np.abs(operands.x), np.abs(operands.weights)))
        summed = EPS[np.dtype(accumulator(dtype)).name] * 4 * math.sqrt(2 * 19) * scale
        assert (np.abs(result - reference) <= summed + EPS[dtype] / 2 * np.abs(reference)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GATHERS)
def test_a_wrong_reference_of_a_gather_fails(instruction_set, name, dtype):
    """One product too few or too many, another order, a pixel or feature too few or too many."""
    rng = np.random.default_rng(2)

    def sample(bound, shape):  # no zeros, so that every product counts
        return rng.integers(1, bound + 1, shape) * rng.choice((-1.0, 1.0), shape)

    for tile in compiled_tiles(name, dtype):
        operands = gather_operands(tile, tile.rows, tile.width, 3, 3, sample)
        right = gather_reference(operands)
        assert gather_writes(tile, operands, right)
        missing = GatherOperands(operands.x[:, :2], operands.weights[:2])
        product = operands.x[:, -1, -1, None] * operands.weights[-1, -1]
        fewer = GatherOperands(operands.x[:-1], operands.weights)
        wrong = [gather_reference(missing), right - product, right + product, np.zeros_like(right)]
        wrong += [right[:-1], right[:, :-1]]  # as if the tile wrote past its end
        wrong += [changed for changed in (right[::-1], right[:, ::-1]) if (changed != right).any()]
        assert not any(gather_writes(tile, operands, reference) for reference in wrong)
        if tile.rows > 1:
            assert gather_writes(tile, fewer, right[:-1])
            assert not gather_writes(tile, fewer, right)


@dataclasses.dataclass(frozen=True)
class FilterGradOperands:
    x: np.ndarray  # [pixels, rows]
    g: np.ndarray  # [pixels, width]
    sums: np.ndarray  # [rows, width]: to be added to
    counts: tuple[int, ...]  # pixels of each segment


def filter_grad_operands(tile: CompiledTile, counts, sample) -> FilterGradOperands:
    pixels = sum(counts)
    return FilterGradOperands(
        sample(1, (pixels, tile.rows)),
        sample(2, (pixels, tile.width)),
        sample(9, (tile.rows, tile.width)),
        counts,
    )


def filter_grad_reference(operands: FilterGradOperands) -> np.ndarray:
    """[rows, width]: one pixel at a time, in float64."""
    sums = operands.sums.copy()
    for x, g in zip(operands.x, operands.g, strict=True):
        sums += x[:, None] * g
    return sums


def run_filter_grad(tile: CompiledTile, operands: FilterGradOperands) -> np.ndarray:
    """[MARGIN + rows * width + MARGIN] of sums after the call."""
    real, offset, panel = accumulator(tile.dtype), 3, 5
    segments, buffers, done = (Segment * len(operands.counts))(), [], 0
    for i, count in enumerate(operands.counts):
        step = tile.rows + i  # pixels of other segments lie at other distances
        source = np.full(offset + count * step + tile.rows, np.nan, real)
        cotangent = np.full(panel + count * tile.width + 1, np.nan, real)
        for p in range(count):
            first = offset + p * step
            source[first : first + tile.rows] = operands.x[done + p]
            first = panel + p * tile.width
            cotangent[first : first + tile.width] = operands.g[done + p]
        segments[i] = Segment(source.ctypes.data, step, cotangent.ctypes.data, count)
        buffers += [source, cotangent]
        done += count
    memory = patterned((2 * MARGIN + operands.sums.size,), real)
    memory[MARGIN:-MARGIN] = operands.sums.reshape(-1)
    sums = memory[MARGIN:].ctypes.data
    args = FilterGradTileArgs(ctypes.addressof(segments), len(segments), offset, panel, sums)
    assert tile.call(args) is not None
    return memory


def filter_grad_writes(tile, operands: FilterGradOperands, reference: np.ndarray) -> bool:
    """Whether the tile writes exactly the reference, and nothing around it."""
    memory = run_filter_grad(tile, operands)
    expected = patterned(memory.shape, memory.dtype)
    expected[MARGIN:-MARGIN] = reference.reshape(-1)
    return memory.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_filter_grad_tiles(instruction_set, dtype, small_integers):
    tiles = list(compiled_tiles("filter_grad", dtype))
    assert {tile.rows for tile in tiles} >= set(range(1, max(tile.full for tile in tiles) + 1))
    for tile in tiles:
        for counts in ((), (1,), (2,), (1, 1), (3, 1, 7), (5, 8)):
            operands = filter_grad_operands(tile, counts, small_integers)
            assert filter_grad_writes(tile, operands, filter_grad_reference(operands)), tile


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrong_reference_of_a_filter_grad_fails(instruction_set, dtype):
    rng = np.random.default_rng(3)

    def sample(bound, shape):
        return rng.integers(1, bound + 1, shape) * rng.choice((-1.0, 1.0), shape)

    for tile in compiled_tiles("filter_grad", dtype):
        operands = filter_grad_operands(tile, (3, 1, 2), sample)
        right = filter_grad_reference(operands)
        assert filter_grad_writes(tile, operands, right)
        last = operands.x[-1][:, None] * operands.g[-1]
        wrong = [right - last, right + last, right - operands.sums]
        wrong += [changed for changed in (right[::-1], right[:, ::-1]) if (changed != right).any()]
        assert not any(filter_grad_writes(tile, operands, reference) for reference in wrong)


def test_the_hook_knows_which_tiles_exist():
    tile = CompiledTile("gather", "float32", 1, 0, 1)
    assert tile.call(None) is not None
    for absent in ({"size": -1}, {"size": 3}, {"vectors": 0}, {"vectors": 2}):
        assert dataclasses.replace(tile, **absent).call(None) is None
    rows = CompiledTile("filter_grad", "float32", 1, 12, 1)
    assert rows.call(None) is not None
    assert dataclasses.replace(rows, size=13).call(None) is None
    assert dataclasses.replace(rows, size=0).call(None) is None
