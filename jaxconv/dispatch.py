"""The only table: which kernel computes (operator, platform, spec, dtype), and why not the others.

A kernel is a module of ``jaxconv.kernels``. Every choice here is a rule on the spec with the
measurement behind it, so that the same program always runs on the same kernels.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType

from .kernels import lax
from .spec import ConvSpec, Operator

KERNELS: dict[str, ModuleType] = {"lax": lax}


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
    return KERNELS[implementation].refusal(operator, spec, dtype)


def choose(
    operator: Operator, platform: str, spec: ConvSpec, dtype, implementation: str | None = None
) -> Choice:
    """The kernel for one operator of one spec on one platform."""
    if implementation is not None:
        return Choice(implementation, "forced by implementation=", {})
    return Choice("lax", "default", {})
