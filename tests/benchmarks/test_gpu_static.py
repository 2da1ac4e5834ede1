"""The benchmarks say what they need when there is no compiler or device; counting loads."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

PTX = """
.visible .entry first(
	ld.global.v4.b32 	{ %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
	ld.global.L1::evict_last.b16 	{ %rs1 }, [ %rd2 ];
.visible .entry second(
	ld.global.nc.f32 	%f1, [%rd3];
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *program.split(), *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


def assert_says_how_to_install(program: str, command: str) -> None:
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert command in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is not None, reason="installed")
def test_without_the_compiler_a_sentence_says_how_to_install_it():
    assert_says_how_to_install("-m benchmarks.gpu.static", 'pip install "jax[cuda13]"')


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="installed")
def test_without_libtpu_a_sentence_says_how_to_install_it():
    assert_says_how_to_install("-m benchmarks.tpu.static", "`pip install libtpu`")


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "program", ["-m benchmarks.cpu.run --platform cuda", "-m benchmarks.gpu.run"]
)
def test_without_a_device_a_sentence_says_so(program):
    done = run(program)
    if "there is nothing to time" not in done.stdout:
        pytest.skip("there is a GPU")
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1


def test_loads_are_counted_by_their_bytes():
    counts = f"[static.loads({PTX!r}, name) for name in ('first', 'second')]"
    done = run("-c", f"from benchmarks.gpu import static; print({counts})")
    assert done.stdout.strip() == "[{'16': 1, '2': 1}, {'4': 1}]", done.stderr
