"""An operator on one shard of its spatial axes, with what it needs from neighboring shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ..geometry.spec import Operator
from .interior import can_split
from .shard_axis import AxisSharding, ShardAxis
from .split_shard import compute_split
from .windowed_shard import compute_windowed


def compute_spatial_shard(
    operator: Operator,
    axes: Mapping[int, ShardAxis],
    shardings: Mapping[int, AxisSharding],
    a: jax.Array,
    b: jax.Array,
    dtype: Any,
    compute: Callable[..., jax.Array],
) -> jax.Array:
    """``operator`` on this device's shards ``a`` and ``b``, sharded on these spatial axes.

    ``compute(geometry, dtype, a, b)`` is the operator on one device, with this local geometry of
    the sharded axes.
    """
    way = compute_split if all(map(can_split, axes.values())) else compute_windowed
    return way(operator, axes, shardings, a, b, dtype, compute)
