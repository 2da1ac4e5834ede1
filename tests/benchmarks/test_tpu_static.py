"""Tiles of the Mosaic-TPU kernels and what they do not support; compiled if libtpu is installed."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from benchmarks.common.workloads import DEPTHWISE
from jaxconv._src.geometry.spec import Operator
from jaxconv._src.kernels.tpu import entry, tile_config
from jaxconv._src.kernels.tpu.generations import GENERATIONS, generation_of
from jaxconv._src.kernels.tpu.layout import plan
from support.operators import as_spec
from support.oracle import Case

by_operator = pytest.mark.parametrize("operator", Operator, ids=lambda operator: operator.value)
DTYPES = (np.float32, ml_dtypes.bfloat16)
CASE = Case(2, 40, 40, (9, 7), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 40)


def reason_of(operator=Operator.CONV, dtype=np.float32, generation="v5e", **changes):
    spec = as_spec(CASE).replace(**changes)
    return tile_config.unsupported_reason(operator, spec, dtype, generation)


def test_unsupported_convolutions_have_a_reason():
    assert reason_of() is None
    assert "not float64" in reason_of(dtype=np.float64)
    assert "40 input channels" in reason_of(groups=1)
    assert "at least 32 channels" in reason_of(in_features=16, out_features=16, groups=16)
    assert "at most 8, not 9" in reason_of(out_features=360)
    assert "at most 64 taps on the last axis, but there are 65" in reason_of(
        kernel_spatial=(1, 65), padding=((0, 0), (60, 60))
    )
    assert "(5, 5) have 25" in reason_of(Operator.INPUT_GRAD, strides=(5, 5))
    long = {"input_spatial": (9, 40_000)}
    assert "16 MiB of VMEM" in reason_of(generation="v4", **long)
    assert "empty" in reason_of(batch=0)


@pytest.mark.parametrize("generation", GENERATIONS)
@by_operator
def test_tiles_of_workloads_fit_and_move_little(operator, generation):
    chip = GENERATIONS[generation]
    for workload in DEPTHWISE:
        for dtype in map(np.dtype, DTYPES):
            if tile_config.unsupported_reason(operator, workload.spec, dtype, generation):
                assert generation == "v4", workload.name
                continue
            p = plan(operator, workload.spec)
            tiles = entry.candidates(operator, workload.spec, dtype, generation)
            assert tiles[0] == entry.tile_config(operator, workload.spec, dtype, generation)
            assert len(set(tiles)) == len(tiles)
            sizes = [tile_config.vmem_bytes(operator, p, tile, dtype.itemsize) for tile in tiles]
            assert max(sizes) < chip.vmem, workload.name
            moved = tile_config.moved_bytes(operator, p, tiles[0], dtype.itemsize)
            floor = tile_config.floor_bytes(operator, p, dtype.itemsize)
            assert moved <= 1.3 * floor or chip.cores > 1, (workload.name, moved / floor)


@pytest.mark.parametrize(
    ("kind", "generation"),
    [("TPU v4", "v4"), ("TPU v5", "v5p"), ("TPU v6 lite", "v6e"), ("TPU v99", "v4")],
)
def test_device_kinds(kind, generation):
    assert generation_of(kind) == generation


# --- the real compiler ----------------------------------------------------------------------------


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install libtpu"
)
@pytest.mark.parametrize("generation", ["v5e", "v6e"])
def test_compiled(generation, tmp_path):
    """The kernel is in the program, copies and spills nothing, and keeps the vector unit busy."""
    root = pathlib.Path(__file__).parents[2]
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks.tpu.static", "--generations", generation]
    only = ["3x3 8x56x56x128", "3x3 8x14x14", "3x3 1x112", "x2 3x3"]
    subprocess.run(
        [*command, "--without-lax", "--only", *only, "--programs", str(report)],
        check=True,
        cwd=root,
        timeout=900,
        capture_output=True,
    )
    rows = json.loads(report.read_text())["rows"]
    assert len(rows) == 4 * 3 * 2
    for row in rows:
        ours = row["jaxconv"]
        assert ours["kernel_calls"] == 1, row
        assert ours["temporaries"] <= 0.1, row
        assert ours["moved"] <= 1.3, row
        assert ours["spills"] == 0, row
        if row["workload"].startswith("depthwise 3x3 8x"):
            assert ours["bundles_over_floor"] <= 1.5, row
