"""Depthwise convolutions as shifted multiply-accumulates, in plain XLA.

All three operators, and every phase of a strided input gradient, are one computation:

    y[n, o, c] = sum over i of  x[n, o*s + i*d - low, c] * weights[n, i, c]

For the forward convolution the weights are the kernel. For the input gradient ``x`` is the
cotangent and the weights are the reversed kernel. For the filter gradient the weights are the
cotangent (one for each ``n``), ``y`` is the kernel, and stride and dilation change places. A
multiplier ``M`` repeats each in-feature ``M`` times, so that one channel has one filter.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from ..spec import ConvSpec, Operator

# Terms unrolled into one fusion. 16 to 64 were within 20 % of each other on 31x31 1x28x28x128
# and on filter gradients of 3x3 to 7x7; 128 terms lose vectorisation (31x31: 50 against 2 ms).
UNROLLED = 49

# A strided input gradient computes each phase apart up to this many; each compiles a fusion.
PHASES = 8

# Peak temporaries, in multiples of the larger of the arrays, above which channels are split.
TEMPORARIES = 1.8


class Axis(NamedTuple):
    """One spatial axis: ``o`` outputs, each reading ``k`` of ``n`` inputs; ``b`` unrolled."""

    n: int
    o: int
    k: int
    s: int
    d: int
    low: int
    b: int = 1

    @property
    def blocks(self) -> int:
        return -(-self.k // self.b)

    def window(self, k: int) -> int:
        """Inputs under all outputs, for ``k`` taps."""
        return (self.o - 1) * self.s + self.d * (k - 1) + 1

    @property
    def border(self) -> tuple[int, int, int]:
        """The padding, or cropping, to exactly what all taps read."""
        return (self.low, self.window(self.blocks * self.b) - self.n - self.low, 0)

    @property
    def size(self) -> int:
        """Inputs that one block of taps reads; an axis in one block is padded afterwards."""
        return self.n if self.blocks == 1 else self.window(self.b)


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    del precision  # sums of products of single elements are never rounded further
    dtype, sums = _dtypes(x, kernel, dtype)
    y = _correlate(_each_filter(x, spec), _weights(kernel, spec), _forward_axes(spec), sums)
    return y.astype(dtype)


def input_grad(g, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    del precision
    dtype, sums = _dtypes(g, kernel, dtype)
    weights, axes = _weights(kernel, spec), _forward_axes(spec)
    if math.prod(spec.strides) > PHASES:
        g, axes = _unstrided(g, axes)
    starts = itertools.product(*[range(axis.s) for axis in axes])
    dx = _interleaved([_phase(g, weights, axes, at, sums) for at in starts], axes)
    dx = dx.reshape(*dx.shape[:-1], spec.in_features, spec.group_out)
    return (dx[..., 0] if spec.group_out == 1 else dx.sum(-1)).astype(dtype)


def filter_grad(x, g, spec: ConvSpec, *, precision=None, dtype=None):
    del precision
    dtype, sums = _dtypes(x, g, dtype)
    dkernel = _correlate(_each_filter(x, spec), g, _filter_axes(spec), sums).sum(0)
    return dkernel.reshape(spec.kernel_shape).astype(dtype)


def refusal(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    if spec.depthwise:
        return None
    return f"taps serves depthwise convolutions only, but a group has {spec.group_in} in-features"


def _dtypes(a, b, dtype):
    """The result's dtype, and the one to accumulate in."""
    dtype = jnp.dtype(dtype or jnp.promote_types(a.dtype, b.dtype))
    sums = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), dtype)
    return dtype, jnp.promote_types(sums, jnp.float32) if sums.itemsize < 4 else sums


def _each_filter(x, spec: ConvSpec):
    return x if spec.group_out == 1 else jnp.repeat(x, spec.group_out, axis=-1)


def _weights(kernel, spec: ConvSpec):
    return kernel.reshape(1, *spec.kernel_spatial, spec.out_features)


def _forward_axes(spec: ConvSpec) -> list[Axis]:
    low = [lo for lo, _ in spec.padding]
    sizes = (spec.input_spatial, spec.output_spatial, spec.kernel_spatial)
    return [Axis(*axis) for axis in zip(*sizes, spec.strides, spec.dilation, low, strict=True)]


def _filter_axes(spec: ConvSpec) -> list[Axis]:
    return [Axis(a.n, a.k, a.o, a.d, a.s, a.low) for a in _forward_axes(spec)]


# The input gradient. Input q reads the outputs o with o*s + i*d - low = q for a tap i. The taps
# that serve the inputs q = r, r+s, r+2s, … are i0, i0 + s/c, … for c = gcd(d, s); along them o
# falls by d/c. So each phase r is a correlation of g, without stride, with every (s/c)th tap.


def _phase(g, weights, axes, at, sums):
    """The gradient at the inputs ``at``, ``at + strides``, …"""
    chosen = [_phase_axis(axis, r) for axis, r in zip(axes, at, strict=True)]
    taps, axes = zip(*chosen, strict=True)
    if any(axis.k == 0 for axis in axes):
        return jnp.zeros((g.shape[0], *[axis.o for axis in axes], g.shape[-1]), sums)
    return _correlate(g, lax.rev(weights[:, *taps], range(1, len(axes) + 1)), axes, sums)


