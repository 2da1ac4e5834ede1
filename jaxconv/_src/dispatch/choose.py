"""Which implementation computes (operator, platform, spec, dtype), and why not the others.

In this order: the implementation that the caller forced; what ``autotune`` measured on this device
and keeps in its table; the rules of ``rules.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..geometry.spec import ConvSpec, Operator
from ..kernels.target import device_kind
from . import tuning_cache
from .registry import (
    CUSTOM_CALLS,
    IMPLEMENTATIONS,
    computed_spec,
    message_of,
    unsupported_reasons,
)
from .rules import implementation_by_rule


@dataclasses.dataclass(frozen=True)
class Choice:
    """The implementation chosen, why, and the reason against each of the others.

    ``tile`` is the implementation's tile configuration, hashable, or None if it has none.
    """

    implementation: str
    reason: str
    reasons_against: dict[str, str]
    tile: Any = None


def choose_implementation(
    operator: Operator,
    platform: str,
    spec: ConvSpec,
    dtype,
    implementation: str | None = None,
    plain_xla_reason: str | None = None,
    packed: bool = False,
) -> Choice:
    """Chooses the implementation of one operator of one spec on one platform.

    Args:
        operator: One of the three operators.
        platform: One of ``registry.PLATFORMS``.
        spec: The convolution.
        dtype: The dtype of the result.
        implementation: The name of the implementation to force, or None.
        plain_xla_reason: Why the program may contain no custom calls, as an exported one may not;
            None if it may.
        packed: Whether the kernel is packed for the CPU engine already.

    Raises:
        ValueError: The forced implementation does not support this convolution here.
    """
    unsupported = unsupported_reasons(platform, operator, spec, dtype, plain_xla_reason)
    if implementation is not None:
        return _forced(implementation, unsupported, platform, operator, spec, dtype)
    measured = tuning_cache.current_trial()
    if measured is None:
        measured = _from_table(unsupported, plain_xla_reason, platform, operator, spec, dtype)
    if measured is not None:
        (name, tile), reason = measured, "measured on this device"
    else:
        name, reason = implementation_by_rule(platform, operator, spec, dtype, unsupported, packed)
        tile = _default_tile(name, platform, operator, spec, dtype)
    reasons_against = {
        other: why or f'"{name}" is preferred: {reason}'
        for other, why in unsupported.items()
        if other != name
    }
    return Choice(name, reason, reasons_against, tile)


def _forced(
    name: str,
    unsupported: Mapping[str, str | None],
    platform: str,
    operator: Operator,
    spec: ConvSpec,
    dtype,
) -> Choice:
    # Binding the operator has already checked that some platform supports it.
    reason = unsupported[name]
    if reason is not None:
        first, second = spec.operand_shapes(operator)
        raise ValueError(f"{operator.value} of {first} and {second}: {message_of(name, reason)}")
    reasons_against = dict.fromkeys(IMPLEMENTATIONS.keys() - {name}, "another one is forced")
    tile = _default_tile(name, platform, operator, spec, dtype)
    return Choice(name, "forced", reasons_against, tile)


def _from_table(
    unsupported: Mapping[str, str | None],
    plain_xla_reason: str | None,
    platform: str,
    operator: Operator,
    spec: ConvSpec,
    dtype,
) -> tuning_cache.Trial | None:
    """The measured choice, if there is one that can still be used."""
    found = tuning_cache.lookup(platform, operator, computed_spec(spec, platform), dtype)
    if found is None:
        return None
    name = found.implementation
    reason = unsupported.get(name, "there is no such implementation")
    tiles = _tiles(name, platform, operator, spec, dtype) if reason is None else ()
    for tile in tiles:
        if found.tile == tuning_cache.text_of(tile):
            return tuning_cache.Trial(name, tile)
    if name not in CUSTOM_CALLS or plain_xla_reason is None:
        tuning_cache.distrust(f"{found} cannot be used: {reason or 'it has no such tile'}")
    return None


def default_trial(operator: Operator, platform: str, spec: ConvSpec, dtype) -> tuning_cache.Trial:
    """What runs where nothing is forced and nothing was measured."""
    unsupported = unsupported_reasons(platform, operator, spec, dtype)
    name, _ = implementation_by_rule(platform, operator, spec, dtype, unsupported)
    return tuning_cache.Trial(name, _default_tile(name, platform, operator, spec, dtype))


def candidate_trials(
    operator: Operator, platform: str, spec: ConvSpec, dtype
) -> list[tuning_cache.Trial]:
    """Every implementation that can be used, with each tile that is worth measuring."""
    unsupported = unsupported_reasons(platform, operator, spec, dtype)
    return [
        tuning_cache.Trial(name, tile)
        for name, reason in unsupported.items()
        if reason is None
        for tile in _tiles(name, platform, operator, spec, dtype)
    ]


def _default_tile(name: str, platform: str, operator: Operator, spec: ConvSpec, dtype) -> Any:
    """The tile where nothing was measured; None if the implementation has no tiles."""
    module = IMPLEMENTATIONS[name][platform]
    if spec.empty or not hasattr(module, "tile_config"):
        return None
    spec = computed_spec(spec, platform)
    return module.tile_config(operator, spec, dtype, device_kind(platform))


def _tiles(name: str, platform: str, operator: Operator, spec: ConvSpec, dtype) -> tuple:
    module = IMPLEMENTATIONS[name][platform]
    if not hasattr(module, "candidates"):
        return (None,)
    spec = computed_spec(spec, platform)
    return module.candidates(operator, spec, dtype, device_kind(platform))
