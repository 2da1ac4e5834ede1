"""Entries of an axis that is cut over devices: what neighbours hold comes by collective permutes.

All functions run where the mesh axis is a named axis: in ``shard_map``, or in the function of one
partition. Shard ``p`` of ``n`` entries holds the entries ``p*n … (p+1)*n - 1``. Only what is asked
for is sent; what is wider than a shard comes from several neighbours. Entries outside of the whole
are zeros, or wrap around.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import compat


def extended(x, axis: int, name, shards: int, low: int, high: int, wrap: bool = False):
    """The shard with ``low`` entries before it and ``high`` after; negative ones are cut off."""
    n = x.shape[axis]

    def beyond(hop: int, width: int):
        """The ``width`` entries next to this shard of the one ``hop`` places before it."""
        edge = lax.slice_in_dim(x, *((n - width, n) if hop > 0 else (0, width)), axis=axis)
        return _passed(edge, name, shards, hop, wrap)

    if n == 0:
        return x
    before = [beyond(hop, min(n, low - (hop - 1) * n)) for hop in range(-(-low // n), 0, -1)]
    after = [beyond(-hop, min(n, high - (hop - 1) * n)) for hop in range(1, -(-high // n) + 1)]
    own = lax.slice_in_dim(x, max(-low, 0), n + min(high, 0), axis=axis)
    return jnp.concatenate([*before, own, *after], axis) if before or after else own


def _passed(edge, name, shards: int, hop: int, wrap: bool = False):
    """What every device passes on to the one ``hop`` places after it."""
    if not edge.size or (wrap and hop % shards == 0):
        return edge
    pairs = [(p, (p + hop) % shards) for p in range(shards) if wrap or 0 <= p + hop < shards]
    # Who receives nothing has zeros.
    return _permuted(edge, name, pairs) if pairs else jnp.zeros_like(edge)


def _permuted(edge, name, pairs: Sequence[tuple[int, int]]):
    """A permute whose pairs count the shards as ``name`` orders their axes, like ``axis_index``."""
    names = (name,) if isinstance(name, str) else tuple(name)
    ordered = compat.in_order_of_mesh(names)
    counts = np.arange(lax.axis_size(names)).reshape([lax.axis_size(each) for each in ordered])
    shards = counts.transpose([ordered.index(each) for each in names]).ravel().tolist()
    return lax.ppermute(edge, ordered, [(shards[a], shards[b]) for a, b in pairs])


def window(x, axis: int, name, starts: Sequence[int], size: int, wrap: bool = False):
    """For shard ``p`` the ``size`` entries from ``starts[p]`` on, of all entries."""
    n = x.shape[axis]
    offsets = [start - p * n for p, start in enumerate(starts)]
    low, high = -min(offsets), max(offsets) + size - n
    # Short windows that wander may not reach over the shard: keep at least one entry to cut from.
    x = extended(x, axis, name, len(starts), low, high, wrap)
    if min(offsets) == max(offsets):
        return x
    first = jnp.asarray([offset + low for offset in offsets])[lax.axis_index(name)]
    return lax.dynamic_slice_in_dim(x, first, size, axis)


@dataclasses.dataclass(frozen=True)
class Side:
    """One axis that is cut into ``shards``, and the entries wanted around a shard, at most its own
    number on either side.

    Of two shards that ``swap``, each has ``high`` entries of the other, held after its own.
    """

    name: Any
    shards: int
    low: int
    high: int
    wrap: bool = False
    swap: bool = False


def _exchanged(edge: Callable, n: int, axis: int, side: Side) -> tuple:
    """What is held before a shard of ``n`` entries and after it; ``edge(first, size)`` are its own
    entries from there on."""
    if side.swap:
        # Multiplied, not chosen: XLA's loop on a CPU makes the choice anew for every entry and then
        # copies one at a time, 0.1 ms for a row of 32x56x56x32 that takes 0.02.
        lower = 1 - lax.axis_index(side.name)
        return None, _swapped(edge(lower * (n - side.high), side.high), side)
    last, first = edge(n - side.low, side.low), edge(0, side.high)
    if side.wrap and side.shards == 2:
        both = _swapped(jnp.concatenate([last, first], axis), side)
        return tuple(jnp.split(both, [side.low], axis))
    return (
        _passed(last, side.name, side.shards, 1, side.wrap),
        _passed(first, side.name, side.shards, -1, side.wrap),
    )


def _swapped(edge, side: Side):
    """What the other of two shards has: devices meet once for both ways."""
    return _permuted(edge, side.name, [(0, 1), (1, 0)])


class Around:
    """A shard and the entries around it on several axes, held apart: reading a few copies a few."""

    def __init__(self, x, sides: Mapping[int, Side]):
        self._x, self._sides = x, dict(sides)
        self._before, self._after = {}, {}
        # Later axes first: what earlier ones send has the corners already.
        for axis, side in sorted(sides.items(), reverse=True):
            edge = functools.partial(self._edge, axis)
            self._before[axis], self._after[axis] = _exchanged(edge, x.shape[axis], axis, side)

    def read(self, ranges: Mapping[int, tuple[int, int]]):
        """The entries from a first to before an end of every axis with a side, counted from the
        shard's own. Beyond the shard on several of them they are joined, else they are as held."""
        return self._read(dict(ranges), -1)

    def _edge(self, axis: int, first, size: int):
        """``size`` own entries of one axis, with the halos of later axes."""
        cut = functools.partial(
            lax.dynamic_slice_in_dim, start_index=first, slice_size=size, axis=axis
        )
        return self._read(self._wide(axis), axis, cut)

    def _wide(self, axis: int) -> dict[int, tuple[int, int]]:
        """All entries on later axes, own ones on earlier axes and this one."""
        return {
            other: (-side.low, self._x.shape[other] + side.high) if other > axis
            else (0, self._x.shape[other])
            for other, side in self._sides.items()
        }  # fmt: skip

    def _read(self, ranges, done: int, cut: Callable = lambda part: part):
        """Joins what lies before, in and after the shard on the first axis after ``done``; of
        every part just what ``cut`` leaves."""
        later = [axis for axis in sorted(self._sides) if axis > done]
        if not later:
            return cut(taken(self._x, ranges))
        axis = later[0]
        n, (first, end) = self._x.shape[axis], ranges[axis]
        # The origin of the entries held: those before the shard on this axis, and of later ones.
        origin = {other: -self._sides[other].low for other in later}
        parts = []
        if first < 0:
            box = ranges | {axis: (first, min(end, 0))}
            parts.append(cut(taken(self._before[axis], box, origin)))
        if first < n and end > 0:
            parts.append(self._read(ranges | {axis: (max(first, 0), min(end, n))}, axis, cut))
        if end > n:
            box = ranges | {axis: (max(first, n), end)}
            parts.append(cut(taken(self._after[axis], box, origin | {axis: n})))
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


def taken(x, ranges, origin=None):
    """The entries of ``x`` in these ranges, which count from where the origin is, 0 or below it."""
    for axis, (first, end) in ranges.items():
        at = (origin or {}).get(axis, 0)
        if (first - at, end - at) != (0, x.shape[axis]):
            x = lax.slice_in_dim(x, first - at, end - at, axis=axis)
    return x