def _phase_axis(axis: Axis, r: int) -> tuple[slice, Axis]:
    every = axis.s // math.gcd(axis.d, axis.s)
    first = next((i for i in range(every) if (r + axis.low - i * axis.d) % axis.s == 0), axis.k)
    k = len(range(first, axis.k, every))
    d = axis.d * every // axis.s
    low = (k - 1) * d - (r + axis.low - first * axis.d) // axis.s
    return slice(first, None, every), Axis(axis.o, -(-axis.n // axis.s), k, 1, d, low)


def _interleaved(phases, axes):
    """The phases, the last axis' fastest, put back in the order of the inputs."""
    for axis in range(len(axes), 0, -1):
        s, n = axes[axis - 1].s, axes[axis - 1].n
        groups = [phases[i : i + s] for i in range(0, len(phases), s)]
        phases = [lax.slice_in_dim(_merged(group, axis), 0, n, axis=axis) for group in groups]
    return phases[0]


def _merged(phases, axis: int):
    if len(phases) == 1:
        return phases[0]
    shape = list(phases[0].shape)
    shape[axis] *= len(phases)
    return jnp.stack(phases, axis=axis + 1).reshape(shape)


def _unstrided(g, axes):
    """The same input gradient at stride 1, with zeros between the cotangents."""
    g = _pad(g, [(0, 0, axis.s - 1) for axis in axes])
    return g, [axis._replace(o=(axis.o - 1) * axis.s + 1, s=1) for axis in axes]


def _correlate(x, weights, axes, sums):
    """The computation above, a block of channels at a time where its temporaries need it."""
    axes = _blocked(axes)
    parts = _channel_parts(axes, x.shape[-1])
    if parts == 1:
        return _correlate_block(x, weights, axes, sums)
    width = x.shape[-1] // parts

    def part(y, x, weights, start):
        block = _correlate_block(x, weights, axes, sums)
        return lax.dynamic_update_slice_in_dim(y, block, start, axis=-1)

    def step(i, y):
        start = i * width
        blocks = [lax.dynamic_slice_in_dim(a, start, width, axis=-1) for a in (x, weights)]
        return _materialised(i, part, y, *blocks, start)

    shape = (x.shape[0], *[axis.o for axis in axes], x.shape[-1])
    return lax.fori_loop(0, parts, step, jnp.zeros(shape, sums))


def _blocked(axes) -> list[Axis]:
    """Unroll as many taps of the trailing axes as allowed, in blocks of even size."""
    blocked, room = [], UNROLLED
    for axis in reversed(axes):
        blocks = -(-axis.k // min(axis.k, room))
        blocked.append(axis._replace(b=-(-axis.k // blocks)))
        room = max(room // blocked[-1].b, 1)
    return blocked[::-1]


def _channel_parts(axes, channels: int) -> int:
    """The fewest equal parts of the channels with acceptable temporaries."""
    whole = math.prod(axis.window(axis.blocks * axis.b) for axis in axes)
    loop = any(axis.blocks > 1 for axis in axes)
    out = math.prod(axis.o for axis in axes)
    largest = max(math.prod(axis.n for axis in axes), out)
    parts = (whole + loop * (whole + out)) / largest / TEMPORARIES
    fitting = [p for p in range(1, channels + 1) if channels % p == 0 and p >= parts]
    return fitting[0] if fitting else channels


def _correlate_block(x, weights, axes, sums):
    looped = [axis.blocks > 1 for axis in axes]
    x = _pad(x, [axis.border if loop else (0, 0, 0) for axis, loop in zip(axes, looped)])
    inner = [(0, 0, 0) if loop else axis.border for axis, loop in zip(axes, looped)]
    if not any(looped):
        return _products(_pad(x, inner), weights, axes, sums)
    weights = _pad(weights, [(0, axis.blocks * axis.b - axis.k, 0) for axis in axes])

    def step(t, y):
        at = _unravelled(t, [axis.blocks for axis in axes])
        window = _window(x, [i * (a.b * a.d) for i, a in zip(at, axes)], [a.size for a in axes])
        block = _window(weights, [i * a.b for i, a in zip(at, axes)], [a.b for a in axes])
        return _materialised(t, add, y, _pad(window, inner), block)

    def add(y, x, weights):
        return y + _products(x, weights, axes, sums)

    shape = (x.shape[0], *[axis.o for axis in axes], x.shape[-1])
    return lax.fori_loop(0, math.prod(a.blocks for a in axes), step, jnp.zeros(shape, sums))


def _products(x, weights, axes, sums):
    """One block of taps, unrolled: a single fusion, vectorised along the channels."""
    terms = itertools.product(*[range(axis.b) for axis in axes])
    return sum(_tap(x, axes, at).astype(sums) * _one(weights, at).astype(sums) for at in terms)


def _tap(x, axes, at):
    starts = [i * axis.d for i, axis in zip(at, axes)]
    inner = [slice(i, i + (a.o - 1) * a.s + 1, a.s) for i, a in zip(starts, axes)]
    return x[:, *inner]


def _one(weights, at):
    return weights[:, *[slice(i, i + 1) for i in at]]


def _materialised(t, update, carry, *operands):
    """``update(carry, *operands)``, in a branch that is always taken.

    XLA:CPU would recompute a dynamic slice for every use in a fusion, and lose vectorisation:
    13x13 4x28x28x128 took 9.4 ms, and takes 1.5 ms where the branch makes it a plain operand.
    """
    return lax.cond(t >= 0, update, lambda carry, *_: carry, carry, *operands)


def _pad(x, borders):
    if not any(map(any, borders)):
        return x
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *borders, (0, 0, 0)])


def _window(x, starts, sizes):
    return lax.dynamic_slice(x, (0, *starts, 0), (x.shape[0], *sizes, x.shape[-1]))


def _unravelled(t, extents):
    at = []
    for extent in reversed(extents):
        at.append(lax.rem(t, extent))
        t = lax.div(t, extent)
    return at[::-1]
