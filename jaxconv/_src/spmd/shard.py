"""One operator on one device, by a partition plan: what the device receives, computes and sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import lax

from ..geometry.spec import ConvSpec, Operator
from ..primitives.rules import RESULT, ROLES
from .factors import axis_factors, factor_sizes, summed_factors
from .plan import PartitionPlan
from .shard_axis import AxisSharding, LocalGeometry, ShardAxis, with_local_geometry
from .spatial_shard import compute_spatial_shard


def run(operator: Operator, plan: PartitionPlan, a, b, dtype, compute: Callable):
    """The operator's result on one device, from its shards of the operands.

    ``compute(spec, dtype, a, b)`` is the operator of a smaller spec, on one device.
    """
    a, b = (
        _mask_past_end(_reshard(array, role, plan), role, operator, plan)
        for array, role in zip((a, b), ROLES[operator], strict=True)
    )
    # Partial sums in half precision would be rounded before they are added.
    partial = bool(plan.reduced_mesh_axes(operator))
    sum_dtype = jnp.promote_types(dtype, jnp.float32) if partial else dtype
    result = _compute(operator, plan, a, b, sum_dtype, compute)
    result = _reduce(result, operator, plan).astype(dtype)
    return _reshard(result, RESULT[operator], plan, outward=True)


def _compute(operator: Operator, plan: PartitionPlan, a, b, dtype, compute: Callable):
    shardings = {
        axis: AxisSharding(mesh_axes, shards)
        for axis, mesh_axes, shards in plan.sharded_spatial_axes()
    }
    axes = {
        axis: ShardAxis.of(operator, plan.spec, axis, sharding.shards)
        for axis, sharding in shardings.items()
    }

    def local(geometry, dtype, a, b):
        return compute(_shard_spec(plan, geometry), dtype, a, b)

    return compute_spatial_shard(operator, axes, shardings, a, b, dtype, local)


def _shard_spec(plan: PartitionPlan, geometry: Mapping[int, LocalGeometry]) -> ConvSpec:
    """The spec on one device, with this local geometry of the sharded spatial axes."""
    spec = plan.spec
    groups = plan.shard_size("j", spec.groups)
    return with_local_geometry(spec, geometry).replace(
        batch=plan.shard_size("n", spec.batch),
        in_features=plan.shard_size("c", groups * spec.group_in),
        out_features=plan.shard_size("f", groups * spec.group_out),
        groups=groups,
    )


def _reshard(x, role: str, plan: PartitionPlan, outward: bool = False):
    """An array as the computation shards it; with ``outward``, as the program around it does."""
    for reshard in plan.all_to_alls_of(role):
        split, concatenated = reshard.inner_axis, reshard.outer_axis
        if outward:
            split, concatenated = concatenated, split
        x = lax.all_to_all(x, reshard.mesh_axes, split, concatenated, tiled=True)
    return x


def _mask_past_end(x, role: str, operator: Operator, plan: PartitionPlan):
    """Zeros where the shard extends past the end of the array and its entries are undefined.

    Only on spatial axes and in sums, where these entries would affect others; results past the end
    may be anything.
    """
    affecting = {*summed_factors(operator, plan.spec), *(f"s{i}" for i in range(plan.spec.rank))}
    for axis, factor in enumerate(axis_factors(role, plan.spec)):
        if factor in plan.mesh_axes and factor in affecting:
            extent = factor_sizes(factor, plan.spec)[-1 if role == "g" else 0]
            if extent % plan.shards[factor]:
                index = lax.broadcasted_iota(jnp.int32, x.shape, axis)
                remaining = extent - x.shape[axis] * lax.axis_index(plan.mesh_axes[factor])
                x = jnp.where(index < remaining, x, 0)
    return x


def _reduce(result, operator: Operator, plan: PartitionPlan):
    """Sums the devices' partial results, leaving each device the part that it is to have."""
    remaining = plan.reduced_mesh_axes(operator)
    for factor, mesh_axes in plan.scattered.items():
        axis = axis_factors(RESULT[operator], plan.spec).index(factor)
        result = lax.psum_scatter(result, mesh_axes, scatter_dimension=axis, tiled=True)
        remaining = tuple(axis for axis in remaining if axis not in mesh_axes)
    return lax.psum(result, remaining) if remaining else result
