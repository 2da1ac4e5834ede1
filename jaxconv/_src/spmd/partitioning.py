"""Convolutions that XLA may cut over several devices, by jax's custom partitioning.

XLA asks by a rule in Shardy's words which factors (``cut.py``) can be cut, and gets the operator of
one shard (``shards.py``), from whichever kernel dispatch chooses for it: also one that XLA itself
could not partition.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning

from .. import compat
from ..geometry.spec import ConvSpec, Operator
from ..primitives.rules import RESULT, ROLES, bind
from . import shard
from .plan import letters, plan, sums


def partitioned(operator: Operator, platform: str, spec: ConvSpec, dtype, compute: Callable, mesh):
    """``operator`` as a function of its operands that XLA may cut along every factor.

    ``compute(spec, dtype, a, b)`` is the operator of a smaller spec, on one device; ``mesh`` has
    the sizes of the axes to cut over.
    """
    # Groups with as many in- as out-features need no factor of their own: both are cut alike.
    uneven = spec.group_in != spec.group_out
    together = uneven and not any(spec.groups % size for size in mesh.values())
    settings = _settings(compat.no_mesh(platform))

    def whole(a, b):
        return bind(operator, a, b, spec, dtype=dtype)  # for its type; never lowered

    def partition(mesh, operands, result):
        roles = (*ROLES[operator], RESULT[operator])
        partitions = [_partitions(array) for array in (*operands, result)]
        cut = plan(operator, spec, dict(mesh.shape), dict(zip(roles, partitions, strict=True)))
        shardings = [
            compat.named_sharding(mesh, cut.outside(role, result=role == RESULT[operator]))
            for role in roles
        ]

        def on_shard(a, b):
            with settings():
                return shard.run(operator, cut, a, b, dtype, compute)

        return mesh, on_shard, shardings[2], tuple(shardings[:2])

    function = custom_partitioning(whole)
    function.def_partition(
        partition,
        sharding_rule=rule(operator, spec, together),
        **special(operator, spec, together),
    )
    return function


def _settings(mesh: Any) -> Callable[[], contextlib.AbstractContextManager]:
    """This thread's settings, for XLA's threads, which have none; but ``mesh`` for the caller's,
    which is about whole arrays."""
    config: Any = jax.config
    x64, precision = config.jax_enable_x64, config.jax_default_matmul_precision

    @contextlib.contextmanager
    def settings():
        with (
            jax.sharding.use_abstract_mesh(mesh),
            jax.enable_x64(x64),
            jax.default_matmul_precision(precision),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        ):
            yield

    return settings


def _partitions(array) -> tuple:
    spec = tuple(array.sharding.spec) if array.sharding is not None else ()
    return spec + (None,) * (len(array.shape) - len(spec))


# --- the rule -------------------------------------------------------------------------------------


def rule(operator: Operator, spec: ConvSpec, together: bool = True) -> str:
    """Shardy's rule, such as ``n s0 c, t0 c f -> n s0 f``.

    Groups that a mesh axis cuts apart are not ``together``: Shardy would cut them over a part of
    the axis, of which jax has no word. Their features stand for themselves then.
    """
    a, b = (_axes_rule(role, spec, together) for role in ROLES[operator])
    return f"{a}, {b} -> {_axes_rule(RESULT[operator], spec, together)}"


def _axes_rule(role: str, spec: ConvSpec, together: bool) -> str:
    """Groups of features stand before the features of a group."""
    within = "u" if role == "x" else "v"
    words = []
    for at, letter in enumerate(letters(role, spec)):
        if letter == "j" and _within(spec) and not together:
            words.append("j" if spec.group_in == spec.group_out else f"j{role}")
        elif letter == "j" and within in _within(spec):
            words.append(f"(j {within})")
        else:
            words.append(letter or (f"t{at}" if at < spec.rank else "i"))
    return " ".join(words)


def _within(spec: ConvSpec) -> dict[str, int]:
    """The factors beside the groups within an axis of features; Shardy takes none of size 1."""
    sizes = {"u": spec.group_in, "v": spec.group_out} if spec.groups > 1 else {}
    return {name: size for name, size in sizes.items() if size > 1}


def special(operator: Operator, spec: ConvSpec, together: bool = True) -> dict[str, Any]:
    """Which factors are summed, exchanged or never cut, and the sizes of those within an axis."""
    summed = sums(operator, spec)
    sizes = _within(spec) if together else {}
    if len(sizes) == 2:  # else the groups are an axis of their own, whose size Shardy knows
        sizes["j"] = spec.groups
    kept = {"i", *(f"t{axis}" for axis in range(spec.rank))}
    words = dict.fromkeys(re.findall(r"\w+", rule(operator, spec, together)))
    exchanged = [f"s{axis}" for axis in range(spec.rank) if f"s{axis}" not in summed]
    return {
        "reduction_factors": tuple(summed),
        # In the order of the rule, as Shardy demands.
        "need_replication_factors": tuple(word for word in words if word in kept),
        "permutation_factors": tuple(exchanged),
        **sizes,
    }
