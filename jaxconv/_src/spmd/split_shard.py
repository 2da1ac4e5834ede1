"""A shard's convolution as a sum: its interior, computed in place, and its boundary added to it.

The shard is convolved as it is, never copied, and so is a halo of a few rows as it arrives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..geometry.spec import Operator
from .haloed_shard import HaloedShard, HaloSpec
from .interior import Region, halo_widths, has_shared_boundary, local_geometry, regions
from .shard_axis import AxisSharding, Range, ShardAxis


def compute_split(
    operator: Operator,
    axes: Mapping[int, ShardAxis],
    shardings: Mapping[int, AxisSharding],
    a,
    b,
    dtype,
    compute: Callable,
):
    """``operator`` on one shard: its interior, with the boundary added."""
    halos = {number + 1: _halo_spec(axis, shardings[number]) for number, axis in axes.items()}
    sources = HaloedShard(a, halos)
    # The sum of half-precision results is rounded once.
    sum_dtype = jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype

    def of_region(region: Mapping[int, Region], dtype, source, target):
        geometry = {number: local_geometry(axis, region[number]) for number, axis in axes.items()}
        return compute(geometry, dtype, source, target)

    inner, *boundaries = regions(axes)
    result = of_region(inner, dtype, a, b)
    for region in boundaries:
        source = sources.read({axis + 1: part.sources for axis, part in region.items()})
        result_box, operand_box = _boxes(operator, region, shardings)
        part = of_region(region, sum_dtype, source, operand_box.read(b))
        result = result_box.add(result, part)
    return result


def _halo_spec(axis: ShardAxis, sharding: AxisSharding) -> HaloSpec:
    """The halo that the regions of a shard read."""
    low, high = halo_widths(axis)
    shared = has_shared_boundary(axis)
    return HaloSpec(*sharding, low=0 if shared else low, high=high, shared=shared)


def _boxes(
    operator: Operator, region: Mapping[int, Region], shardings: Mapping[int, AxisSharding]
) -> tuple[Box, Box]:
    """Where a region lies in the result, and where in the operand that is not exchanged."""
    targets, taps = {}, {}
    for axis, part in region.items():
        is_upper = lax.axis_index(shardings[axis].mesh_axes) if part.is_shared else 0
        targets[axis + 1] = BoxAxis(part.targets, part.target_shift, is_upper)
        taps[axis] = BoxAxis(part.taps, part.tap_shift, is_upper)
    if operator is Operator.FILTER_GRAD:
        return Box(taps), Box(targets)
    return Box(targets), Box(taps)


@dataclasses.dataclass(frozen=True)
class BoxAxis:
    """One axis of a box: its range on the lower of two shards, how much further on it is on the
    upper one, and whether this is the upper one."""

    range: Range
    shift: int
    is_upper: Any


@dataclasses.dataclass(frozen=True)
class Box:
    """A box in an array: a range on some axes. Entries outside the array are zeros."""

    axes: Mapping[int, BoxAxis]

    def read(self, x):
        padded, starts, _ = self._place(x)
        sizes = list(padded.shape)
        for axis, box in self.axes.items():
            sizes[axis] = box.range[1] - box.range[0]
        return lax.dynamic_slice(padded, starts, sizes)

    def add(self, x, part):
        """``x`` with ``part`` added in this box, in the dtype of ``part``, then rounded."""
        padded, starts, inside = self._place(x)
        total = lax.dynamic_slice(padded, starts, part.shape).astype(part.dtype) + part
        return lax.dynamic_update_slice(padded, total.astype(x.dtype), starts)[inside]

    def _place(self, x):
        """``x`` padded so that the box fits, where the box starts in it, and where ``x`` is."""
        padding, starts = [(0, 0)] * x.ndim, [np.int32(0)] * x.ndim  # int32 as axis_index is
        for axis, box in self.axes.items():
            (first, end), n = box.range, x.shape[axis]
            low = max(-first, -first - box.shift, 0)
            padding[axis] = low, max(end - n, end + box.shift - n, 0)
            starts[axis] = np.int32(first + low) + box.shift * box.is_upper
        inside = tuple(slice(low, low + n) for (low, _), n in zip(padding, x.shape, strict=True))
        return jnp.pad(x, padding), starts, inside
