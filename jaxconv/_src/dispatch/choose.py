"""The only table: which kernel computes (operator, platform, spec, dtype), and why not the others.

A kernel is a module of ``jaxconv.kernels``. Every choice here is a rule on the spec with the
measurement behind it, so that the same program always runs on the same kernels, unless the user
has measured better: a table that ``autotune`` wrote goes first.
"""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from ..geometry.spec import ConvSpec, Operator
from ..kernels.cpu import native
from ..kernels.gpu import entry as pallas_gpu
from ..kernels.tpu import entry as pallas_tpu
from ..kernels.xla import dots, lax, taps
from . import tuning_cache

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# The module that a name stands for on each platform that it runs on.
IMPLEMENTATIONS: dict[str, dict[str, ModuleType]] = {
    "lax": dict.fromkeys(PLATFORMS, lax),
    "taps": dict.fromkeys(PLATFORMS, taps),
    "dots": dict.fromkeys(PLATFORMS, dots),
    "native": {"cpu": native},
    "pallas": {"cuda": pallas_gpu, "tpu": pallas_tpu},
}

# What XLA cannot partition or export: custom calls.
CUSTOM_CALLS = ("native", "pallas")

# Fewer output pixels than this do not pay for packing the engine's weights.
FEW_PIXELS = 8


@dataclasses.dataclass(frozen=True)
class Choice:
    """The implementation chosen, why, and the reason against each of the others.

    ``blocks`` is how the kernel cuts its work, hashable, or None where it has no such parameters.
    """

    implementation: str
    reason: str
    against: dict[str, str]
    blocks: Any = None


def check_name(implementation: str) -> None:
    if not isinstance(implementation, str) or implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation must be None or one of {', '.join(IMPLEMENTATIONS)}, but got "
            f"{implementation!r}"
        )


def check_platforms(function: str, platforms: Any) -> tuple[str, ...]:
    """One platform or several, as given to ``function``; of a GPU, as jax calls it, CUDA's."""
    several = not isinstance(platforms, str) and hasattr(platforms, "__iter__")
    given = platforms if several else (platforms,)
    wanted = tuple("cuda" if platform == "gpu" else platform for platform in given)
    unknown = [platform for platform in wanted if platform not in PLATFORMS]
    if unknown:
        raise ValueError(
            f"{function}: platforms must be among {', '.join(PLATFORMS)}, but got "
            f"{', '.join(map(repr, unknown))}"
        )
    return wanted


def unsupported_reason(
    implementation: str, operator: Operator, spec: ConvSpec, dtype
) -> str | None:
    """Why a forced kernel cannot serve on any platform, or None."""
    check_name(implementation)
    modules = IMPLEMENTATIONS[implementation]
    reasons = [_unsupported_reason(implementation, on, operator, spec, dtype) for on in modules]
    return None if None in reasons else "; ".join(dict.fromkeys(filter(None, reasons)))


def _unsupported_reason(
    name: str, platform: str, operator: Operator, spec: ConvSpec, dtype
) -> str | None:
    if name != "lax" and not all(isinstance(n, int) for n in spec.padded_spatial):
        return "it plans its loops by the spatial extents, and those are symbolic"
    if name != "lax" and jnp.dtype(dtype).itemsize == 1:
        return "it sums in float32, and 8-bit floats are not promoted to that"
    return IMPLEMENTATIONS[name][platform].unsupported_reason(operator, spec, dtype)


def _unsupported(platform: str, plain: str | None, *case) -> dict[str, str | None]:
    """Why each kernel cannot serve in this program on this platform, or None."""
    return {name: _unsupported_on(name, platform, plain, *case) for name in IMPLEMENTATIONS}


def _unsupported_on(name: str, platform: str, plain: str | None, *case) -> str | None:
    if platform not in IMPLEMENTATIONS[name]:
        return f"it runs on {' and '.join(IMPLEMENTATIONS[name])}, not on {platform}"
    if plain is not None and name in CUSTOM_CALLS:
        return plain
    return _unsupported_reason(name, platform, *case)


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
    unsupported = _unsupported(platform, plain, operator, spec, dtype)
    if implementation is not None:
        return _forced(implementation, unsupported, platform, operator, spec, dtype)
    tried = tuning_cache.current_trial()
    if tried is None:
        tried = _tuned(unsupported, plain, platform, operator, spec, dtype)
    if tried is not None:
        chosen, reason, cut = tried.kernel, "measured on this device", tried.blocks
    else:
        chosen, reason = _ruled(unsupported, platform, operator, spec, dtype)
        cut = _blocks(chosen, platform, operator, spec, dtype)
    against = {
        name: unsupported_reason or f'"{chosen}" is preferred: {reason}'
        for name, unsupported_reason in unsupported.items()
        if name != chosen
    }
    return Choice(chosen, reason, against, cut)


