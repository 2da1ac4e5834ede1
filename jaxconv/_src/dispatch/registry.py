"""The implementations: where each one runs, and the reasons why one cannot compute an operator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Set
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from ..geometry.checks.call import shown
from ..geometry.checks.sizes import MAX_ENTRIES, sequence
from ..geometry.spec import ConvSpec, Operator
from ..kernels.cpu import native
from ..kernels.gpu import entry as pallas_gpu
from ..kernels.tpu import entry as pallas_tpu
from ..kernels.xla import dots, fft, lax, taps

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# For each name, the module that implements it on each platform it runs on.
IMPLEMENTATIONS: dict[str, dict[str, ModuleType]] = {
    "lax": dict.fromkeys(PLATFORMS, lax),
    "taps": dict.fromkeys(PLATFORMS, taps),
    "dots": dict.fromkeys(PLATFORMS, dots),
    "fft": dict.fromkeys(PLATFORMS, fft),
    "native": {"cpu": native},
    "pallas": {"cuda": pallas_gpu, "tpu": pallas_tpu},
}

# Implementations that are custom calls, which XLA can neither partition nor export.
CUSTOM_CALLS = ("native", "pallas")


def computes_examples_as_groups(platform: str) -> bool:
    """Whether examples are computed as groups of one convolution, and not one by one.

    A GPU or a TPU needs one large computation, and has kernels for many groups. On a CPU so many
    groups would exceed what the engine supports: the filter gradients of 520 examples of 3x3 8x8
    128>128 took 16 times as long.
    """
    return platform != "cpu"


def computed_spec(spec: ConvSpec, platform: str) -> ConvSpec:
    """The spec that an implementation computes on ``platform``: one without examples."""
    return spec.examples_as_groups if computes_examples_as_groups(platform) else spec.one_example


def check_name(implementation: str) -> None:
    if not isinstance(implementation, str) or implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation must be None or one of {', '.join(IMPLEMENTATIONS)}, but got "
            f"{shown(implementation)}"
        )


def check_platforms(function: str, platforms: Any) -> tuple[str, ...]:
    """The platforms, one or several, passed to ``function``; "gpu", as jax names it, is CUDA."""
    several = isinstance(platforms, Set | Iterator) or sequence(platforms) is not None
    entries: Any = itertools.islice(platforms, MAX_ENTRIES) if several else (platforms,)
    names: tuple[Any, ...] = tuple(
        "cuda" if isinstance(name, str) and name == "gpu" else name for name in entries
    )
    unknown = [name for name in names if not isinstance(name, str) or name not in PLATFORMS]
    if unknown:
        raise ValueError(
            f"{function}: platforms must be among {', '.join(PLATFORMS)}, but got "
            f"{', '.join(map(shown, unknown))}"
        )
    return names


def unsupported_message(
    implementation: str, operator: Operator, spec: ConvSpec, dtype
) -> str | None:
    """The error message for a forced implementation that no platform supports, or None."""
    reason = unsupported_reason(implementation, operator, spec, dtype)
    return None if reason is None else message_of(implementation, reason)


def message_of(implementation: str, reason: str) -> str:
    """The error message for a forced implementation; callers name the function and the shapes."""
    return (
        f'implementation "{implementation}" does not support this convolution: {reason}; '
        "pass implementation=None to let jaxconv choose"
    )


def unsupported_reason(
    implementation: str, operator: Operator, spec: ConvSpec, dtype
) -> str | None:
    """Why an implementation cannot compute ``operator`` on any platform, or None if it can."""
    check_name(implementation)
    reasons = [
        _unsupported_reason(implementation, platform, operator, spec, dtype)
        for platform in IMPLEMENTATIONS[implementation]
    ]
    return None if None in reasons else "; ".join(dict.fromkeys(filter(None, reasons)))


def unsupported_reasons(
    platform: str, operator: Operator, spec: ConvSpec, dtype, plain_xla_reason: str | None = None
) -> dict[str, str | None]:
    """For each implementation, why it cannot compute ``operator`` on ``platform``, or None.

    ``plain_xla_reason`` says why the program may contain no custom calls, or is None if it may.
    """

    def reason_against(name: str) -> str | None:
        if platform not in IMPLEMENTATIONS[name]:
            return f"it runs on {' and '.join(IMPLEMENTATIONS[name])}, not on {platform}"
        if plain_xla_reason is not None and name in CUSTOM_CALLS:
            return plain_xla_reason
        return _unsupported_reason(name, platform, operator, spec, dtype)

    return {name: reason_against(name) for name in IMPLEMENTATIONS}


def _unsupported_reason(
    name: str, platform: str, operator: Operator, spec: ConvSpec, dtype
) -> str | None:
    spec = computed_spec(spec, platform)
    if name != "lax" and not all(isinstance(n, int) for n in spec.padded_spatial):
        return "it needs spatial sizes that are known at compile time, but some are symbolic"
    if name != "lax" and jnp.dtype(dtype).itemsize == 1:
        return "it accumulates in float32, to which 8-bit floats are not promoted"
    return IMPLEMENTATIONS[name][platform].unsupported_reason(operator, spec, dtype)
