"""The Shardy sharding rule of an operator, which tells XLA along which factors it may partition."""

from __future__ import annotations

import re
from typing import Any

from ..geometry.spec import ConvSpec, Operator
from ..primitives.rules import RESULT, ROLES
from .factors import axis_factors, summed_factors


def sharding_rule(operator: Operator, spec: ConvSpec, compound: bool = True) -> str:
    """The rule in Shardy's notation, such as ``n s0 c, t0 c f -> n s0 f``; ``e`` is the examples.

    With ``compound``, an axis of grouped features is a compound factor: groups times the features
    of a group. If the size of a mesh axis does not divide the number of groups, Shardy would
    partition them over a part of the mesh axis, which jax cannot express; ``compound=False`` gives
    the features of each array a factor of their own instead.
    """
    a, b = (_array_rule(role, spec, compound) for role in ROLES[operator])
    return f"{a}, {b} -> {_array_rule(RESULT[operator], spec, compound)}"


def _array_rule(role: str, spec: ConvSpec, compound: bool) -> str:
    within_group = "u" if role == "x" else "v"
    group_sizes = _group_sizes(spec)
    words = ["e"] * len(spec.leading)
    for axis, factor in enumerate(axis_factors(role, spec)):
        if factor == "j" and group_sizes and not compound:
            words.append("j" if spec.group_in == spec.group_out else f"j{role}")
        elif factor == "j" and within_group in group_sizes:
            words.append(f"(j {within_group})")
        else:
            words.append(factor or (f"t{axis}" if axis < spec.rank else "i"))
    return " ".join(words)


def _group_sizes(spec: ConvSpec) -> dict[str, int]:
    """The factors within a group (u in-features, v out-features); Shardy accepts none of size 1."""
    sizes = {"u": spec.group_in, "v": spec.group_out} if spec.groups > 1 else {}
    return {factor: size for factor, size in sizes.items() if size > 1}


def rule_options(operator: Operator, spec: ConvSpec, compound: bool = True) -> dict[str, Any]:
    """The keywords of ``def_partition`` beside the rule: what happens to each kind of factor, and
    the sizes of the factors of compound axes."""
    summed = summed_factors(operator, spec)
    sizes = _group_sizes(spec) if compound else {}
    if len(sizes) == 2:  # otherwise the groups are an axis of some array, whose size Shardy knows
        sizes["j"] = spec.groups
    replicated = {"i", *(f"t{axis}" for axis in range(spec.rank))}
    rule = sharding_rule(operator, spec, compound)
    in_order_of_rule = dict.fromkeys(re.findall(r"\w+", rule))  # as Shardy requires
    exchanged = [f"s{axis}" for axis in range(spec.rank) if f"s{axis}" not in summed]
    return {
        "reduction_factors": tuple(summed),
        "need_replication_factors": tuple(f for f in in_order_of_rule if f in replicated),
        "permutation_factors": tuple(exchanged),
        **sizes,
    }
