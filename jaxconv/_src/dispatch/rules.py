"""The implementation to use where nothing was measured: rules on the spec, one set per platform.

A rule depends on the platform, the spec and the dtype alone, so that the same program always runs
on the same implementations. The measurements behind each rule are in
``docs/design/measurements.md``; a comment here gives the one figure that decides. Ratios are lax's
time over the implementation's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax.numpy as jnp

from ..geometry.spec import ConvSpec, Operator
from .fft_rule import reason_for_fft

# With fewer output pixels than this, packing the kernel costs the CPU engine more than it saves.
MIN_ENGINE_PIXELS = 8


def implementation_by_rule(
    platform: str,
    operator: Operator,
    spec: ConvSpec,
    dtype,
    unsupported: Mapping[str, str | None],
    packed: bool = False,
) -> tuple[str, str]:
    """The name of the implementation to use, and why.

    ``unsupported`` maps each implementation to the reason why it cannot be used, or to None.
    ``packed`` is whether the kernel is packed for the CPU engine already.
    """
    if platform == "cpu" and unsupported["fft"] is None:
        long_kernel = reason_for_fft(operator, spec, unsupported["native"] is None)
        if long_kernel is not None:
            return "fft", long_kernel
    slower = None
    if unsupported["native"] is None and packed:
        return "native", "the CPU engine, for which the kernel is packed already"
    if unsupported["native"] is None:
        slower = _slower_in_the_engine(operator, spec)
        if slower is None:
            return "native", "the CPU engine: faster than XLA on nearly every shape"
    if not all(isinstance(n, int) for n in spec.kernel_shape):
        return "lax", "the sizes of the kernel are symbolic: lax supports them"
    rules = {"cpu": _cpu, "cuda": _cuda, "tpu": _tpu}
    # Plain XLA would compute a convolution of examples as one of as many groups.
    rule = rules.get(platform, _other_platforms)
    name, reason = rule(operator, spec.examples_as_groups, dtype)
    if unsupported[name] is not None:
        return "lax", f'"{name}" would be preferred, but {unsupported[name]}'
    return name, slower or reason


def _slower_in_the_engine(operator: Operator, spec: ConvSpec) -> str | None:
    """Why plain XLA is faster than the CPU engine, or None if it is not."""
    if math.prod((*spec.leading, spec.batch, *spec.output_spatial)) < MIN_ENGINE_PIXELS:
        return "few output pixels: packing the kernel for the engine costs more than it saves"
    if operator is Operator.INPUT_GRAD and spec.disjoint and not spec.pointwise:
        # 16x16 4x224x224 3>384 takes the engine 7.9 ms, dots 1.2 ms.
        return "the input gradient of patches: a matrix product of the output's gradient"
    return None


def _other_platforms(operator: Operator, spec: ConvSpec, dtype) -> tuple[str, str]:
    return "lax", "the platform's own convolutions"


def _tpu(operator: Operator, spec: ConvSpec, dtype) -> tuple[str, str]:
    if spec.depthwise and spec.in_features > 1:
        return "pallas", "depthwise: limited by memory bandwidth, and lax moves more bytes"
    return _other_platforms(operator, spec, dtype)


def _cuda(operator: Operator, spec: ConvSpec, dtype) -> tuple[str, str]:
    if spec.depthwise and spec.in_features > 1:
        # At least 1.2 on every depthwise workload, on an H200.
        return "pallas", "depthwise: cuDNN is slower, and pads and copies"
    one_product = spec.pointwise and spec.unstrided and spec.groups == 1
    if one_product and operator is not Operator.FILTER_GRAD:
        # By the compiled programs only, not timed: lax also transposes the kernel.
        return "dots", "1x1: a single matrix product"
    return "lax", "cuDNN's convolutions"


def _cpu(operator: Operator, spec: ConvSpec, dtype) -> tuple[str, str]:
    """In plain XLA, where the CPU engine cannot be used."""
    forward, filter_grad = operator is Operator.CONV, operator is Operator.FILTER_GRAD
    if spec.in_features == 1:
        # taps: 45 on 1>1 3x3 8x128x128, but 0.7 for its filter gradient.
        if spec.rank == 3 or (spec.out_features <= 8 and not filter_grad):
            return "taps", "one input channel and few products per pixel"
        return "lax", "one input channel: the taps form lax's matrix product"
    if spec.depthwise:
        # taps: at least 5.
        return "taps", "depthwise: lax convolves channel by channel"
    if spec.groups > 1:
        # dots: at least 5.
        return "dots", "grouped: lax's filter gradient computes every pair of groups"
    if spec.disjoint:
        # dots: at least 1.1, but 0.8 forward on 2x2 patches and 0.1 on 1x1 3>8.
        thin = min(spec.in_features, spec.out_features) < 8
        if forward and (thin or not spec.pointwise):
            return "lax", "few channels, or patches: lax's matrix product is as fast"
        return "dots", "windows do not overlap: a matrix product of the input as it is"
    if spec.rank == 3 and (filter_grad or jnp.dtype(dtype).itemsize >= 4):
        # dots: at least 1.3, but 0.7 forward in bfloat16.
        return "dots", "three spatial axes: lax has no fast path"
    # dots: at most 1.0.
    return "lax", "dense: lax's own matrix products are faster"
