"""What the engine asks of Linux: large pages, and helpers on processors of their own."""

from __future__ import annotations

import pathlib
import re
import time

import jax
import jax.numpy as jnp
import pytest

from jaxconv._src.geometry.spec import ConvSpec
from jaxconv._src.kernels.cpu import native

SMAPS = pathlib.Path("/proc/self/smaps")
LARGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
TASKS = pathlib.Path("/proc/self/task")

pytestmark = pytest.mark.skipif(
    isinstance(native._library(), str) or not SMAPS.exists(),
    reason="the CPU engine is not built, or this is not Linux",
)


def spec_of(extent: int) -> ConvSpec:
    """Depthwise 3×3 over 32 features."""
    size = (extent, extent)
    return ConvSpec(1, 32, 32, size, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 32)


def call_of(extent: int):
    spec = spec_of(extent)
    x, kernel = jnp.ones(spec.input_shape), jnp.ones(spec.kernel_shape)
    compiled = jax.jit(lambda x, kernel: native.conv(x, kernel, spec)).lower(x, kernel).compile()
    return lambda: jax.block_until_ready(compiled(x, kernel))


def wants_large_pages(address: int) -> bool:
    """Whether the mapping that holds ``address`` has the flag that asks for them."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if bounds:
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise AssertionError(f"nothing is mapped at {address:#x}")


@pytest.mark.skipif(not LARGE_PAGES.exists(), reason="this kernel has no large pages to ask for")
def test_blocks_of_their_own_get_large_pages():
    call = call_of(640)  # 50 MiB: more than malloc() ever keeps for the next call
    for _ in range(3):
        time.sleep(0.15)  # mappings are looked up ten times a second at most
        result = call()
        if wants_large_pages(result.unsafe_buffer_pointer() + result.nbytes // 2):
            break
    else:
        raise AssertionError("no call asked for large pages")
    assert float(result[0, 320, 320, 7]) == 9.0


def test_threads_may_run_where_they_might_before():
    def allowed() -> dict[str, str]:
        found = {}
        for task in TASKS.iterdir():
            status = (task / "status").read_text()
            found[task.name] = re.search(r"Cpus_allowed_list:\s*(\S+)", status)[1]
        return found

    before = allowed()
    call = call_of(64)
    for _ in range(300):
        call()
    time.sleep(0.1)  # a call does not wait for helpers that came too late to help
    after = allowed()
    assert set(after.values()) == {before[str(min(map(int, before)))]}
