"""Where the fast Fourier transform is faster than direct sums, by a count of operations.

The rates are those of the slowest transforms and the fastest direct sums that were measured, so
that what is chosen is a clear win; see ``docs/design/measurements.md``. XLA:CPU computes a
transform on one thread, and the rates of the CPU engine are those of two: with many more cores,
direct sums may be faster again, and ``autotune`` finds out.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from ..geometry.spec import ConvSpec, Operator
from ..kernels.xla import fft, fft_plan
from .registry import unsupported_reason

MIN_SPEEDUP = 1.5

# Nanoseconds: of a call; of each element that is transformed, copied and padded; and of each
# complex product.
CALL_NS = 1e5
ELEMENT_NS = 6.0
PRODUCT_NS = 1.4

# Direct products per nanosecond with full vectors, which have this many features.
DEPTHWISE_RATE = 60.0
DENSE_RATE = 120.0
VECTOR_FEATURES = 16

# Direct sums in plain XLA take at least this many times as long, and do not skip the padding.
PLAIN_SLOWDOWN = 4


# Operations of direct sums per operation of the transforms from which ``long_conv`` asks for them
# on any platform. On GPUs and TPUs nothing was timed, so nothing else does.
MIN_OPERATIONS_RATIO = 32


@functools.lru_cache(maxsize=4096)
def reason_for_fft(operator: Operator, spec: ConvSpec, engine: bool = True) -> str | None:
    """Why to transform on a CPU; None if that is not clearly faster, or may be less exact.

    ``engine`` says whether the CPU engine would compute direct sums, or else plain XLA.
    """
    if spec.empty or not isinstance(spec.batch, int):
        return None
    speedup = _direct_ns(spec, engine) / _fft_ns(spec)
    if speedup < MIN_SPEEDUP or fft.relative_error_bound(operator, spec) > 1:
        return None
    return (
        f"a kernel of {spec.taps:,} taps: by a count of operations at least "
        f"{MIN_SPEEDUP} times as fast as direct sums"
    )


def asks_for_fft(spec: ConvSpec, dtype: Any) -> bool:
    """Whether ``long_conv`` transforms on every platform; a later choice need not, on its own."""
    sizes = (*spec.input_shape, *spec.kernel_shape, *spec.padded_spatial)
    if spec.empty or not all(isinstance(size, int) for size in sizes):
        return False
    if unsupported_reason("fft", Operator.CONV, spec, dtype) is not None:
        return False
    rows, pixels, _ = _transforms(spec)
    steps = math.log2(max(pixels, 2))
    few = spec.macs < MIN_OPERATIONS_RATIO * rows * pixels * steps
    return not few and fft.relative_error_bound(Operator.CONV, spec) <= 1


def _direct_ns(spec: ConvSpec, engine: bool) -> float:
    """The CPU engine skips kernel rows in the padding, but no columns."""
    rate = DEPTHWISE_RATE if spec.depthwise else DENSE_RATE
    if not engine:
        return spec.macs * PLAIN_SLOWDOWN / rate
    *outer, _ = range(spec.rank)
    read = math.prod(_share_inside(spec, i) for i in outer)
    used = spec.out_features if spec.depthwise else spec.group_out
    return spec.macs * read / (rate * min(1.0, used / VECTOR_FEATURES))


def _share_inside(spec: ConvSpec, i: int) -> float:
    """The share of the products along an axis that read the input rather than padding."""
    n, o, k = spec.input_spatial[i], spec.output_spatial[i], spec.kernel_spatial[i]
    s, d, (low, _) = spec.strides[i], spec.dilation[i], spec.padding[i]
    inside = 0
    for t in range(k):
        # 0 <= s*output + d*t - low < n
        first, last = -(-(low - d * t) // s), (n - 1 + low - d * t) // s
        inside += max(min(last, o - 1) - max(first, 0) + 1, 0)
    return inside / (o * k)


def _fft_ns(spec: ConvSpec) -> float:
    rows, pixels, products = _transforms(spec)
    return CALL_NS + ELEMENT_NS * rows * pixels + PRODUCT_NS * products


def _transforms(spec: ConvSpec) -> tuple[int, int, float]:
    """How many transforms there are, of how many pixels each, and the complex products."""
    axes = fft_plan.plan(fft_plan.cropped(spec)[0])
    pixels = math.prod(a.m for a in axes)
    copies = spec.batch * math.prod(a.blocks * (1 if a.summed else a.phases) for a in axes)
    summed = math.prod(a.phases for a in axes if a.summed)
    kernels = spec.group_in * summed * spec.out_features
    rows = copies * (spec.in_features * summed + spec.out_features) + kernels
    return rows, pixels, copies * kernels * pixels / 2
