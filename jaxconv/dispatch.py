"""The only table: which kernel computes (operator, platform, spec, dtype), and why not the others.

A kernel is a module of ``jaxconv.kernels``. Every choice here is a rule on the spec with the
measurement behind it, so that the same program always runs on the same kernels.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType

from .kernels import dots, lax, taps
from .spec import ConvSpec, Operator

KERNELS: dict[str, ModuleType] = {"lax": lax, "taps": taps, "dots": dots}


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
    operator: Operator, platform: str, spec: ConvSpec, dtype, implementation: str | None = None
) -> Choice:
    """The kernel for one operator of one spec on one platform."""
    if implementation is not None:
        against = dict.fromkeys(KERNELS.keys() - {implementation}, "another one is forced")
        return Choice(implementation, "forced", against)
    refusals = {name: refusal(name, operator, spec, dtype) for name in KERNELS}
    rule = _cpu if platform == "cpu" else _accelerator
    chosen, reason = rule(operator, spec)
    if refusals[chosen] is not None:
        chosen, reason = "lax", f'"{chosen}" cannot serve: {refusals[chosen]}'
    against = {
        name: refusal or f'"{chosen}" is faster: {reason}'
        for name, refusal in refusals.items()
        if name != chosen
    }
    return Choice(chosen, reason, against)


def _accelerator(operator: Operator, spec: ConvSpec) -> tuple[str, str]:
    return "lax", "the platform's own convolutions"


def _cpu(operator: Operator, spec: ConvSpec) -> tuple[str, str]:
    """Measured over ``workloads.py`` on 2 cores (AVX-512, jax 0.10.2), against lax's times."""
    if spec.depthwise and spec.in_features > 1:
        # Forward 17 to 600 times as fast, input gradients 16 to 1,000, filter gradients 4 to 9,000.
        return "taps", "depthwise: lax convolves channel by channel"
    if spec.disjoint:
        # 1x1 forward 1.3 to 1.6 times as fast, filter gradient 3.8 to 4.6; 16x16 patches 1.3, 2.0
        # and, for the input gradient, 33.
        return "dots", "windows do not overlap: a matrix product of what is there"
    if spec.groups > 1:
        # g32 and g4 3x3 8x28x28x256: 5 to 8 times as fast, filter gradients 28 and 600.
        return "dots", "grouped: lax's filter gradient computes every pair of groups"
    if spec.rank == 3:
        # 3x3x3 2x16x32x32x32: 1.26, 1.29 and, for the filter gradient, 2.3 times as fast.
        return "dots", "three spatial axes: lax has no fast path"
    # Other dense rows: lax is faster, by up to 3 times (7x7 s2 4x224x224 3>64).
    return "lax", "dense: lax's own matrix products are faster"
