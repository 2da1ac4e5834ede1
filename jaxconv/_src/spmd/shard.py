"""One operator on one shard: what it gets from other devices, computes and sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..geometry.spec import ConvSpec, Operator, effective_extent
from ..primitives.rules import RESULT, ROLES
from . import halo
from .interior import Block, Line, Local, Range, pieces
from .plan import Axes, Cut, letters, sizes, sums


def run(operator: Operator, cut: Cut, a, b, dtype, compute: Callable):
    """The operator's result on one device, from its parts of the operands.

    ``compute(spec, dtype, a, b)`` is the operator of a smaller spec, on one device.
    """
    summed = cut.summed(operator)
    # Partial sums of half precision are not rounded before they are added.
    wide = jnp.promote_types(dtype, jnp.float32) if summed else dtype
    a, b = (
        _cleared(_moved(array, role, cut), role, operator, cut)
        for array, role in zip((a, b), ROLES[operator], strict=True)
    )
    lines = {axis: Line.of(operator, cut.spec, axis, parts) for axis, _, parts in cut.spatial()}
    way = _in_blocks if all(line.splits for line in lines.values()) else _in_windows
    result = way(operator, cut, lines, a, b, wide, compute)
    result = _summed(result, operator, cut, summed).astype(dtype)
    return _moved(result, RESULT[operator], cut, back=True)


def _moved(x, role: str, cut: Cut, back: bool = False):
    """From how an array is cut outside to how it is cut inside, or back."""
    for move in (move for move in cut.moves if move.role == role):
        split, join = move.inside, move.outside
        if back:
            split, join = join, split
        x = lax.all_to_all(x, move.axes, split, join, tiled=True)
    return x


def _summed(result, operator: Operator, cut: Cut, summed: Axes):
    for name, names in cut.scattered.items():
        axis = letters(RESULT[operator], cut.spec).index(name)
        result = lax.psum_scatter(result, names, scatter_dimension=axis, tiled=True)
        summed = tuple(axis for axis in summed if axis not in names)
    return lax.psum(result, summed) if summed else result


def _cleared(x, role: str, operator: Operator, cut: Cut):
    """Zeros where a shard reaches over the end of the whole and what it holds is undefined.

    Results there may be anything, so this is for entries that meet others: on spatial axes and
    in sums.
    """
    meeting = {*sums(operator, cut.spec), *(f"s{axis}" for axis in range(cut.spec.rank))}
    for axis, name in enumerate(letters(role, cut.spec)):
        if name in cut.axes and name in meeting:
            extent = sizes(name, cut.spec)[-1 if role == "g" else 0]
            if extent % cut.parts[name]:
                n = x.shape[axis]
                at = lax.broadcasted_iota(jnp.int32, x.shape, axis)
                x = jnp.where(at < extent - n * lax.axis_index(cut.axes[name]), x, 0)
    return x


# --- in blocks ------------------------------------------------------------------------------------


def _in_blocks(operator: Operator, cut: Cut, lines: Mapping[int, Line], a, b, dtype, compute):
    def local(blocks, dtype, a, b):
        return compute(local_spec(cut, blocks), dtype, a, b)

    sides = {axis: side(lines[axis], names, parts) for axis, names, parts in cut.spatial()}
    return in_blocks(operator, lines, sides, a, b, dtype, local)


def side(line: Line, name, shards: int, wrap: bool = False) -> halo.Side:
    """The entries around a shard that its blocks read."""
    low, high = line.halo
    return halo.Side(name, shards, 0 if line.swaps else low, high, wrap, line.swaps)


def in_blocks(
    operator: Operator,
    lines: Mapping[int, Line],
    sides: Mapping[int, halo.Side],
    a,
    b,
    dtype,
    compute: Callable,
):
    """The shard's own products, and added to them those with a halo.

    The shard is convolved as it is, never copied; and a halo of a few rows as it came.
    ``compute(locals, dtype, a, b)`` is the operator of one block, of these extents.
    """
    around = halo.Around(a, {axis + 1: side for axis, side in sides.items()})
    # Sums of half precision are rounded once.
    wide = jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype
    own, *others = pieces(lines)
    result = compute(_locals(lines, own), dtype, a, b)
    for blocks in others:
        source = around.read({axis + 1: block.source for axis, block in blocks.items()})
        target, taps = _boxes(blocks, sides)
        free, other = (taps, target) if operator is Operator.FILTER_GRAD else (target, taps)
        part = compute(_locals(lines, blocks), wide, source, other.taken(b))
        result = free.added(result, part)
    return result


def _locals(lines: Mapping[int, Line], blocks: Mapping[int, Block]) -> dict[int, Local]:
    return {axis: lines[axis].local(block) for axis, block in blocks.items()}


def _boxes(blocks: Mapping[int, Block], sides: Mapping[int, halo.Side]) -> tuple[Box, Box]:
    """Where this shard's blocks have their targets, and where their taps in the kernel."""
    target, taps = {}, {}
    for axis, block in blocks.items():
        upper = lax.axis_index(sides[axis].name) if any(block.moved) else 0
        target[axis + 1] = block.target, block.moved[0], upper
        taps[axis] = block.taps, block.moved[1], upper
    return Box(target), Box(taps)


