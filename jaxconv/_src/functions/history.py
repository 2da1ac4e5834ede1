"""What comes before and beside a batch of sequences: states, segment ids, lengths."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..geometry import checks
from ..geometry.checks import Call
from ..geometry.spec import Shape

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class History:
    """The arrays beside ``x [N, L, C]``, each of which may be None.

    ``state [N, P, C]`` comes before ``x``. ``ids`` are ``[N, P+L]`` with a state and ``[N, L]``
    without one. ``lengths`` are ``[N]``. ``shape`` is that of a state.
    """

    shape: Shape
    state: Array | None = None
    ids: Array | None = None
    lengths: Array | None = None


def read_history(
    call: Call, x_shape: Shape, shape: Shape, state: Array | None, ids: Any, lengths: Any
) -> History:
    """The arrays checked, with a batch axis even if ``x`` has none."""
    batched, before = len(x_shape) == 3, None if state is None else shape[1]
    if state is not None:
        checks.causal_state(call, "initial_state", state.shape, shape if batched else shape[1:])
    if ids is not None:
        ids = checks.segment_ids(call, ids, x_shape[:-1], before)
    if lengths is not None:
        lengths = checks.lengths(call, lengths, x_shape[:-1])
    if not batched:
        state, ids, lengths = (a if a is None else a[None] for a in (state, ids, lengths))
    if state is not None and ids is not None and x_shape[-2]:
        ids = _ids_of_all(ids, shape[1], x_shape[-2])
    return History(shape, state, ids, lengths)


def _ids_of_all(ids: Array, before: int, steps: int) -> Array:
    """The ids of the state's steps too: by default those of the first step after them."""
    if ids.shape[1] != steps:
        return ids
    first = lax.slice_in_dim(ids, 0, 1, axis=1)
    return lax.concatenate([jnp.broadcast_to(first, (ids.shape[0], before)), ids], 1)


def final_state(x: Array, history: History) -> Array:
    """The state after ``x``, or after ``lengths`` steps of it."""
    steps = x.shape[1]
    initial = lax.full(history.shape, 0, x.dtype) if history.state is None else history.state
    if checks.known(steps) and steps == 0:
        return initial
    state = _last(lax.concatenate([initial, x], 1), steps, history)
    if history.ids is None or not state.shape[1]:
        return state
    ids = history.ids
    if history.state is None:  # zeros, whose ids mean nothing
        ids = lax.pad(ids, lax.full((), 0, ids.dtype), [(0, 0, 0), (history.shape[1], 0, 0)])
    ids = _last(ids, steps, history)
    same = ids == lax.slice_in_dim(ids, history.shape[1] - 1, None, axis=1)
    return jnp.where(same[..., None], state, lax.full((), 0, state.dtype))


def _last(steps: Array, count: int, history: History) -> Array:
    """Of ``P + count`` steps the P before the end of each example."""
    if history.lengths is None:
        return lax.slice_in_dim(steps, count, None, axis=1)
    ends = jnp.clip(history.lengths, 0, count).astype(jnp.int32)
    at = jnp.expand_dims(ends, 1) + lax.iota(jnp.int32, history.shape[1])[None]
    at = lax.expand_dims(at, range(2, steps.ndim))
    return jnp.take_along_axis(steps, at, axis=1, mode="promise_in_bounds")
