"""Checks of the arrays that come with a batch of sequences: states, segment ids, lengths."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..spec import Shape
from .arrays import array
from .call import Call
from .layouts import causal_kernel
from .sizes import elements, group_count, known, per_axis, size

Array = jax.Array


def causal_state_shape(
    call: Call, kernel_shape: Shape, batch_size: Any, dilation: Any, groups: Any
) -> Shape:
    """``[N, (K-1)*dilation, C]``: the inputs that the next output still needs."""
    causal_kernel(call, kernel_shape)
    dilation = per_axis(call, "dilation", dilation, 1)[0]
    channels = kernel_shape[1] * group_count(call, groups, kernel_shape[2])
    length = max(kernel_shape[0] - 1, 0) * dilation
    shape = size(call, "batch_size", batch_size), length, channels
    elements(call, "the state", shape)
    return shape


def causal_step(
    call: Call,
    state_shape: Shape,
    x_shape: Shape,
    kernel_shape: Shape,
    dilation: Any,
    groups: Any,
) -> None:
    """The relations of one streaming step."""
    causal_kernel(call, kernel_shape)
    if len(x_shape) != 3 or (known(x_shape[1]) and x_shape[1] < 1):
        raise call.error("x must be [N, L, C] with L at least 1")
    expected = causal_state_shape(call, kernel_shape, x_shape[0], dilation, groups)
    causal_state(call, "state", state_shape, expected)
    if known(x_shape[2]) and x_shape[2] != expected[2]:
        raise call.error(
            f"x must have as many channels as the state, C = {expected[2]}, but has {x_shape[2]}"
        )


def causal_state(call: Call, name: str, shape: Shape, expected: Shape) -> None:
    """A state has the shape of ``causal_state_shape``, or of one example of it."""
    axes = ("N", "(K-1)*dilation", "C")[-len(expected) :]
    if not _agree(shape, expected):
        raise call.error(
            f"{name} must be [{', '.join(axes)}] = {expected}, but got {tuple(shape)}; "
            f"create it with causal_conv_init and the same kernel, dilation and groups"
        )


def segment_ids(call: Call, value: Any, shape: Shape, before: int | None) -> Array:
    """Integers, one per step of ``shape [N, L]`` or ``[L]``.

    With an initial state of ``before`` steps, there may be one per step of the state as well.
    """
    ids = _integers(call, "segment_ids", value)
    whole = (*shape[:-1], shape[-1] + (before or 0))
    if not (_agree(ids.shape, shape) or _agree(ids.shape, whole)):
        axes = ", ".join(("N", "L")[-len(shape) :])
        steps = axes.replace("L", "(K-1)*dilation + L")
        or_whole = "" if before is None else f", or [{steps}] = {whole} with the steps of the state"
        raise call.error(
            f"segment_ids must have one id per step, [{axes}] = {shape}{or_whole}, but got "
            f"{tuple(ids.shape)}"
        )
    return ids


def lengths(call: Call, value: Any, shape: Shape) -> Array:
    """Integers from 0 to L, one per example of ``shape [N, L]``; one alone for ``[L]``.

    Under ``jit`` the values are unknown and not checked.
    """
    counts = per_example(call, "lengths", value, shape[:-1])
    if isinstance(counts, Tracer) or not known(*counts.shape, shape[-1]) or not counts.size:
        return counts
    low, high = np.min(counts), np.max(counts)
    if low < 0 or high > shape[-1]:
        raise call.error(
            f"lengths must be from 0 to L = {shape[-1]}, but got {low if low < 0 else high}"
        )
    return counts


def per_example(call: Call, name: str, value: Any, shape: Shape) -> Array:
    """Integers ``[N]``, or one alone for one example."""
    values = _integers(call, name, value)
    if not _agree(values.shape, shape):
        raise call.error(
            f"{name} must have one entry per example, {shape}, but got {tuple(values.shape)}"
        )
    return values


def _integers(call: Call, name: str, value: Any) -> Array:
    values = array(call.function, name, value)
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise call.error(
            f"{name} must be integers, but its dtype is {values.dtype}; cast it with "
            f"{name}.astype(jnp.int32)",
            TypeError,
        )
    return values


def _agree(shape: Shape, expected: Shape) -> bool:
    """Whether the shapes are equal, as far as their sizes are known."""
    return len(shape) == len(expected) and not any(
        known(got, wanted) and got != wanted for got, wanted in zip(shape, expected, strict=True)
    )
