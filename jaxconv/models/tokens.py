"""What the sequence networks share: the check of their tokens."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_tokens(network: str, name: str, tokens: Any, classes: int) -> None:
    """Refuses what is no batch of sequences of token ids from 0 to ``classes - 1``.

    Under ``jit`` the ids are not known, and Flax's embedding turns bad ones into NaN.
    """
    if not hasattr(tokens, "dtype"):
        raise TypeError(
            f"{network}: {name} must be an array of integers, but got {type(tokens).__name__}"
        )
    shape, dtype = jnp.shape(tokens), jnp.result_type(tokens)
    if len(shape) != 2:
        raise ValueError(f"{network}: {name} must be [N, L], but got shape {shape}")
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"{network}: {name} must be integers, but got {dtype}")
    if isinstance(tokens, Tracer) or not np.size(tokens):
        return
    ids = np.asarray(tokens)  # jax would make tracers of their extremes under an outer jit
    low, high = ids.min(), ids.max()
    if low < 0 or high >= classes:
        raise ValueError(
            f"{network}: {name} must be ids from 0 to {classes - 1}, but got {low} to {high}; "
            "give as many classes as there are ids"
        )