def _forced(implementation: str, unsupported, platform: str, operator, spec, dtype) -> Choice:
    # Where the operator was bound, a forced implementation was already checked in the caller's words.
    reason = unsupported[implementation]
    if reason is not None:
        first, second = spec.operand_shapes(operator)
        raise ValueError(
            f'implementation "{implementation}" cannot serve {operator.value} of {first} and '
            f"{second}: {reason}; leave implementation at None to let dispatch choose"
        )
    against = dict.fromkeys(IMPLEMENTATIONS.keys() - {implementation}, "another one is forced")
    cut = _blocks(implementation, platform, operator, spec, dtype)
    return Choice(implementation, "forced", against, cut)


def _blocks(name: str, platform: str, operator: Operator, spec: ConvSpec, dtype) -> Any:
    """How a kernel cuts its work where nothing was measured; None where it has no blocks."""
    module = IMPLEMENTATIONS[name][platform]
    if spec.empty or not hasattr(module, "blocks"):
        return None
    return module.blocks(operator, spec, dtype, module.generation())


def candidates(
    operator: Operator, platform: str, spec: ConvSpec, dtype
) -> list[tuning_cache.Trial]:
    """Every kernel that can serve, with each cut that is worth measuring."""
    case = operator, spec, dtype
    names = [name for name, why in _unsupported(platform, None, *case).items() if why is None]
    return [tuning_cache.Trial(name, cut) for name in names for cut in _cuts(name, platform, *case)]


def usual(operator: Operator, platform: str, spec: ConvSpec, dtype) -> tuning_cache.Trial:
    """What runs where nothing was measured."""
    unsupported = _unsupported(platform, None, operator, spec, dtype)
    chosen, _ = _ruled(unsupported, platform, operator, spec, dtype)
    return tuning_cache.Trial(chosen, _blocks(chosen, platform, operator, spec, dtype))


def _cuts(name: str, platform: str, operator: Operator, spec: ConvSpec, dtype) -> tuple:
    module = IMPLEMENTATIONS[name][platform]
    if not hasattr(module, "candidates"):
        return (None,)
    return module.candidates(operator, spec, dtype, module.generation())


def _tuned(unsupported, plain: str | None, platform: str, *case) -> tuning_cache.Trial | None:
    """The measured choice, where it can still be run."""
    found = tuning_cache.lookup(platform, *case)
    if found is None:
        return None
    refused = unsupported.get(found.kernel, "there is no such kernel")
    cuts = _cuts(found.kernel, platform, *case) if refused is None else ()
    for cut in cuts:
        if found.blocks == (None if cut is None else repr(cut)):
            return tuning_cache.Trial(found.kernel, cut)
    if found.kernel not in CUSTOM_CALLS or plain is None:
        tuning_cache.distrust(f"{found} cannot be run: {refused or 'it has no such blocks'}")
    return None


def _ruled(
    unsupported, platform: str, operator: Operator, spec: ConvSpec, dtype
) -> tuple[str, str]:
    if unsupported["native"] is None and not _engine_slower(operator, spec):
        return "native", _NATIVE
    rules = {"cpu": _cpu, "cuda": _cuda, "tpu": _tpu}
    chosen, reason = rules.get(platform, _others)(operator, spec, dtype)
    if unsupported[chosen] is not None:
        return "lax", f'"{chosen}" would be, but {unsupported[chosen]}'
    return chosen, reason


# lax's times over the engine's, 2 threads, AVX-512, all of workloads.py: depthwise 22 to 5,000,
# grouped 14 to 1,400, dense 0.96 to 14.
_NATIVE = "the CPU engine"


def _engine_slower(operator: Operator, spec: ConvSpec) -> bool:
    if spec.batch * math.prod(spec.output_spatial) < FEW_PIXELS:
        return True
    # Scattered patches: 16x16 4x224x224 3>384 took the engine 7.9 ms, dots 1.2.
    return operator is Operator.INPUT_GRAD and spec.disjoint and not spec.pointwise


def _others(operator: Operator, spec: ConvSpec, dtype) -> tuple[str, str]:
    return "lax", "the platform's own convolutions"


def _tpu(operator: Operator, spec: ConvSpec, dtype) -> tuple[str, str]:
    if spec.depthwise and spec.in_features > 1:
        return "pallas", "depthwise: bound by memory, and lax's program moves more of it"
    return _others(operator, spec, dtype)


def _cuda(operator: Operator, spec: ConvSpec, dtype) -> tuple[str, str]:
    """Depthwise by times on an H200, ``benchmarks/gpu.py``; 1x1 by compiled programs alone."""
    if spec.depthwise and spec.in_features > 1:
        # lax, with cuDNN: 1.2 to 360, 6 in the mean; no row of either dtype under 1.17.
        return "pallas", "depthwise: cuDNN is slower, and pads and copies"
    whole = spec.pointwise and spec.unstrided and spec.groups == 1
    if whole and operator is not Operator.FILTER_GRAD:
        # 8x28x28 256>512: one matrix product; lax: cuDNN's convolution and a transposed kernel.
        return "dots", "1x1: one matrix product and nothing else"
    return "lax", "cuDNN's convolutions"


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
