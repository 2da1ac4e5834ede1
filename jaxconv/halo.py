"""Entries of an axis that is cut over devices: what neighbours hold comes by collective permutes.

All functions run where the mesh axis is a named axis: in ``shard_map``, or in the function of one
partition. Shard ``p`` of ``n`` entries holds the entries ``p*n … (p+1)*n - 1``. Only what is asked
for is sent; what is wider than a shard comes from several neighbours. Entries outside of the whole
are zeros, or wrap around.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax


def extended(x, axis: int, name, shards: int, low: int, high: int, wrap: bool = False):
    """The shard with ``low`` entries before it and ``high`` after; negative ones are cut off."""
    n = x.shape[axis]
    before = [
        _received(x, axis, name, shards, hop, min(n, low - (hop - 1) * n), wrap)
        for hop in range(-(-low // n), 0, -1)
    ]
    after = [
        _received(x, axis, name, shards, -hop, min(n, high - (hop - 1) * n), wrap)
        for hop in range(1, -(-high // n) + 1)
    ]
    own = lax.slice_in_dim(x, max(-low, 0), n + min(high, 0), axis=axis)
    return jnp.concatenate([*before, own, *after], axis) if before or after else own


def _received(x, axis: int, name, shards: int, hop: int, width: int, wrap: bool):
    """The ``width`` entries next to the receiver of the shard ``hop`` places before it."""
    n = x.shape[axis]
    sent = lax.slice_in_dim(x, *((n - width, n) if hop > 0 else (0, width)), axis=axis)
    if wrap and hop % shards == 0:
        return sent
    pairs = [(p, (p + hop) % shards) for p in range(shards) if wrap or 0 <= p + hop < shards]
    # Who receives nothing has zeros.
    return lax.ppermute(sent, name, pairs) if pairs else jnp.zeros_like(sent)


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
