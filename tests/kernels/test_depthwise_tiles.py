"""Every depthwise tile of the CPU engine against a scalar loop in float64.

Tiles are called directly, on memory laid out here: sources behind a shuffled table of pointers,
kernel rows in any order, and canaries around and between the targets. Inputs are small integers, so
that every result is exact. ``csrc/isa/depthwise/tile.h`` says what the arguments mean.
"""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass

import numpy as np
import pytest

from jaxconv._src.kernels.cpu import library, native
from support.marks import needs_engine

pytestmark = needs_engine

TILES = ("gather", "gather_pair", "filter")  # as DepthwiseTile numbers them
DTYPES = {"float32": np.float32, "float64": np.float64}
VECTOR_BYTES = {"avx512": 64, "avx2": 32, "baseline": 16}
MAX_WIDTH = 8
TAPS = (1, 2, 3, 4, 5, 6, 7, 9, 11)  # 6, 9 and 11 have no tile of their own
# Source rows of a pair of target rows: used by the upper one only, by both, by the lower one only.
ROWS = ((1, 2, 1), (0, 3, 0), (2, 0, 1), (0, 0, 2), (1, 1, 0))
CANARY, MARGIN = 1e30, 64
UNUSED = np.nan  # the taps of rows that a row of targets does not use


