"""The memory of a call in addition to its result, as ``benchmarks/cpu/memory.py`` measures it."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from jaxconv._src.kernels.cpu import library

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None or sys.platform != "linux",
    reason="the CPU engine is not built, or this is not Linux",
)


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.cpu.memory", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_calls_use_at_most_4_mib_of_workspace():
    """Depthwise 3×3 and 7×7 and a transposed convolution, every operator."""
    done = run("--only", "8x14x14")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("input_grad") == 3


def test_the_measurement_can_fail():
    done = run("--only", "dense 7x7", "--implementation", "lax")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "filter_grad" in done.stdout
