"""One operator on one shard: what it gets from other devices, computes and sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import lax

from . import halo
from .blocks import Block, Line, pieces
from .cut import Axes, Cut, letters, sizes, sums
from .primitives import RESULT, ROLES
from .spec import ConvSpec, Operator, effective_extent


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
    """The shard's own products, and added to them those with a halo.

    The shard is convolved as it is, never copied; and a halo of a few rows as it came.
    """
    cuts = {axis: (names, parts) for axis, names, parts in cut.spatial()}
    around = halo.Around(
        a, {axis + 1: halo.Side(*cuts[axis], *line.halo) for axis, line in lines.items()}
    )
    # Sums of half precision are rounded once.
    wide = jnp.promote_types(dtype, jnp.float32)
    own, *others = pieces(lines)
    result = compute(local_spec(cut, _local(lines, own)), dtype, a, b)
    for blocks in others:
        source = around.read({axis + 1: block.source for axis, block in blocks.items()})
        target = {axis + 1: block.target for axis, block in blocks.items()}
        spec = local_spec(cut, _local(lines, blocks))
        if operator is Operator.FILTER_GRAD:
            result += compute(spec, wide, source, halo.taken(b, target)).astype(dtype)
        else:
            part = compute(spec, wide, source, b) + halo.taken(result, target)
            first = [target.get(axis, (0,))[0] for axis in range(result.ndim)]
            result = lax.dynamic_update_slice(result, part.astype(dtype), first)
    return result


def _local(lines: Mapping[int, Line], blocks: Mapping[int, Block]):
    return {axis: lines[axis].local(block) for axis, block in blocks.items()}


def local_spec(cut: Cut, spatial: Mapping[int, tuple[int, tuple[int, int]]]) -> ConvSpec:
    """One device's spec, with the input extent and the padding of the axes that are cut."""
    spec = cut.spec
    groups = cut.part("j", spec.groups)
    extents, padding = list(spec.input_spatial), list(spec.padding)
    for axis, (extent, pair) in spatial.items():
        extents[axis], padding[axis] = extent, pair
    return spec.replace(
        batch=cut.part("n", spec.batch),
        in_features=cut.part("c", groups * spec.group_in),
        out_features=cut.part("f", groups * spec.group_out),
        groups=groups,
        input_spatial=tuple(extents),
        padding=tuple(padding),
    )


# --- in windows -----------------------------------------------------------------------------------


def _in_windows(operator: Operator, cut: Cut, lines: Mapping[int, Line], a, b, dtype, compute):
    """The operator of all that the shard's results read, joined to one array, which is copied."""
    inverse = operator is Operator.INPUT_GRAD
    window = inverse_window if inverse else forward_window
    windows = {axis: window(lines[axis], parts) for axis, _, parts in cut.spatial()}
    for axis, names, _ in cut.spatial():
        a = halo.window(a, axis + 1, names, windows[axis].starts, windows[axis].size)
    spec = local_spec(cut, {axis: (w.input_extent, w.padding) for axis, w in windows.items()})
    result = compute(spec, dtype, a, b)
    if inverse:
        for axis, names, _ in cut.spatial():
            result = _part(result, axis + 1, names, windows[axis].firsts, lines[axis].inputs)
    return result


@dataclasses.dataclass(frozen=True)
class Window:
    """One cut spatial axis: what each device reads of its activation, and the spec's sizes there.

    Device ``p`` reads ``size`` entries from ``starts[p]`` on; of an input gradient it keeps what
    it has from ``firsts[p]`` on.
    """

    starts: tuple[int, ...]
    size: int
    input_extent: int
    padding: tuple[int, int]
    firsts: tuple[int, ...] = ()


def forward_window(line: Line, parts: int) -> Window:
    """The inputs ``s*o + d*t - low`` of the outputs of a device, over all taps."""
    outputs, s = line.outputs, line.stride
    size = s * (outputs - 1) + line.extent
    starts = tuple(s * outputs * p - line.low for p in range(parts))
    return Window(starts, size, size, (0, 0))


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
    padding = reach, effective_extent(size, s) - extent
    return Window(tuple(first // s for first in firsts), size, extent, padding, offsets)


def _part(x, axis: int, names: Axes, firsts: tuple[int, ...], size: int):
    if len(set(firsts)) == 1:
        return lax.slice_in_dim(x, firsts[0], firsts[0] + size, axis=axis)
    return lax.dynamic_slice_in_dim(x, jnp.asarray(firsts)[lax.axis_index(names)], size, axis)
