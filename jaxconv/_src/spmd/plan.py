"""The partition plan of a convolution: which factor is partitioned over which mesh axes.

When a factor (see ``factors.py``) is partitioned, each device computes the same operator with a
smaller spec:

    a factor of the result     each device computes one shard of the result; for a spatial factor
                               it needs a halo from its neighbors
    a factor that is summed    each device computes a partial sum, and one all-reduce adds them; or
                               a reduce-scatter, if the result is sharded over the same devices

No activation is gathered. One that arrives sharded differently from the convolution is resharded by
an all-to-all. Uneven shards are sized as XLA sizes them: the extent divided by the number of shards
and rounded up, so the last shards extend past the end of the array.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from ..geometry.spec import ConvSpec, Operator
from ..primitives.rules import RESULT
from .factors import axis_factors, factor_roles, factor_sizes, summed_factors

MeshAxes = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class AllToAll:
    """Reshards the array ``role``: ``mesh_axes`` partition its axis ``outer_axis`` in the
    surrounding program and its axis ``inner_axis`` in the computation on each device."""

    role: str
    mesh_axes: MeshAxes
    outer_axis: int
    inner_axis: int


@dataclasses.dataclass(frozen=True)
class PartitionPlan:
    """The mesh axes that partition each factor, and the number of shards that this gives.

    ``scattered`` has the factors of the result that a reduce-scatter partitions.
    """

    spec: ConvSpec
    mesh_axes: dict[str, MeshAxes]
    shards: dict[str, int]
    scattered: dict[str, MeshAxes] = dataclasses.field(default_factory=dict)
    all_to_alls: tuple[AllToAll, ...] = ()

    def inner_partition(self, role: str) -> list[MeshAxes]:
        """The mesh axes that partition each axis of an array in the computation on each device."""
        return self._partition(role, self.mesh_axes)

    def outer_partition(self, role: str, is_result: bool = False) -> list[MeshAxes]:
        """The mesh axes that partition each axis of an array in the surrounding program."""
        mesh_axes = self.mesh_axes | self.scattered if is_result else self.mesh_axes
        partition = self._partition(role, mesh_axes)
        for reshard in self.all_to_alls_of(role):
            inner = partition[reshard.inner_axis]
            partition[reshard.inner_axis] = inner[: -len(reshard.mesh_axes)]
            partition[reshard.outer_axis] += reshard.mesh_axes
        return partition

    def _partition(self, role: str, mesh_axes: dict[str, MeshAxes]) -> list[MeshAxes]:
        factors = axis_factors(role, self.spec)
        return [() if factor is None else mesh_axes.get(factor, ()) for factor in factors]

    def all_to_alls_of(self, role: str) -> list[AllToAll]:
        return [reshard for reshard in self.all_to_alls if reshard.role == role]

    def reduced_mesh_axes(self, operator: Operator) -> MeshAxes:
        """The mesh axes whose devices hold partial sums of the same elements."""
        summed = summed_factors(operator, self.spec)
        return tuple(axis for factor in summed for axis in self.mesh_axes.get(factor, ()))

    def sharded_spatial_axes(self) -> Iterator[tuple[int, MeshAxes, int]]:
        """Each partitioned spatial axis, with its mesh axes and its number of shards."""
        for axis in range(self.spec.rank):
            factor = f"s{axis}"
            if factor in self.mesh_axes:
                yield axis, self.mesh_axes[factor], self.shards[factor]

    def shard_size(self, factor: str, size: int) -> int:
        """The size of one shard of an axis of ``size`` entries that has this factor."""
        return -(-size // self.shards.get(factor, 1))


def make_plan(
    operator: Operator, spec: ConvSpec, mesh: Mapping[str, int], partitions: Mapping[str, tuple]
) -> PartitionPlan:
    """Partitions the factors as the arrays arrive, preferring activations, which are the largest.

    A mesh axis partitions one factor only. If it partitions an activation in a way that the
    convolution cannot follow (it would split groups, or it partitions the two activations along
    different features), it partitions the batch or a spatial axis instead, and an all-to-all
    reshards the activation.
    """
    result = RESULT[operator]
    activations = [role for role in partitions if role not in ("k", result)]
    builder = _PlanBuilder(spec, mesh, partitions)
    builder.follow(
        activations, without=_contested(spec, [partitions[role] for role in activations])
    )
    for entry in (entry for role in activations for entry in partitions[role]):
        for mesh_axis in as_mesh_axes(entry):
            builder.place(mesh_axis)
    for roles in (activations, "k", result):
        builder.follow(roles)
    plan = PartitionPlan(spec, builder.mesh_axes, builder.shards)
    reshards = (each for role in partitions for each in _all_to_alls(role, plan, mesh, partitions))
    plan = dataclasses.replace(plan, all_to_alls=tuple(reshards))
    scattered = _scattered(operator, plan, mesh, partitions[result])
    return dataclasses.replace(plan, scattered=scattered)


def _contested(spec: ConvSpec, activations: Sequence[tuple]) -> set[str]:
    """The mesh axes that partition the in-features of one activation and the out-features of the
    other."""
    if len(activations) < 2 or spec.groups != 1:
        return set()
    return set.intersection(*(set(as_mesh_axes(partition[-1])) for partition in activations))


class _PlanBuilder:
    """A plan under construction: each factor and each mesh axis is assigned at most once."""

    def __init__(self, spec: ConvSpec, mesh: Mapping[str, int], partitions: Mapping[str, tuple]):
        self.spec, self.mesh, self.partitions = spec, mesh, partitions
        self.mesh_axes: dict[str, MeshAxes] = {}
        self.shards: dict[str, int] = {}

    def follow(self, roles: Collection[str], without: Collection[str] = ()) -> None:
        """Partitions the factors as these arrays are partitioned, leaving out some mesh axes."""
        for factor, having in factor_roles(self.spec).items():
            for role in (role for role in roles if role in having):
                entry = self.partitions[role][axis_factors(role, self.spec).index(factor)]
                self.partition(factor, tuple(a for a in as_mesh_axes(entry) if a not in without))

    def partition(self, factor: str, wanted: MeshAxes) -> None:
        """Partitions an unassigned factor over as many of the leading ``wanted`` axes as it can."""
        if factor not in self.mesh_axes:
            while wanted and not self._can_partition(factor, wanted):
                wanted = wanted[:-1]
            self._assign(factor, wanted)

    def place(self, mesh_axis: str) -> None:
        """Partitions the batch or a spatial axis evenly over an unassigned mesh axis, if it can."""
        for factor in ("n", *(f"s{axis}" for axis in range(self.spec.rank))):
            wanted = (*self.mesh_axes.get(factor, ()), mesh_axis)
            even = not any(n % self._count(wanted) for n in factor_sizes(factor, self.spec))
            if even and mesh_axis not in self._assigned() and self._can_partition(factor, wanted):
                self._assign(factor, wanted)

    def _assign(self, factor: str, wanted: MeshAxes) -> None:
        if wanted:
            self.mesh_axes[factor], self.shards[factor] = wanted, self._count(wanted)

    def _assigned(self, except_to: str = "") -> set[str]:
        return {
            axis for factor, axes in self.mesh_axes.items() if factor != except_to for axis in axes
        }

    def _count(self, wanted: MeshAxes) -> int:
        return math.prod(self.mesh[axis] for axis in wanted)

    def _can_partition(self, factor: str, wanted: MeshAxes) -> bool:
        """Whether the mesh axes are free, there are enough entries, and no group is split."""
        shards = self._count(wanted)
        even = factor == "j" and (self.spec.group_in, self.spec.group_out) != (1, 1)
        return not self._assigned(except_to=factor).intersection(wanted) and all(
            n >= shards and not (even and n % shards) for n in factor_sizes(factor, self.spec)
        )


def _all_to_alls(
    role: str, plan: PartitionPlan, mesh: Mapping[str, int], partitions: Mapping[str, tuple]
) -> Iterator[AllToAll]:
    """The all-to-alls from an array's partition outside to its partition inside, where both are
    even."""
    spec, inner = plan.spec, plan.inner_partition(role)
    shape = {"x": spec.input_shape, "k": spec.kernel_shape, "g": spec.output_shape}[role]

    def even(axis: int, mesh_axes: MeshAxes) -> bool:
        return shape[axis] % math.prod(mesh[name] for name in mesh_axes) == 0

    for outer_axis, entry in enumerate(partitions[role]):
        outer, kept = as_mesh_axes(entry), inner[outer_axis]
        moved = outer[len(kept) :]
        if moved and outer[: len(kept)] == kept and even(outer_axis, outer):
            for inner_axis, mesh_axes in enumerate(inner):
                ends_alike = mesh_axes[-len(moved) :] == moved
                if inner_axis != outer_axis and ends_alike and even(inner_axis, mesh_axes):
                    yield AllToAll(role, moved, outer_axis, inner_axis)


def _scattered(
    operator: Operator, plan: PartitionPlan, mesh: Mapping[str, int], partition: tuple
) -> dict[str, MeshAxes]:
    """The partitions wanted of the result that a reduce-scatter of its partial sums can make."""
    free = set(plan.reduced_mesh_axes(operator))
    scattered: dict[str, MeshAxes] = {}
    for factor, entry in zip(axis_factors(RESULT[operator], plan.spec), partition, strict=True):
        wanted = as_mesh_axes(entry)
        if not wanted or factor is None or factor in plan.mesh_axes or not free.issuperset(wanted):
            continue
        shards = math.prod(mesh[axis] for axis in wanted)
        if all(size % shards == 0 for size in factor_sizes(factor, plan.spec)):
            scattered[factor] = wanted
            free -= set(wanted)
    return scattered


def as_mesh_axes(entry) -> MeshAxes:
    """One entry of a ``PartitionSpec`` as a tuple of mesh axes."""
    return (entry,) if isinstance(entry, str) else tuple(entry or ())
