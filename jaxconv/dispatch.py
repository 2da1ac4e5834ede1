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
    if platform != "cpu":
        chosen, reason = "lax", f"{platform} has its own convolutions"
    else:
        chosen, reason = _choose_cpu(operator, spec, refusals)
    against = {
        name: refusal or f'"{chosen}" is faster here: {reason}'
        for name, refusal in refusals.items()
        if name != chosen
    }
    return Choice(chosen, reason, against)


def _choose_cpu(operator: Operator, spec: ConvSpec, refusals: dict) -> tuple[str, str]:
    if spec.depthwise and refusals["taps"] is None:
        return "taps", "depthwise"
    if refusals["dots"] is None and (
        spec.pointwise or spec.groups > 1 or operator is Operator.FILTER_GRAD
    ):
        return "dots", "a matrix product"
    return "lax", "dense"
