"""Halo exchange: entries of a sharded axis that other devices hold, sent by collective permutes.

Everything here runs where the mesh axis is a named axis: in ``shard_map``, or in the function of
one partition. Of an axis with ``n`` entries per shard, shard ``p`` holds the entries
``p*n … (p+1)*n - 1``. Only the entries asked for are sent; a halo wider than a shard comes from
several neighbors. Entries outside the whole axis are zeros, or wrap around.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import compat

Array = jax.Array


def with_halo(
    x: Array, axis: int, mesh_axes: Any, shards: int, low: int, high: int, wrap: bool = False
) -> Array:
    """The shard with ``low`` entries before it and ``high`` after it; negative widths crop it."""
    n = x.shape[axis]

    def from_shard(hops: int, width: int):
        """The ``width`` entries nearest to this shard of the shard ``hops`` places before it."""
        start = n - width if hops > 0 else 0
        edge = lax.slice_in_dim(x, start, start + width, axis=axis)
        return shift(edge, mesh_axes, shards, hops, wrap)

    if n == 0:
        return x
    before = [from_shard(hops, min(n, low - (hops - 1) * n)) for hops in range(-(-low // n), 0, -1)]
    after = [
        from_shard(-hops, min(n, high - (hops - 1) * n)) for hops in range(1, -(-high // n) + 1)
    ]
    own = lax.slice_in_dim(x, max(-low, 0), n + min(high, 0), axis=axis)
    return jnp.concatenate([*before, own, *after], axis) if before or after else own


def windows(x, axis: int, mesh_axes, starts: Sequence[int], size: int, wrap: bool = False):
    """On shard ``p`` the ``size`` entries from entry ``starts[p]`` of the whole axis on."""
    n = x.shape[axis]
    offsets = [start - p * n for p, start in enumerate(starts)]
    low, high = -min(offsets), max(offsets) + size - n
    # Where short windows drift over the shard, this keeps at least one entry to slice from.
    x = with_halo(x, axis, mesh_axes, len(starts), low, high, wrap)
    if min(offsets) == max(offsets):
        return x
    first = jnp.asarray([offset + low for offset in offsets])[lax.axis_index(mesh_axes)]
    return lax.dynamic_slice_in_dim(x, first, size, axis)


def shift(edge, mesh_axes, shards: int, hops: int, wrap: bool = False):
    """``edge`` of the shard ``hops`` places before this one; zeros where there is none."""
    if not edge.size or (wrap and hops % shards == 0):
        return edge
    pairs = [(p, (p + hops) % shards) for p in range(shards) if wrap or 0 <= p + hops < shards]
    # A permute gives zeros to devices that receive nothing.
    return _permute(edge, mesh_axes, pairs) if pairs else jnp.zeros_like(edge)


def swap(edge, mesh_axes):
    """``edge`` of the other one of two shards: one permute carries both directions."""
    return _permute(edge, mesh_axes, [(0, 1), (1, 0)])


def _permute(edge, mesh_axes, pairs: Sequence[tuple[int, int]]):
    """A permute whose pairs number the shards in the order of ``mesh_axes``, as ``axis_index``
    does."""
    names = (mesh_axes,) if isinstance(mesh_axes, str) else tuple(mesh_axes)
    ordered = compat.in_mesh_order(names)
    numbers = np.arange(lax.axis_size(names)).reshape([lax.axis_size(each) for each in ordered])
    devices = numbers.transpose([ordered.index(each) for each in names]).ravel().tolist()
    return lax.ppermute(edge, ordered, [(devices[a], devices[b]) for a, b in pairs])
