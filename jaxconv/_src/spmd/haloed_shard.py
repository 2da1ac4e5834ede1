"""A shard and its halos on several axes, kept as separate arrays."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from .halo import shift, swap

Ranges = Mapping[int, tuple[int, int]]  # by array axis, half-open


@dataclasses.dataclass(frozen=True)
class HaloSpec:
    """The halo of one sharded axis: ``low`` entries before a shard and ``high`` after it, neither
    more than the shard has itself.

    If ``shared``, the axis has two shards, and each gets ``high`` entries of the other, which it
    keeps as the halo after it.
    """

    mesh_axes: Any
    shards: int
    wrap: bool
    low: int
    high: int
    shared: bool


class HaloedShard:
    """A shard and its halos on several axes. Reading a small range copies only that range."""

    def __init__(self, x, halos: Mapping[int, HaloSpec]):
        self._x, self._halos = x, dict(halos)
        self._before, self._after = {}, {}
        # Later axes first, so that what earlier axes send includes the corners.
        for axis, halo in sorted(halos.items(), reverse=True):
            edge = functools.partial(self._edge, axis)
            self._before[axis], self._after[axis] = _exchange(edge, x.shape[axis], axis, halo)

    def read(self, ranges: Ranges):
        """The entries in one range per axis that has a halo, counted from the shard's first entry.

        A range that lies within the shard or within one halo is not concatenated.
        """
        return self._read(ranges, after_axis=-1)

    def _edge(self, axis: int, first, size: int):
        """``size`` of the shard's entries on ``axis``, with the halos of later axes."""
        ranges = {
            other: (-halo.low, self._x.shape[other] + halo.high)
            if other > axis
            else (0, self._x.shape[other])
            for other, halo in self._halos.items()
        }
        crop = functools.partial(
            lax.dynamic_slice_in_dim, start_index=first, slice_size=size, axis=axis
        )
        return self._read(ranges, axis, crop)

    def _read(self, ranges: Ranges, after_axis: int, crop: Callable = lambda part: part):
        """Concatenates the parts before, in and after the shard on the first axis after
        ``after_axis``, each of them cropped."""
        axes = [axis for axis in sorted(self._halos) if axis > after_axis]
        if not axes:
            return crop(_slice(self._x, ranges))
        axis, *_ = axes
        n, (first, end) = self._x.shape[axis], ranges[axis]
        # A halo includes the halos of later axes, so it starts before the shard on those.
        origin = {other: -self._halos[other].low for other in axes}
        parts = []
        if first < 0:
            before = {**ranges, axis: (first, min(end, 0))}
            parts.append(crop(_slice(self._before[axis], before, origin)))
        if first < n and end > 0:
            own = {**ranges, axis: (max(first, 0), min(end, n))}
            parts.append(self._read(own, axis, crop))
        if end > n:
            after = {**ranges, axis: (max(first, n), end)}
            parts.append(crop(_slice(self._after[axis], after, {**origin, axis: n})))
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


def _exchange(edge: Callable, n: int, axis: int, halo: HaloSpec) -> tuple:
    """The halos before and after a shard of ``n`` entries; ``edge(first, size)`` are entries of the
    shard itself."""
    if halo.shared:
        # A product, because XLA:CPU would evaluate a select anew for every entry that it copies:
        # 0.1 ms instead of 0.02 for one row; see docs/design/measurements.md.
        is_lower = 1 - lax.axis_index(halo.mesh_axes)
        return None, swap(edge(is_lower * (n - halo.high), halo.high), halo.mesh_axes)
    last, first = edge(n - halo.low, halo.low), edge(0, halo.high)
    if halo.wrap and halo.shards == 2:
        both = swap(jnp.concatenate([last, first], axis), halo.mesh_axes)
        return tuple(jnp.split(both, [halo.low], axis))
    return (
        shift(last, halo.mesh_axes, halo.shards, 1, halo.wrap),
        shift(first, halo.mesh_axes, halo.shards, -1, halo.wrap),
    )


def _slice(x, ranges: Ranges, origin: Mapping[int, int] | None = None):
    """The entries of ``x`` in these ranges; ``origin`` is the position of its first entries."""
    for axis, (first, end) in ranges.items():
        start = (origin or {}).get(axis, 0)
        if (first - start, end - start) != (0, x.shape[axis]):
            x = lax.slice_in_dim(x, first - start, end - start, axis=axis)
    return x
