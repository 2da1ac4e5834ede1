"""The arrays of a convolution as its transforms take them, and back.

Transforms run over the innermost axes, so channels come first, and batch, blocks and phases that
are convolved separately (see ``fft_plan``) are one axis ``B``:

    x       [N, *S, C]       ->  [B, G, I, *M]      I = C/G times the phases that are summed
    kernel  [*K, C/G, F]     ->  [G, I, J, *M]      J = F/G
    y or g  [N, *O, F]       ->  [B, G, J, *M]

Zeros fill the blocks of M pixels, where zeros are padding or lie beyond the last output or tap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from ...geometry.spec import ConvSpec
from .fft_plan import FftAxis
from .windows import pad

Axes = Sequence[FftAxis]


def spread_inputs(x, axes: Axes, spec: ConvSpec):
    x = pad(x, [(a.low, a.span * a.phases - a.low - a.n, 0) for a in axes])
    sizes = [size for a in axes for size in (a.span, a.phases)]
    x = x.reshape(x.shape[0], *sizes, spec.groups, spec.group_in)
    for i, a in enumerate(axes):
        x = _overlapping(x, a, 1 + 3 * i)
    return _channels_first(x, axes)


def gathered_inputs(x, axes: Axes, spec: ConvSpec):
    """The adjoint of ``spread_inputs``, whose overlapping blocks are added."""
    x = _channels_last(x, axes, [a.phases for a in axes], spec)
    for i, a in enumerate(axes):
        x = _overlap_added(x, a, 1 + 2 * i)
    x = x.reshape(x.shape[0], *[a.span * a.phases for a in axes], spec.in_features)
    return x[:, *[slice(a.low, a.low + a.n) for a in axes]]


def spread_outputs(g, axes: Axes, spec: ConvSpec):
    phases = _output_phases(axes)
    each = [(a.blocks, min(a.block_outputs, a.p), c) for a, c in zip(axes, phases, strict=True)]
    g = pad(g, [(0, math.prod(e) - a.outputs, 0) for e, a in zip(each, axes, strict=True)])
    sizes = [size for e in each for size in e]
    g = g.reshape(g.shape[0], *sizes, spec.groups, spec.group_out)
    borders = [(0, a.m - n, 0) for (_, n, _), a in zip(each, axes, strict=True)]
    return pad_last(_channels_first(g, axes), borders)


def gathered_outputs(y, axes: Axes, spec: ConvSpec):
    """The outputs in each block, of which the last pixels are not needed."""
    y = y[..., *[slice(min(a.block_outputs, a.p)) for a in axes]]
    phases = _output_phases(axes)
    y = _channels_last(y, axes, phases, spec)
    extents = [math.prod(y.shape[1 + 3 * i : 4 + 3 * i]) for i in range(spec.rank)]
    y = y.reshape(y.shape[0], *extents, spec.out_features)
    return y[:, *[slice(a.outputs) for a in axes]]


def spread_kernel(kernel, axes: Axes, spec: ConvSpec):
    rank = spec.rank
    phases = [a.phases if a.summed else 1 for a in axes]
    extents = [a.e * c for a, c in zip(axes, phases, strict=True)]
    steps = zip(extents, axes, strict=True)
    borders = [(0, n - a.step * (a.taps - 1) - 1, a.step - 1) for n, a in steps]
    kernel = lax.pad(kernel, jnp.zeros((), kernel.dtype), [*borders, (0, 0, 0), (0, 0, 0)])
    sizes = [size for a, c in zip(axes, phases, strict=True) for size in (a.e, c)]
    kernel = kernel.reshape(*sizes, spec.group_in, spec.groups, spec.group_out)
    taps, residues = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
    kernel = kernel.transpose(2 * rank + 1, 2 * rank, *residues, 2 * rank + 2, *taps)
    kernel = kernel.reshape(spec.groups, -1, spec.group_out, *[a.e for a in axes])
    return pad_last(kernel, [(0, a.m - a.e, 0) for a in axes])


def gathered_kernel(kernel, axes: Axes, spec: ConvSpec):
    """The adjoint of ``spread_kernel``."""
    rank = spec.rank
    phases = [a.phases if a.summed else 1 for a in axes]
    kernel = kernel[..., *[slice(a.e) for a in axes]]
    kernel = kernel.reshape(
        spec.groups, spec.group_in, *phases, spec.group_out, *[a.e for a in axes]
    )
    pairs = [axis for i in range(rank) for axis in (3 + rank + i, 2 + i)]
    kernel = kernel.transpose(*pairs, 1, 0, 2 + rank)
    extents = [a.e * c for a, c in zip(axes, phases, strict=True)]
    kernel = kernel.reshape(*extents, spec.group_in, spec.out_features)
    return kernel[*[slice(0, a.step * (a.taps - 1) + 1, a.step) for a in axes]]


def pad_last(a, borders):
    """Pads the innermost axes."""
    if not any(map(any, borders)):
        return a
    outer = [(0, 0, 0)] * (a.ndim - len(borders))
    return lax.pad(a, jnp.zeros((), a.dtype), [*outer, *borders])


def _output_phases(axes: Axes) -> list[int]:
    """Of the outputs, which phases that are summed have in common."""
    return [1 if a.summed else a.phases for a in axes]


def _overlapping(x, a: FftAxis, i: int):
    """``[…, span, …] -> […, blocks, m, …]``"""
    if a.blocks == 1:
        return jnp.expand_dims(x, i)
    here = lax.slice_in_dim(x, 0, a.blocks * a.block_outputs, axis=i)
    following = lax.slice_in_dim(x, a.block_outputs, None, axis=i)
    shape = (*x.shape[:i], a.blocks, a.block_outputs, *x.shape[i + 1 :])
    here, following = here.reshape(shape), following.reshape(shape)
    following = lax.slice_in_dim(following, 0, a.m - a.block_outputs, axis=i + 1)
    return jnp.concatenate([here, following], axis=i + 1)


def _overlap_added(x, a: FftAxis, i: int):
    """The adjoint: ``[…, blocks, m, …] -> […, span, …]``"""
    shape = (*x.shape[:i], a.span, *x.shape[i + 2 :])
    if a.blocks == 1:
        return x.reshape(shape)
    before, after = [(0, 0, 0)] * i, [(0, 0, 0)] * (x.ndim - i - 2)
    zero = jnp.zeros((), x.dtype)
    one = a.block_outputs

    def placed(part, blocks: tuple[int, int]):
        lacking = one - part.shape[i + 1]
        borders = [*before, (*blocks, 0), (0, lacking, 0), *after]
        return lax.pad(part, zero, borders).reshape(shape)

    here = placed(lax.slice_in_dim(x, 0, one, axis=i + 1), (0, 1))
    following = placed(lax.slice_in_dim(x, one, None, axis=i + 1), (1, 0))
    return here + following


def _channels_first(x, axes: Axes):
    """``[N, *(blocks, pixels, phases), G, C/G] -> [B, G, I, *pixels]``"""
    order, kept = _order(axes)
    shape = [x.shape[axis] for axis in order]
    batch, inner = math.prod(shape[:kept]), shape[len(order) - len(axes) :]
    features = math.prod(shape[kept + 1 : len(order) - len(axes)])
    return x.transpose(order).reshape(batch, shape[kept], features, *inner)


def _channels_last(x, axes: Axes, phases: Sequence[int], spec: ConvSpec):
    """The inverse of ``_channels_first``, for this number of phases per axis."""
    order, _ = _order(axes)
    pixels = x.shape[3:]
    sizes = [n for a, m, c in zip(axes, pixels, phases, strict=True) for n in (a.blocks, m, c)]
    features = math.prod(x.shape[2:3]) // math.prod(
        c for a, c in zip(axes, phases, strict=True) if a.summed
    )
    batch = x.shape[0] // _parts(axes)
    shape = (batch, *sizes, spec.groups, features)
    x = x.reshape([shape[axis] for axis in order])
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return x.transpose(inverse)


def _parts(axes: Axes) -> int:
    """What joins each image in the batch."""
    return math.prod(a.blocks * (1 if a.summed else a.phases) for a in axes)


def _order(axes: Axes) -> tuple[list[int], int]:
    """The axes of ``_channels_first`` in the order of its result, and how many are the batch."""
    rank = len(axes)
    joined = [3 * i + 3 for i, a in enumerate(axes) if not a.summed]
    summed = [3 * i + 3 for i, a in enumerate(axes) if a.summed]
    blocks, pixels = ([3 * i + at for i in range(rank)] for at in (1, 2))
    batch = [0, *blocks, *joined]
    return [*batch, 3 * rank + 1, 3 * rank + 2, *summed, *pixels], len(batch)
