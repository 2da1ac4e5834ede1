"""Operators that XLA partitions over several devices, through jax's ``custom_partitioning``.

XLA learns from a Shardy rule (``sharding_rule.py``) which factors it may partition, and receives
the operator on one shard (``shard.py``), computed by the implementation that dispatch chooses for
the shard: also one that XLA could not partition itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning

from .. import compat
from ..geometry.spec import ConvSpec, Operator
from ..primitives.rules import RESULT, ROLES, bind
from . import shard
from .plan import make_plan
from .sharding_rule import rule_options, sharding_rule


def partitioned(operator: Operator, platform: str, spec: ConvSpec, dtype, compute: Callable, mesh):
    """``operator`` as a function of its operands that XLA may partition along every factor.

    ``compute(spec, dtype, a, b)`` is the operator of a smaller spec on one device; ``mesh`` maps
    the mesh axes to partition over to their sizes.
    """
    # Groups with as many in- as out-features need no compound factor: x and g are sharded alike.
    uneven = spec.group_in != spec.group_out
    compound = uneven and not any(spec.groups % size for size in mesh.values())
    settings = _settings(compat.no_mesh(platform))

    def unpartitioned(a, b):
        return bind(operator, a, b, spec, dtype=dtype)  # only its type is used

    def partition(mesh, operands, result):
        roles = (*ROLES[operator], RESULT[operator])
        partitions = [_partitions(array) for array in (*operands, result)]
        plan = make_plan(
            operator, spec, dict(mesh.shape), dict(zip(roles, partitions, strict=True))
        )
        shardings = [
            compat.named_sharding(
                mesh, plan.outer_partition(role, is_result=role == RESULT[operator])
            )
            for role in roles
        ]

        def on_shard(a, b):
            with settings():
                return shard.run(operator, plan, a, b, dtype, compute)

        return mesh, on_shard, shardings[2], tuple(shardings[:2])

    function = custom_partitioning(unpartitioned)
    function.def_partition(
        partition,
        sharding_rule=sharding_rule(operator, spec, compound),
        **rule_options(operator, spec, compound),
    )
    return function


def _settings(mesh: Any) -> Callable[[], contextlib.AbstractContextManager]:
    """A context manager that restores this thread's jax settings on XLA's threads, which have none.

    The mesh is the exception: the caller's describes whole arrays, so ``mesh`` replaces it.
    """
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
    """The ``PartitionSpec`` of an array, with one entry per axis."""
    spec = tuple(array.sharding.spec) if array.sharding is not None else ()
    return spec + (None,) * (len(array.shape) - len(spec))
