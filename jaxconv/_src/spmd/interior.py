"""The interior and the boundary of a shard: which of its products need a neighbor's entries.

The form ``T(x, k, g)`` is a sum of products of an input and an output that are a tap apart. If the
shards of inputs and outputs start together (inputs = stride * outputs), every shard has the same
products, and their sum splits into regions:

    interior   the shard's own sources with its own targets: no neighbor, no wait, no copy
    boundary   the halo before the shard, and the halo after it, with the targets that they meet
    full       all targets with all sources that they meet

Each region is a convolution of the same form.

Of two shards each has one neighbor, so one boundary region: after the lower shard, and before the
upper one. If the two differ only in position and by a whole number of taps, both devices compute
one shared region, whose position depends on the device.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

from ..geometry.spec import effective_extent
from .shard_axis import LocalGeometry, Range, ShardAxis


@dataclasses.dataclass(frozen=True)
class Region:
    """A range of sources, a range of targets, and the taps that connect them.

    On the upper of two shards the targets are ``target_shift`` further on, and the taps
    ``tap_shift``. Taps outside the kernel are zeros.
    """

    sources: Range
    targets: Range
    taps: Range
    target_shift: int = 0
    tap_shift: int = 0

    @property
    def is_shared(self) -> bool:
        """Whether its position depends on the shard."""
        return bool(self.target_shift or self.tap_shift)


def interior(axis: ShardAxis) -> Region:
    return Region((0, axis.sources), (0, axis.targets), (0, axis.taps))


def boundary(axis: ShardAxis) -> list[Region]:
    """The regions of the halo: one that two shards share, or those before and after the shard.

    A shared region is given as on the lower shard. The upper one reads its halo, too, as if it were
    after the shard.
    """
    shared = _shared_boundary(axis)
    if shared:
        return [shared]
    return [region for region in _boundaries(axis) if region.targets[0] < region.targets[1]]


def full(axis: ShardAxis) -> Region:
    targets = (0, axis.targets)
    return Region(axis.sources_of(targets), targets, (0, axis.taps))


def has_shared_boundary(axis: ShardAxis) -> bool:
    """Whether one region is the boundary of either of two shards."""
    return _shared_boundary(axis) is not None


def halo_widths(axis: ShardAxis) -> Range:
    """The number of sources that the full region reads before the shard and after it."""
    first, end = full(axis).sources
    return max(-first, 0), max(end - axis.sources, 0)


def can_split(axis: ShardAxis) -> bool:
    """Whether shards of inputs and outputs start together, and the halo is no wider than a shard.

    Only then can the regions be computed one by one. The alternative is a window, which is copied
    whole: a depthwise 3x3 of 8x14x14x512 over two devices, with both gradients, takes 2.5 ms on
    windows and 1.4 ms by regions; see docs/design/measurements.md.
    """
    return axis.inputs == axis.stride * axis.outputs and sum(halo_widths(axis)) <= axis.sources


def local_geometry(axis: ShardAxis, region: Region) -> LocalGeometry:
    """The input extent, the padding and the taps of the convolution that computes a region."""
    first, inputs, outputs = _extents(axis, region)
    taps = region.taps[1] - region.taps[0]
    low = first - axis.dilation * region.taps[0]
    reach = axis.stride * (outputs - 1) + effective_extent(taps, axis.dilation)
    return LocalGeometry(inputs, (low, reach - inputs - low), taps)


def regions(axes: Mapping[int, ShardAxis]) -> Iterator[dict[int, Region]]:
    """The region on every sharded axis of each convolution that a shard's convolution is a sum of.

    The interior comes first. Where the halos of two axes meet, the products belong to the boundary
    of the earlier axis.
    """
    yield {number: interior(axis) for number, axis in axes.items()}
    for number in axes:
        choices = []
        for other, axis in axes.items():
            if other == number:
                choices.append(boundary(axis))
            else:
                choices.append(complete(axis) if other > number else [interior(axis)])
        for chosen in itertools.product(*choices):
            yield dict(zip(axes, chosen, strict=True))


def complete(axis: ShardAxis) -> list[Region]:
    """Regions that have all products of the axis between them."""
    return [interior(axis), *boundary(axis)] if has_shared_boundary(axis) else [full(axis)]


def _boundaries(axis: ShardAxis) -> tuple[Region, Region]:
    """The regions of the halo before the shard and of the halo after it; either may be empty."""
    n, m = axis.targets, axis.sources
    _, end = axis.targets_of((-1, 0))
    first, _ = axis.targets_of((m, m + 1))
    before, after = (0, min(max(end, 0), n)), (min(max(first, 0), n), n)
    (halo_first, _), (_, halo_end) = axis.sources_of(before), axis.sources_of(after)
    taps = (0, axis.taps)
    return Region((halo_first, 0), before, taps), Region((m, halo_end), after, taps)


def _shared_boundary(axis: ShardAxis) -> Region | None:
    """The one boundary region of two shards, if both have the same extents and lie a whole number
    of taps apart."""
    before, after = _boundaries(axis)
    (low, *extents), (high, *others) = _extents(axis, before), _extents(axis, after)
    distance, remainder = divmod(high - low, axis.dilation)
    if not axis.two_shards or min(extents) < 1 or extents != others or remainder:
        return None
    inputs, outputs = extents
    # The taps by which any of the outputs reads any of the inputs: d*t = i - s*o + high.
    first = -((axis.stride * (outputs - 1) - high) // axis.dilation)
    taps = first, (inputs - 1 + high) // axis.dilation + 1
    target_shift = before.targets[0] - after.targets[0]
    return Region(after.sources, after.targets, taps, target_shift, -distance)


def _extents(axis: ShardAxis, region: Region) -> tuple[int, int, int]:
    """How far before the region's first input its first output starts to read, at tap 0; and the
    number of inputs and of outputs."""
    inputs, outputs = region.sources, region.targets
    if axis.is_input_grad:
        inputs, outputs = outputs, inputs
    first = axis.low + inputs[0] - axis.stride * outputs[0]
    return first, inputs[1] - inputs[0], outputs[1] - outputs[0]
