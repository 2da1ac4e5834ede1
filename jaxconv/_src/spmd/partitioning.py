"""Operators that XLA partitions over several devices, through jax's ``custom_partitioning``.

XLA learns from a Shardy rule (``sharding_rule.py``) which factors it may partition, and receives
the operator on one shard (``shard.py``), computed by the implementation that dispatch chooses for
the shard: also one that XLA could not partition itself.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning

from .. import compat
from ..geometry.spec import ConvSpec, Operator
from ..primitives.rules import RESULT, ROLES, bind
from . import shard
from .plan import as_mesh_axes, make_plan
from .sharding_rule import rule_options, sharding_rule


def partitioned(operator: Operator, platform: str, spec: ConvSpec, dtype, compute: Callable, mesh):
    """``operator`` as a function of its operands that XLA may partition along every factor.

    ``compute(spec, dtype, a, b, examples=None)`` is the operator of a smaller spec on one device,
    for one of so many examples; ``mesh`` maps the mesh axes to partition over to their sizes.
    """
    # Groups with as many in- as out-features need no compound factor: x and g are sharded alike.
    uneven = spec.group_in != spec.group_out
    compound = uneven and not any(spec.groups % size for size in mesh.values())
    settings = _settings(compat.no_mesh(platform))

    def unpartitioned(a, b):
        return bind(operator, a, b, spec, dtype=dtype)  # only its type is used

    def partition(mesh, operands, result):
        roles = (*ROLES[operator], RESULT[operator])
        leading, partitions = _split_leading(spec, map(_partitions, (*operands, result)))
        one = spec.one_example
        plan = make_plan(operator, one, dict(mesh.shape), dict(zip(roles, partitions, strict=True)))
        shardings = [
            compat.named_sharding(
                mesh, (*leading, *plan.outer_partition(role, is_result=role == RESULT[operator]))
            )
            for role in roles
        ]

        def on_shard(a, b):
            run = functools.partial(shard.run, operator, plan, dtype=dtype)
            with settings():
                if not leading:
                    return run(a, b, compute=compute)
                of_one = functools.partial(compute, examples=a.shape[0])
                return jax.vmap(functools.partial(run, compute=of_one))(a, b)

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


def _split_leading(
    spec: ConvSpec, partitions: Iterable[tuple]
) -> tuple[list[tuple[str, ...]], list[tuple]]:
    """The mesh axes that partition the examples, and the partitions of the other axes without them.

    If the arrays disagree, the first one that is partitioned along its examples decides.
    """
    partitions = [tuple(map(as_mesh_axes, partition)) for partition in partitions]
    lead = len(spec.leading)
    leading = [next((p[axis] for p in partitions if p[axis]), ()) for axis in range(lead)]
    taken = {name for axes in leading for name in axes}
    rest = [
        tuple(tuple(name for name in axes if name not in taken) for axes in partition[lead:])
        for partition in partitions
    ]
    return leading, rest


def _partitions(array) -> tuple:
    """The ``PartitionSpec`` of an array, with one entry per axis."""
    spec = tuple(array.sharding.spec) if array.sharding is not None else ()
    return spec + (None,) * (len(array.shape) - len(spec))