@dataclasses.dataclass(frozen=True)
class Box:
    """A part of an array: on some axes a range, how much further it is on the upper of two shards,
    and whether this is that one. Entries outside of the array are zeros."""

    ranges: Mapping[int, tuple[Range, int, Any]]

    def taken(self, x):
        x, starts, _ = self._within(x)
        sizes = list(x.shape)
        for axis, ((first, end), _, _) in self.ranges.items():
            sizes[axis] = end - first
        return lax.dynamic_slice(x, starts, sizes)

    def added(self, x, part):
        """``x`` with ``part`` added to these entries, in the dtype of ``part``, then rounded."""
        wide, starts, own = self._within(x)
        total = lax.dynamic_slice(wide, starts, part.shape).astype(part.dtype) + part
        return lax.dynamic_update_slice(wide, total.astype(x.dtype), starts)[own]

    def _within(self, x):
        """``x`` with zeros where ranges leave it, where they start there, and where ``x`` is."""
        margins, starts = [(0, 0)] * x.ndim, [np.int32(0)] * x.ndim  # as axis_index is
        for axis, ((first, end), moved, upper) in self.ranges.items():
            low = max(-first, -first - moved, 0)
            margins[axis] = low, max(end - x.shape[axis], end + moved - x.shape[axis], 0)
            starts[axis] = np.int32(first + low) + moved * upper
        own = tuple(slice(low, low + n) for (low, _), n in zip(margins, x.shape, strict=True))
        return jnp.pad(x, margins), starts, own


def local_spec(cut: Cut, locals: Mapping[int, Local]) -> ConvSpec:
    """One device's spec, with those extents of the axes that are cut."""
    spec = cut.spec
    groups = cut.part("j", spec.groups)
    return replaced(spec, locals).replace(
        batch=cut.part("n", spec.batch),
        in_features=cut.part("c", groups * spec.group_in),
        out_features=cut.part("f", groups * spec.group_out),
        groups=groups,
    )


def replaced(spec: ConvSpec, locals: Mapping[int, Local]) -> ConvSpec:
    """The spec with other extents of some axes."""
    inputs, padding, taps = (
        list(each) for each in (spec.input_spatial, spec.padding, spec.kernel_spatial)
    )
    for axis, local in locals.items():
        inputs[axis], padding[axis], taps[axis] = local
    return spec.replace(
        input_spatial=tuple(inputs), padding=tuple(padding), kernel_spatial=tuple(taps)
    )


# --- in windows -----------------------------------------------------------------------------------


def _in_windows(operator: Operator, cut: Cut, lines: Mapping[int, Line], a, b, dtype, compute):
    """The operator of all that the shard's results read, joined to one array, which is copied."""
    inverse = operator is Operator.INPUT_GRAD
    window = inverse_window if inverse else forward_window
    windows = {axis: window(lines[axis], parts) for axis, _, parts in cut.spatial()}
    for axis, names, _ in cut.spatial():
        a = halo.window(a, axis + 1, names, windows[axis].starts, windows[axis].size)
    spec = local_spec(cut, {axis: window.local for axis, window in windows.items()})
    result = compute(spec, dtype, a, b)
    if inverse:
        for axis, names, _ in cut.spatial():
            result = _part(result, axis + 1, names, windows[axis].firsts, lines[axis].inputs)
    return result


@dataclasses.dataclass(frozen=True)
class Window:
    """One cut spatial axis: what each device reads of its activation, and its spec there.

    Device ``p`` reads ``size`` entries from ``starts[p]`` on; of an input gradient it keeps what
    it has from ``firsts[p]`` on.
    """

    starts: tuple[int, ...]
    size: int
    local: Local
    firsts: tuple[int, ...] = ()


def forward_window(line: Line, parts: int) -> Window:
    """The inputs ``s*o + d*t - low`` of the outputs of a device, over all taps."""
    outputs, s = line.outputs, line.stride
    size = s * (outputs - 1) + line.extent
    starts = tuple(s * outputs * p - line.low for p in range(parts))
    return Window(starts, size, Local(size, (0, 0), line.taps))


def inverse_window(line: Line, parts: int) -> Window:
    """The outputs that read a device's inputs: those with ``s*o + d*t - low = i`` for a tap t.

    The first that may is ``floor((i0 + low - reach) / s)`` with i0 the device's first input and
    reach the last tap's distance. From that output, all inputs after the reach of its first tap are
    complete, so the device's own begin up to s - 1 places into what is computed.
    """
    s, reach = line.stride, line.extent - 1
    firsts = [line.inputs * p + line.low - reach for p in range(parts)]
    offsets = tuple(first % s for first in firsts)
    extent = line.inputs + max(offsets)
    size = (extent - 1 + reach) // s + 1
    local = Local(extent, (reach, effective_extent(size, s) - extent), line.taps)
    return Window(tuple(first // s for first in firsts), size, local, offsets)


def _part(x, axis: int, names: Axes, firsts: tuple[int, ...], size: int):
    if len(set(firsts)) == 1:
        return lax.slice_in_dim(x, firsts[0], firsts[0] + size, axis=axis)
    return lax.dynamic_slice_in_dim(x, jnp.asarray(firsts)[lax.axis_index(names)], size, axis)
