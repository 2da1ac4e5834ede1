"""What a convolution on several devices cuts: its factors, and over which mesh axes.

The trilinear form ``T(x, k, g)`` of ``primitives.py`` has these factors, each in two or three of
its arrays: the batch in x and g; every spatial axis in x and g; the in-features in x and k, and the
out-features in k and g, or where features are grouped the groups in all three. A factor may be cut
over mesh axes, and then every device computes the same operator of a smaller spec:

    a factor of the result     each device computes its part; for a spatial axis it needs a halo
    a factor that is summed    each device computes a part of the sum, and one all-reduce adds them;
                               or a reduce-scatter, where the result is to be cut by those devices

so no activation is gathered. One that comes cut as the convolution is not is moved there by an
all-to-all. Parts that do not come out even are as XLA makes them: all of the extent divided and
rounded up, with what no array has at the last devices.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping

from ..geometry.spec import ConvSpec, Operator
from ..primitives.rules import RESULT

Axes = tuple[str, ...]


def factors(spec: ConvSpec) -> dict[str, str]:
    """The letters of every factor, and the roles that carry it."""
    spatial = {f"s{axis}": "xg" for axis in range(spec.rank)}
    features = {"c": "xk", "f": "kg"} if spec.groups == 1 else {"j": "xkg"}
    return {"n": "xg", **spatial, **features}


def letters(role: str, spec: ConvSpec) -> tuple:
    """The factor that each axis of ``role`` is cut along, or None."""
    spatial = tuple(f"s{axis}" for axis in range(spec.rank))
    one = spec.groups == 1
    match role:
        case "x":
            return ("n", *spatial, "c" if one else "j")
        case "g":
            return ("n", *spatial, "f" if one else "j")
        case _:
            return (*(None,) * spec.rank, "c" if one else None, "f" if one else "j")


def sums(operator: Operator, spec: ConvSpec) -> list[str]:
    """The factors that the result does not have."""
    return [name for name, roles in factors(spec).items() if RESULT[operator] not in roles]


@dataclasses.dataclass(frozen=True)
class Move:
    """An array that mesh axes cut along one of its axes outside, and along another in here."""

    role: str
    axes: Axes
    outside: int
    inside: int


@dataclasses.dataclass(frozen=True)
class Cut:
    """The mesh axes that each factor is cut over, and into how many parts.

    ``scattered`` are factors of the result that devices cut which hold parts of one sum.
    """

    spec: ConvSpec
    axes: dict[str, Axes]
    parts: dict[str, int]
    scattered: dict[str, Axes] = dataclasses.field(default_factory=dict)
    moves: tuple[Move, ...] = ()

    def inside(self, role: str) -> list[Axes]:
        """The mesh axes along which each axis of an array is cut where it is computed with."""
        return [self.axes.get(letter, ()) for letter in letters(role, self.spec)]

    def outside(self, role: str, result: bool = False) -> list[Axes]:
        """Those along which it comes, or as the result leaves."""
        axes = self.axes | self.scattered if result else self.axes
        entries = [axes.get(letter, ()) for letter in letters(role, self.spec)]
        for move in (move for move in self.moves if move.role == role):
            entries[move.inside] = entries[move.inside][: -len(move.axes)]
            entries[move.outside] += move.axes
        return entries

    def summed(self, operator: Operator) -> Axes:
        """The mesh axes whose devices hold parts of one sum."""
        return tuple(a for name in sums(operator, self.spec) for a in self.axes.get(name, ()))

    def spatial(self) -> Iterator[tuple[int, Axes, int]]:
        """The spatial axes that are cut, their mesh axes, and into how many parts."""
        for axis in range(self.spec.rank):
            name = f"s{axis}"
            if name in self.axes:
                yield axis, self.axes[name], self.parts[name]

    def part(self, name: str, size: int) -> int:
        """The entries of one device, of ``size`` on an axis of factor ``name``."""
        return -(-size // self.parts.get(name, 1))


def plan(
    operator: Operator, spec: ConvSpec, mesh: Mapping[str, int], partitions: Mapping[str, tuple]
) -> Cut:
    """Cuts factors as the arrays come: as activations do first, for those are the largest.

    A mesh axis cuts one factor. Where it cuts an activation and cannot cut the convolution there,
    for it would cut groups apart, or cuts another activation along other features, it cuts the
    batch or space: an activation gets from one to the other by an all-to-all.
    """
    plan = _Plan(spec, mesh)
    result = RESULT[operator]
    activations = [role for role in partitions if role not in ("k", result)]
    features = [set(_names(partitions[role][-1])) for role in activations]
    torn = set.intersection(*features) if len(features) > 1 and spec.groups == 1 else set()

    def follow(roles, without: Collection[str] = ()) -> None:
        for name, carrying in factors(spec).items():
            for role in (role for role in roles if role in carrying):
                wanted = _names(partitions[role][letters(role, spec).index(name)])
                plan.cut(name, tuple(axis for axis in wanted if axis not in without))

    follow(activations, torn)
    for axis in (a for role in activations for entry in partitions[role] for a in _names(entry)):
        plan.place(axis)
    for roles in (activations, "k", result):
        follow(roles)
    cut = Cut(spec, plan.axes, plan.parts)
    moves = (m for role in partitions for m in _moves(role, cut, mesh, partitions[role]))
    cut = dataclasses.replace(cut, moves=tuple(moves))
    scattered = _scattered(operator, cut, mesh, partitions[result])
    return dataclasses.replace(cut, scattered=scattered)


class _Plan:
    """A cut in the making."""

    def __init__(self, spec: ConvSpec, mesh: Mapping[str, int]):
        self.spec, self.mesh = spec, mesh
        self.axes: dict[str, Axes] = {}
        self.parts: dict[str, int] = {}

    def cut(self, name: str, wanted: Axes) -> None:
        """Cuts a factor that is whole over the leading ones of these axes that can cut it."""
        if name not in self.axes:
            while wanted and not self._cuts(name, wanted):
                wanted = wanted[:-1]
            self._keep(name, wanted)

    def place(self, axis: str) -> None:
        """Has an axis that cuts nothing cut the batch or space evenly, if it can."""
        for name in ("n", *(f"s{i}" for i in range(self.spec.rank))):
            wanted = (*self.axes.get(name, ()), axis)
            even = not any(n % self._count(wanted) for n in sizes(name, self.spec))
            if even and axis not in self._used() and self._cuts(name, wanted):
                self._keep(name, wanted)

    def _keep(self, name: str, wanted: Axes) -> None:
        if wanted:
            self.axes[name], self.parts[name] = wanted, self._count(wanted)

    def _used(self, but: str = "") -> set[str]:
        return {axis for name, axes in self.axes.items() if name != but for axis in axes}

    def _count(self, wanted: Axes) -> int:
        return math.prod(self.mesh[axis] for axis in wanted)

    def _cuts(self, name: str, wanted: Axes) -> bool:
        """Whether every part but some last ones has entries; and of groups, whole ones."""
        parts = self._count(wanted)
        whole = name == "j" and (self.spec.group_in, self.spec.group_out) != (1, 1)
        return not self._used(but=name).intersection(wanted) and all(
            n >= parts and not (whole and n % parts) for n in sizes(name, self.spec)
        )


def _moves(role: str, cut: Cut, mesh: Mapping[str, int], partition) -> Iterator[Move]:
    """What an all-to-all moves of an array that comes with this partition: where that is even."""
    shapes = {"x": cut.spec.input_shape, "k": cut.spec.kernel_shape, "g": cut.spec.output_shape}
    inside = cut.inside(role)

    def even(axis: int, axes: Axes) -> bool:
        return shapes[role][axis] % math.prod(mesh[name] for name in axes) == 0

    for outside, entry in enumerate(partition):
        names, kept = _names(entry), inside[outside]
        rest = names[len(kept) :]
        if rest and names[: len(kept)] == kept and even(outside, names):
            for axis, axes in enumerate(inside):
                if axis != outside and axes[-len(rest) :] == rest and even(axis, axes):
                    yield Move(role, rest, outside, axis)


def _scattered(operator: Operator, cut: Cut, mesh: Mapping[str, int], partition) -> dict[str, Axes]:
    """The cuts that are asked of the result and can be made while its parts are summed."""
    free, found = set(cut.summed(operator)), {}
    for name, entry in zip(letters(RESULT[operator], cut.spec), partition, strict=True):
        wanted = _names(entry)
        count = math.prod(mesh[axis] for axis in wanted)
        even = name is not None and all(size % count == 0 for size in sizes(name, cut.spec))
        if wanted and even and name not in cut.axes and free.issuperset(wanted):
            found[name] = wanted
            free -= set(wanted)
    return found


def sizes(name: str, spec: ConvSpec) -> tuple[int, ...]:
    """The extents of a factor: two where inputs and outputs differ."""
    if name.startswith("s"):
        axis = int(name[1:])
        return spec.input_spatial[axis], spec.output_spatial[axis]
    found = {"n": spec.batch, "c": spec.in_features, "f": spec.out_features, "j": spec.groups}
    return (found[name],)


def _names(entry) -> Axes:
    return (entry,) if isinstance(entry, str) else tuple(entry or ())
