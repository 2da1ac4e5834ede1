"""Convolutions over sharded space or time, for use inside ``jax.shard_map``."""

from ._src.functions.sharding import causal_conv as causal_conv
from ._src.functions.sharding import conv as conv
from ._src.functions.sharding import halo_exchange as halo_exchange
