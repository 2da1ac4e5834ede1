"""What the CPU engine asks of Linux, and how to observe it from a process of its own."""

from __future__ import annotations

import pathlib
import re
import time

import jax
import jax.numpy as jnp

from jaxconv._src.geometry.spec import ConvSpec
from jaxconv._src.kernels.cpu import native

SMAPS = pathlib.Path("/proc/self/smaps")

# Replaces functions of the C and C++ libraries that the engine calls, and counts the calls. All
# threads appear to run on one CPU, so that every helper thread tries to leave its caller's.
COUNTERS = """
#define _GNU_SOURCE
#include <sched.h>
#include <time.h>

int affinity_changes, clock_readings;

int sched_getcpu(void) { return 0; }

int sched_setaffinity(pid_t pid, size_t size, const cpu_set_t *set) {
  __atomic_add_fetch(&affinity_changes, 1, __ATOMIC_RELAXED);
  return 0;
}

/* std::chrono::steady_clock::now() */
long _ZNSt6chrono3_V212steady_clock3nowEv(void) {
  struct timespec now;
  __atomic_add_fetch(&clock_readings, 1, __ATOMIC_RELAXED);
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000L + now.tv_nsec;
}
"""


def depthwise(size: int) -> ConvSpec:
    """3×3 over 32 features and ``size`` by ``size`` pixels."""
    sizes = (size, size)
    return ConvSpec(1, 32, 32, sizes, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 32)


def compiled(spec: ConvSpec):
    """A compiled call of the engine on arrays of ones."""
    x, kernel = jnp.ones(spec.input_shape), jnp.ones(spec.kernel_shape)
    call = jax.jit(lambda x, kernel: native.conv(x, kernel, spec)).lower(x, kernel).compile()
    return lambda: jax.block_until_ready(call(x, kernel))


def has_large_pages(address: int) -> bool:
    """Whether large pages were requested for the mapping that holds ``address``."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if bounds:
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise AssertionError(f"nothing is mapped at {address:#x}")


def some_result_has_large_pages() -> bool:
    """Whether one of a few calls requests large pages for its result."""
    call = compiled(depthwise(640))  # 50 MiB: more than malloc() ever keeps for the next call
    for _ in range(3):
        time.sleep(0.15)  # mappings are looked up at most every 50 ms
        result = call()
        assert float(result[0, 320, 320, 7]) == 9.0
        if has_large_pages(result.unsafe_buffer_pointer() + result.nbytes // 2):
            return True
    return False
