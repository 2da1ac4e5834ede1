"""Checks of the networks' inputs."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_images(network: str, x: Any, in_features: int, min_size: int = 1) -> None:
    """Raises an error unless ``x`` is images ``[N, H, W, in_features]`` of at least this size."""
    shape = jnp.shape(x)
    if len(shape) != 4:
        raise ValueError(f"{network}: images must be [N, H, W, C], but got shape {shape}")
    if shape[-1] != in_features:
        raise ValueError(
            f"{network}: images must have C = in_features = {in_features}, but got C = {shape[-1]} "
            f"in [N, H, W, C] = {shape}; the channels are the last axis"
        )
    if min(shape[1:3]) < min_size:
        raise ValueError(
            f"{network}: images must be at least {min_size}×{min_size} pixels, but got "
            f"{shape[1]}×{shape[2]} in [N, H, W, C] = {shape}"
        )


def check_tokens(network: str, name: str, tokens: Any, classes: int) -> None:
    """Raises an error unless ``tokens`` are ids ``[N, L]`` from 0 to ``classes - 1``.

    Under ``jit`` the ids are unknown, and Flax's embedding turns invalid ones into NaN.
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
    ids = np.asarray(tokens)  # under an outer jit, jnp.min would return a tracer
    low, high = ids.min(), ids.max()
    if low < 0 or high >= classes:
        raise ValueError(
            f"{network}: {name} must be ids from 0 to {classes - 1}, but got {low} to {high}; "
            "create the network with more classes"
        )
