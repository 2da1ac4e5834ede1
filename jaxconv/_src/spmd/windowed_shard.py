"""A shard's convolution on one window: everything that its results read, copied to one array."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import lax

from ..geometry.spec import Operator, effective_extent
from . import halo
from .shard_axis import AxisSharding, LocalGeometry, ShardAxis


def compute_windowed(
    operator: Operator,
    axes: Mapping[int, ShardAxis],
    shardings: Mapping[int, AxisSharding],
    a,
    b,
    dtype,
    compute: Callable,
):
    """``operator`` on one shard, from the window of ``a`` that the shard's results read."""
    is_input_grad = operator is Operator.INPUT_GRAD
    window_of = input_grad_window if is_input_grad else conv_window
    windows = {number: window_of(axis, shardings[number].shards) for number, axis in axes.items()}
    for number, (mesh_axes, _, wrap) in shardings.items():
        window = windows[number]
        a = halo.windows(a, number + 1, mesh_axes, window.starts, window.size, wrap)
    geometry = {number: window.geometry for number, window in windows.items()}
    result = compute(geometry, dtype, a, b)
    if is_input_grad:
        for number, (mesh_axes, _, _) in shardings.items():
            starts, size = windows[number].result_starts, axes[number].inputs
            result = _crop(result, number + 1, mesh_axes, starts, size)
    return result


@dataclasses.dataclass(frozen=True)
class Window:
    """What each device reads of its activation on one sharded axis, and its geometry there.

    Device ``p`` reads ``size`` entries from ``starts[p]`` on. Of an input gradient, it keeps the
    results from ``result_starts[p]`` on.
    """

    starts: tuple[int, ...]
    size: int
    geometry: LocalGeometry
    result_starts: tuple[int, ...] = ()


def conv_window(axis: ShardAxis, shards: int) -> Window:
    """The inputs ``s*o + d*t - low`` of a device's outputs, over all taps t."""
    outputs, s = axis.outputs, axis.stride
    size = s * (outputs - 1) + axis.effective_kernel
    starts = tuple(s * outputs * p - axis.low for p in range(shards))
    return Window(starts, size, LocalGeometry(size, (0, 0), axis.taps))


def input_grad_window(axis: ShardAxis, shards: int) -> Window:
    """The outputs that read a device's inputs: those with ``s*o + d*t - low = i`` for a tap t.

    With i0 the device's first input and reach the distance of the last tap, the first such output
    is at ``floor((i0 + low - reach) / s)`` or later. Computed from there on, all inputs after the
    reach of that output's first tap are complete, so the device's own inputs start up to s - 1
    entries into the result.
    """
    s, reach = axis.stride, axis.effective_kernel - 1
    firsts = [axis.inputs * p + axis.low - reach for p in range(shards)]
    result_starts = tuple(first % s for first in firsts)
    inputs = axis.inputs + max(result_starts)
    size = (inputs - 1 + reach) // s + 1
    geometry = LocalGeometry(inputs, (reach, effective_extent(size, s) - inputs), axis.taps)
    return Window(tuple(first // s for first in firsts), size, geometry, result_starts)


def _crop(x, axis: int, mesh_axes, starts: tuple[int, ...], size: int):
    """``size`` entries, from ``starts[p]`` on for device ``p``."""
    if len(set(starts)) == 1:
        return lax.slice_in_dim(x, starts[0], starts[0] + size, axis=axis)
    first = jnp.asarray(starts)[lax.axis_index(mesh_axes)]
    return lax.dynamic_slice_in_dim(x, first, size, axis)
