"""What compiled programs send: reading their text, and a step compiled for four TPU chips."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks.common import results
from benchmarks.common.traffic import Traffic, traffic
from jaxconv.models.mobilenet_v1 import BLOCKS

ROOT = pathlib.Path(__file__).parents[2]

TEXT = """
  %a.1 = (f32[32]{0:T(128)}, bf16[3,3,1,8]{3,2,1,0:T(2,128)(2,1)}, f32[]{:T(128)}) all-reduce(%x)
  %b = bf16[8,1,48,32]{3,0,2,1:T(8,128)(2,1)} collective-permute(%c), channel_id=3
  %d = (f32[8,2]{1,0}, f32[8,2]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%e)
  %f = f32[8,2]{1,0} collective-permute-done(%d)
  %g = ((f32[64]{0}), f32[64]{0}) all-reduce-start(%h), to_apply=%add
  %i = (s32[2]{0}, s32[8]{0}) all-gather-start(%j), dimensions={0}
  %k = pred[6]{0} all-to-all(%l)
  %m = f32[16]{0} reduce-scatter(%n), dimensions={0}
  %o = f32[4]{0} fusion(%all-reduce.3), calls=%all-reduce.fused
"""


def test_collectives_are_counted_by_their_bytes():
    found = traffic(TEXT, 4)
    summed = 4 * 32 + 2 * 72 + 4 + 4 * 64
    assert found["all-reduce"] == Traffic(2, summed, 1.5 * summed)
    assert found["collective-permute"] == Traffic(2, 2 * 8 * 48 * 32 + 64, 2 * 8 * 48 * 32 + 64)
    assert found["all-gather"] == Traffic(1, 32, 24)
    assert found["all-to-all"] == Traffic(1, 6, 4.5)
    assert found["reduce-scatter"] == Traffic(1, 256, 192)


def run(*arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.multi_device.static", *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("target", "module", "install"),
    [
        ("v5e-4", "libtpu", "pip install libtpu"),
        ("H100-8", "jax_cuda13_plugin", 'pip install "jax[cuda13]"'),
    ],
)
def test_without_a_compiler_a_sentence_says_how_to_install_it(target, module, install):
    if importlib.util.find_spec(module) is not None:
        pytest.skip("installed")
    done = run("--targets", target)
    assert done.returncode == 0
    assert f"{target} needs its compiler but no device: {install}" in done.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs the TPU compiler, but no TPU: pip install libtpu",
)
def test_four_chips_send_halos_and_one_sum_of_gradients(tmp_path):
    """A narrow network sharded over its height: its kernels' bytes, and rows of its features."""
    path = tmp_path / "rows.json"
    options = ("--targets", "v5e-4", "--axes", "height", "--width", "0.125", "--json", str(path))
    done = run(*options)
    assert done.returncode == 0, done.stderr
    (row,) = results.read(path).rows
    sent = row["collectives"]
    assert sent.keys() == {"all-reduce", "collective-permute"}
    kernels, features = 27 * 4, 4
    for block, _ in BLOCKS:
        kernels += features * (9 + block // 8)
        features = block // 8
    # Kernels in bfloat16, and the sums of batch normalization.
    assert 2 * kernels < 1024 * sent["all-reduce"]["payload_kib"] < 4 * kernels
    # The first block reads two rows of 8 images, of 48 pixels with 4 features; others likewise.
    assert 2 * 8 * 48 * 4 < 1024 * sent["collective-permute"]["payload_kib"] < 200 * 8 * 48 * 4
