"""How the Mosaic-TPU kernels are cut and what they refuse; compiled where libtpu is."""

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
from jaxconv._src.kernels.tpu import blocks, entry
from jaxconv._src.kernels.tpu.layout import plan
from jaxconv._src.kernels.tpu.tiling import GENERATIONS
from support.family import as_spec
from support.oracle import Case

by_operator = pytest.mark.parametrize("operator", Operator, ids=lambda operator: operator.value)
DTYPES = (np.float32, ml_dtypes.bfloat16)
CASE = Case(2, 40, 40, (9, 7), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 40)


def refused(operator=Operator.CONV, dtype=np.float32, generation="v5e", **changes):
    spec = as_spec(CASE).replace(**changes)
    return blocks.unsupported_reason(operator, spec, dtype, generation)


def test_refusals_say_why():
    assert refused() is None
    assert "not float64" in refused(dtype=np.float64)
    assert "40 in-features" in refused(groups=1)
    assert "16 channels" in refused(in_features=16, out_features=16, groups=16)
    assert "multiplier of 9" in refused(out_features=360)
    assert "65 taps" in refused(kernel_spatial=(1, 65), padding=((0, 0), (60, 60)))
    assert "25 are too many" in refused(Operator.INPUT_GRAD, strides=(5, 5))
    long = {"input_spatial": (9, 40_000)}
    assert "16 MiB of VMEM" in refused(generation="v4", **long)
    assert "nothing to compute" in refused(batch=0)


@pytest.mark.parametrize("generation", GENERATIONS)
@by_operator
def test_blocks_of_workloads_fit_and_move_little(operator, generation):
    chip = GENERATIONS[generation]
    for workload in DEPTHWISE:
        for dtype in map(np.dtype, DTYPES):
            if blocks.unsupported_reason(operator, workload.spec, dtype, generation):
                assert generation == "v4", workload.name
                continue
            p = plan(operator, workload.spec)
            cuts = entry.candidates(operator, workload.spec, dtype, generation)
            assert cuts[0] == entry.blocks(operator, workload.spec, dtype, generation)
            assert len(set(cuts)) == len(cuts)
            sizes = [blocks.vmem_bytes(operator, p, cut, dtype.itemsize) for cut in cuts]
            assert max(sizes) < chip.vmem, workload.name
            moved = blocks.moved_bytes(operator, p, cuts[0], dtype.itemsize)
            floor = blocks.floor_bytes(operator, p, dtype.itemsize)
            assert moved <= 1.3 * floor or chip.cores > 1, (workload.name, moved / floor)


@pytest.mark.parametrize(
    ("kind", "generation"),
    [("TPU v4", "v4"), ("TPU v5", "v5p"), ("TPU v6 lite", "v6e"), ("TPU v99", "v4")],
)
def test_device_kinds(kind, generation):
    assert entry.generation_of(kind) == generation


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
