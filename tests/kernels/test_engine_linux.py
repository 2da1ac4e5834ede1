"""What the engine asks of Linux, and the environment variables that switch it off."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import time

import pytest

from jaxconv._src.kernels.cpu import library
from support.engine import run_python
from support.engine_linux import COUNTERS, SMAPS, compiled, depthwise

LARGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
TASKS = pathlib.Path("/proc/self/task")

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None or not SMAPS.exists(),
    reason="the CPU engine is not built, or this is not Linux",
)


@pytest.mark.skipif(not LARGE_PAGES.exists(), reason="this kernel has no large pages")
@pytest.mark.parametrize(("value", "expected"), [("1", "True"), ("0", "False")])
def test_large_pages(value, expected):
    """Results in a mapping of their own get large pages, unless they are switched off."""
    code = "from support.engine_linux import *; print(some_result_has_large_pages())"
    assert run_python(code, JAXCONV_LARGE_PAGES=value).strip() == expected


def test_threads_keep_their_affinity():
    def allowed() -> dict[str, str]:
        found = {}
        for task in TASKS.iterdir():
            status = (task / "status").read_text()
            found[task.name] = re.findall(r"Cpus_allowed_list:\s*(\S+)", status)[0]
        return found

    before = allowed()
    call = compiled(depthwise(64))
    for _ in range(300):
        call()
    time.sleep(0.1)  # a call does not wait for helpers that start too late to help
    after = allowed()
    assert set(after.values()) == {before[str(min(map(int, before)))]}


@pytest.fixture(scope="module")
def counters(tmp_path_factory) -> str:
    """A library to preload that counts changes of affinity and readings of the clock."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler")
    directory = tmp_path_factory.mktemp("counters")
    source, built = directory / "counters.c", directory / "counters.so"
    source.write_text(COUNTERS)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, source], check=True)
    return str(built)


def counts(counters: str, **environment) -> tuple[int, int, str]:
    """How often a call changes affinities and reads the clock, and a digest of results."""
    code = """
import ctypes, hashlib, numpy as np
from support.engine import OPERATORS, bare, operands
from support.engine_linux import compiled, depthwise
loaded, spec = ctypes.CDLL(None), depthwise(120)  # too small for large pages
digest = hashlib.sha1()
for operator in OPERATORS:
    pair = operands(operator, spec, "float32")
    for _ in range(40):  # on a busy machine, helpers of one call may start too late to help
        result = bare(operator, spec, "float32", *pair, threads=3)
    digest.update(result)
print(*(ctypes.c_int.in_dll(loaded, name).value for name in ("affinity_changes", "clock_readings")))
call = compiled(spec)  # on XLA's threads, which wait for the next call's work
for _ in range(20):
    digest.update(np.asarray(call()))
print(digest.hexdigest())
"""
    first, digest = run_python(code, LD_PRELOAD=counters, **environment).splitlines()
    affinity_changes, clock_readings = map(int, first.split())
    return affinity_changes, clock_readings, digest


@pytest.mark.skipif(
    len(getattr(os, "sched_getaffinity", lambda _: "?")(0)) < 2,
    reason="threads cannot leave the only CPU",
)
def test_affinity_and_spinning_can_be_switched_off(counters):
    changes, readings, digest = counts(counters)
    assert changes > 0
    assert readings > 0
    without_changes = counts(counters, JAXCONV_AFFINITY="0")
    assert without_changes[0] == 0 < without_changes[1]
    without_spinning = counts(counters, JAXCONV_SPIN="0")
    assert without_spinning[1] == 0 < without_spinning[0]
    assert {without_changes[2], without_spinning[2]} == {digest}
