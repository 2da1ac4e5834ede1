"""The only table: which kernel computes (operator, platform, spec, dtype), and why not the others.

A kernel is a module of ``jaxconv.kernels``. Every choice here is a rule on the spec with the
measurement behind it, so that the same program always runs on the same kernels.
"""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType

import jax.numpy as jnp

from .kernels import dots, lax, native, taps
from .spec import ConvSpec, Operator

KERNELS: dict[str, ModuleType] = {"lax": lax, "taps": taps, "dots": dots, "native": native}

# Fewer output pixels than this do not pay for packing the engine's weights.
FEW_PIXELS = 8


@dataclasses.dataclass(frozen=True)
class Choice:
    """The kernel chosen, why it was, and the reason against each of the others."""

    kernel: str
    reason: str
    against: dict[str, str]


def check_name(implementation: str) -> None:
    if implementation not in KERNELS:
        raise ValueError(
            f"implementation must be None or one of {', '.join(KERNELS)}, but got "
            f"{implementation!r}"
        )


def refusal(implementation: str, operator: Operator, spec: ConvSpec, dtype) -> str | None:
    """Why a forced kernel cannot serve on any platform, or None."""
    check_name(implementation)
    if implementation != "lax" and not all(isinstance(n, int) for n in spec.padded_spatial):
        return "it plans its loops by the spatial extents, and those are symbolic"
    return KERNELS[implementation].refusal(operator, spec, dtype)


def choose(
    operator: Operator,
    platform: str,
    spec: ConvSpec,
    dtype,
    implementation: str | None = None,
    plain: str | None = None,
) -> Choice:
    """The kernel for one operator of one spec on one platform.

    ``plain`` says why a program may hold nothing but plain XLA, as one that is exported.
    """
    if implementation is not None:
        return _forced(implementation, platform, plain)
    refusals = {name: refusal(name, operator, spec, dtype) for name in KERNELS}
    refusals["native"] = _engine_elsewhere(platform, plain) or refusals["native"]
    rule = _cpu if platform == "cpu" else _accelerator
    if refusals["native"] is None and not _engine_slower(operator, spec):
        chosen, reason = "native", _NATIVE
    else:
        chosen, reason = rule(operator, spec, dtype)
    if refusals[chosen] is not None:
        chosen, reason = "lax", f'"{chosen}" cannot serve: {refusals[chosen]}'
    against = {
        name: refusal or f'"{chosen}" is faster: {reason}'
        for name, refusal in refusals.items()
        if name != chosen
    }
    return Choice(chosen, reason, against)


def _forced(implementation: str, platform: str, plain: str | None) -> Choice:
    reason = _engine_elsewhere(platform, plain) if implementation == "native" else None
    if reason is not None:
        raise ValueError(f'implementation "{implementation}" cannot serve: {reason}')
    against = dict.fromkeys(KERNELS.keys() - {implementation}, "another one is forced")
    return Choice(implementation, "forced", against)


def _engine_elsewhere(platform: str, plain: str | None) -> str | None:
    return plain if platform == "cpu" else f"the engine runs on cpu, not on {platform}"


# lax's times over the engine's, 2 threads, AVX-512, all of workloads.py: depthwise 22 to 5,000,
# grouped 14 to 1,400, dense 0.96 to 14.
_NATIVE = "the CPU engine"


def _engine_slower(operator: Operator, spec: ConvSpec) -> bool:
    if spec.batch * math.prod(spec.output_spatial) < FEW_PIXELS:
        return True
    # Scattered patches: 16x16 4x224x224 3>384 took the engine 7.9 ms, dots 1.2.
    return operator is Operator.INPUT_GRAD and spec.disjoint and not spec.pointwise


def _accelerator(operator: Operator, spec: ConvSpec, dtype) -> tuple[str, str]:
    return "lax", "the platform's own convolutions"


def _cpu(operator: Operator, spec: ConvSpec, dtype) -> tuple[str, str]:
    """In plain XLA, measured over ``workloads.py`` and what comments name; AVX-512, jax 0.10.2.

    Ratios are lax's time over the kernel's, for conv, input_grad and filter_grad.
    """
    forward, filters = operator is Operator.CONV, operator is Operator.FILTER_GRAD
    if spec.in_features == 1:
        # taps: 1>1 3x3 8x128x128 45, 0.7 for filters; 1>32 5x5 4x64x64 0.3; 3-D 1>8 90, 35, 11.
        if spec.rank == 3 or (spec.out_features <= 8 and not filters):
            return "taps", "one in-feature and few products a pixel"
        return "lax", "one in-feature: the taps are lax's matrix product"
    if spec.depthwise:
        # taps: 17 to 600, 16 to 1,000, 5 to 9,000.
        return "taps", "depthwise: lax convolves channel by channel"
    if spec.groups > 1:
        # dots: g32 and g4 3x3 8x28x28x256 5 to 7, 5 to 6, 29 to 270.
        return "dots", "grouped: lax's filter gradient computes every pair of groups"
    if spec.disjoint:
        # dots: 1x1 1.2, 1.4, 1.1 to 10; 16x16 patches 1.3, 33, 2.0; but 2x2 patches 96>192 0.8
        # forward, and 1x1 3>8 0.1.
        thin = min(spec.in_features, spec.out_features) < 8
        if forward and (thin or not spec.pointwise):
            return "lax", "few or gathered in-features: lax's matrix product is as fast"
        return "dots", "windows do not overlap: a matrix product of what is there"
    if spec.rank == 3 and (filters or jnp.dtype(dtype).itemsize >= 4):
        # dots: 3x3x3 2x16x32x32x32 1.3, 1.3, 2.3; s2 16>32 3, 230, 11; but bfloat16 0.7 forward.
        return "dots", "three spatial axes: lax has no fast path"
    # dots: 0.3 to 1.0 on all other dense rows.
    return "lax", "dense: lax's own matrix products are faster"