class Call(ctypes.Structure):
    """DepthwiseTileCall of ``csrc/isa/depthwise/tile_call.h``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("tile", "width", "taps", "spacing", "features")),
        *((name, ctypes.c_int64) for name in ("rows", "columns", "offset", "upper", "both")),
        *((f"prefetch_{name}", ctypes.c_int64) for name in ("rows", "source", "pixel")),
        *((name, ctypes.c_int64) for name in ("tap_step", "pixel_step", "lower", "streams")),
        ("table", ctypes.c_void_p),
        ("row_offset", ctypes.c_void_p * 2),
        ("operand", ctypes.c_void_p),
        ("result", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Case:
    tile: str
    dtype: str
    taps: int
    spacing: int
    width: int
    features: int
    rows: tuple[int, int, int] = ROWS[0]
    streams: bool = False
    prefetch: bool = False


def lanes(dtype: str) -> int:
    return VECTOR_BYTES[native.instruction_set()] // np.dtype(DTYPES[dtype]).itemsize


def cases(tile: str, dtype: str):
    """Every number of taps, spacing and width. The operators never use spacing > taps."""
    n = lanes(dtype)
    sizes = [(t, s, w) for t in TAPS for s in (1, 2, 3) for w in range(1, MAX_WIDTH + 1) if s <= t]
    for index, size in enumerate(sizes):
        features = (n, n + 1, 2 * n, 3 * n - 1)[index % 4]
        rows = ROWS[index % len(ROWS)]
        yield Case(tile, dtype, *size, features, rows, prefetch=index % 3 == 0)


def integers(rng, *shape) -> np.ndarray:
    return rng.integers(-4, 5, shape).astype(np.float64)


class Memory:
    """The arrays of one tile, in float64 and as the engine reads and writes them."""

    def __init__(self, case: Case):
        self.case, self.n = case, lanes(case.dtype)
        self.rng = np.random.default_rng([case.taps, case.spacing, case.width])
        self.rows = sum(case.rows)
        self.columns = (case.width - 1) * case.spacing + case.taps
        self.sources, self.table = self._sources()
        if case.tile == "filter":
            self.cotangents = integers(self.rng, case.width, case.features)
            vectors = -(-case.features // self.n)
            self.result = integers(self.rng, self.rows, case.taps, vectors * self.n)
            self.step = self.result.shape[-1] + self.n
        else:
            self.weights = integers(self.rng, 2, self.rows, case.taps, case.features)
            self.result = np.zeros((2, case.width, case.features))
            # Streams need whole aligned vectors.
            self.step = case.features + (2 * self.n if case.streams else 3)

    def _sources(self):
        """Pixels in random order, and pointers to them; the first and last columns are padding."""
        spare = 2 * MAX_WIDTH  # columns past the last, which only mistakes read
        count, stride, self.offset = self.columns + spare, self.case.features + 5, 2
        pixels = integers(self.rng, self.rows * count + 1, stride)
        pixels[-1] = 0
        places = self.rng.permutation(self.rows * count).reshape(self.rows, count)
        if self.columns > 2:
            places[:, [0, self.columns - 1]] = len(pixels) - 1
        self.pixels = pixels.astype(DTYPES[self.case.dtype])
        sources = pixels[places][:, :, self.offset : self.offset + self.case.features]
        return sources, (self.pixels.ctypes.data + places * stride * self.pixels.itemsize)

    def expected(self) -> np.ndarray:
        """The tile's result by a scalar loop over rows, targets and taps."""
        case, result = self.case, self.result.copy()
        for r in range(self.rows):
            for p in range(case.width):
                for u in range(case.taps):
                    source = self.sources[r, p * case.spacing + u]
                    if case.tile == "filter":
                        self._add_vectors(result[r, u], source * self.cotangents[p])
                        continue
                    for q in range(2):
                        if self.uses(q, r):
                            result[q, p] += source * self.weights[q, r, u]
        return result

    def _add_vectors(self, sums, products) -> None:
        """Sums hold whole vectors: the last one ends with the features."""
        for i in range(len(sums) // self.n):
            first = min(i * self.n, self.case.features - self.n)
            sums[i * self.n : (i + 1) * self.n] += products[first : first + self.n]

    def uses(self, q: int, r: int) -> bool:
        """Whether row ``q`` of the targets uses row ``r`` of the sources."""
        upper, both, _ = self.case.rows
        if self.case.tile == "gather":
            return q == 0
        return r < upper + both if q == 0 else r >= upper

    def buffer(self, values: np.ndarray, step: int, fill: float):
        """Rows of ``values`` ``step`` apart, aligned, with ``fill`` between and around them."""
        dtype = np.dtype(DTYPES[self.case.dtype])
        flat = values.reshape(-1, values.shape[-1])
        memory = np.full((len(flat) + 2) * step + 2 * MARGIN + 64, fill, dtype)
        memory = memory[-(memory.ctypes.data // dtype.itemsize) % 64 :]
        view = np.lib.stride_tricks.as_strided(
            memory[MARGIN:], flat.shape, (step * dtype.itemsize, dtype.itemsize)
        )
        view[...] = flat
        return memory, view

    def run(self, **changes) -> bool:
        """Calls the tile, with ``changes`` to its arguments; False if there is no such tile."""
        case = self.case
        if case.tile == "filter":
            pixel_step, tap_step = case.features + 3, self.step
            _, operand = self.buffer(self.cotangents, pixel_step, UNUSED)
        else:
            pixel_step, tap_step = self.step, case.features + 1
            used = [[self.uses(q, r) for r in range(self.rows)] for q in range(2)]
            weights = np.where(np.array(used)[..., None, None], self.weights, UNUSED)
            _, operand = self.buffer(weights, tap_step, UNUSED)
        # Of the weights there are two sets of rows, of the sums one.
        row_offset = np.arange(2 * self.rows).reshape(2, self.rows) * case.taps * tap_step
        before, self.view = self.buffer(self.result, self.step, CANARY)
        self.memory, self.before = before, before.copy()
        offsets = np.ascontiguousarray(row_offset, np.int64)
        table = np.ascontiguousarray(self.table, np.uint64)
        arguments = {
            "tile": TILES.index(case.tile),
            "width": case.width,
            "taps": case.taps,
            "spacing": case.spacing,
            "features": case.features,
            "rows": self.rows,
            "columns": table.shape[1],
            "offset": self.offset,
            "upper": case.rows[0],
            "both": case.rows[1],
            "prefetch_rows": min(self.rows, 2) * case.prefetch,
            "prefetch_source": 1000,
            "prefetch_pixel": 1000,
            "tap_step": tap_step,
            "pixel_step": pixel_step,
            "lower": case.width * self.step,
            "streams": case.streams,
            "table": table.ctypes.data,
            "row_offset": (ctypes.c_void_p * 2)(*(row.ctypes.data for row in offsets)),
            "operand": operand.ctypes.data,
            "result": self.view.ctypes.data,
        }
        call = Call(**(arguments | changes))
        element = ctypes.c_int64(native.ELEMENTS.index(case.dtype))
        return bool(library.load().jaxconv_test_depthwise_tile(element, ctypes.byref(call)))

    def check(self) -> None:
        """The results are exact, and no other element has changed."""
        expected = self.expected()
        np.testing.assert_array_equal(self.view.reshape(expected.shape), expected)
        self.view[...] = self.result.reshape(self.view.shape)
        assert np.array_equal(self.memory, self.before), "the tile wrote past its targets"


def has_tile(case: Case) -> bool:
    """Pairs of rows need 32 vector registers, and enough taps to share."""
    if case.tile != "gather_pair":
        return True
    registers = 32 if platform.machine() in ("aarch64", "arm64") else 16
    registers = 32 if native.instruction_set() == "avx512" else registers
    return registers == 32 and case.dtype == "float32" and case.taps >= 3 and case.spacing == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", TILES)
def test_tiles_are_exact(instruction_set, tile, dtype):
    for case in cases(tile, dtype):
        memory = Memory(case)
        assert memory.run() == has_tile(case), case
        if has_tile(case):
            memory.check()


@pytest.mark.parametrize("tile", ["gather", "gather_pair"])
def test_streamed_targets_are_exact(instruction_set, tile):
    for taps in (3, 4, 9):
        for width in (1, 7, 8):
            case = Case(tile, "float32", taps, 1, width, 2 * lanes("float32"), streams=True)
            memory = Memory(case)
            assert memory.run() == has_tile(case)
            if has_tile(case):
                memory.check()


MISTAKES = {
    "one tap fewer": lambda case: {"taps": case.taps - 1},
    "another spacing": lambda case: {"spacing": case.spacing % 3 + 1},
    "one target fewer": lambda case: {"width": case.width - 1},
    "one target more": lambda case: {"width": case.width + 1},
    "one feature more": lambda case: {"features": case.features + 1},
    "one feature fewer": lambda case: {"features": case.features - 1},
    "one row fewer": lambda case: {"rows": sum(case.rows) - 1},
    "another first feature": lambda case: {"offset": 3},
    "targets closer together": lambda case: {"pixel_step": case.features + 2},
    "taps closer together": lambda case: {"tap_step": case.features},
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("tile", TILES)
def test_mistakes_are_found(tile, mistake):
    """The checks above fail if any argument is off by one."""
    case = Case(tile, "float32", 5, 1, 6, 2 * lanes("float32"))
    if not has_tile(case):
        pytest.skip("this instruction set has no tile for pairs of rows")
    memory = Memory(case)
    changes = MISTAKES[mistake](case)
    if memory.run(**changes):
        with pytest.raises(AssertionError):
            memory.check()
    else:
        assert tile == "gather_pair"
        assert mistake == "another spacing"


@pytest.mark.parametrize("change", [{"upper": 0, "both": 3}, {"upper": 2, "both": 1}, {"lower": 0}])
def test_mistakes_in_pairs_of_rows_are_found(change):
    case = Case("gather_pair", "float32", 5, 1, 6, 2 * lanes("float32"))
    if not has_tile(case):
        pytest.skip("this instruction set has no tile for pairs of rows")
    memory = Memory(case)
    assert memory.run(**change)
    with pytest.raises(AssertionError):
        memory.check()
