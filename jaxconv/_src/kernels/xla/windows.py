"""Where the taps of a convolution fall: what taps.py and dots.py share."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...geometry.spec import ConvSpec

UNPADDED = (0, 0, 0)


class Axis(NamedTuple):
    """One spatial axis: output ``o`` reads the inputs ``o*s + i*d - low`` for the taps ``i``."""

    n: int
    o: int
    k: int
    s: int
    d: int
    low: int

    @property
    def window(self) -> int:
        """The inputs from the first tap of the first output to the last tap of the last."""
        return (self.o - 1) * self.s + self.d * (self.k - 1) + 1

    @property
    def border(self) -> tuple[int, int, int]:
        """The padding, or cropping, to exactly the window."""
        return (self.low, self.window - self.n - self.low, 0)


def forward_axes(spec: ConvSpec) -> list[Axis]:
    low = [lo for lo, _ in spec.padding]
    sizes = (spec.input_spatial, spec.output_spatial, spec.kernel_spatial)
    return [Axis(*axis) for axis in zip(*sizes, spec.strides, spec.dilation, low, strict=True)]


def pad(x, borders):
    """Pad or crop the spatial axes."""
    if not any(map(any, borders)):
        return x
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *borders, (0, 0, 0)])


def tap(x, axes, at):
    """The inputs that the tap ``at`` of every output reads, from ``x`` padded to the window."""
    starts = [i * axis.d for i, axis in zip(at, axes, strict=True)]
    reads = zip(starts, axes, strict=True)
    return x[:, *[slice(i, i + (axis.o - 1) * axis.s + 1, axis.s) for i, axis in reads]]


def window(x, starts, sizes):
    """A window of the spatial axes that starts anywhere."""
    return lax.dynamic_slice(x, (0, *starts, 0), (x.shape[0], *sizes, x.shape[-1]))


def even_extent(n: int, room: int) -> int:
    """The extent of blocks of ``n``: a divisor, which needs no padding, unless it is small."""
    room = min(n, room)
    even = -(-n // -(-n // room))
    divisor = max(d for d in range(1, room + 1) if n % d == 0)
    return divisor if 2 * divisor >= even else even


def materialised(step, f, *operands):
    """``f(*operands)`` for a loop's ``step``, in a branch that is always taken.

    XLA:CPU computes a dynamic slice again at every use inside a fusion, which is then not
    vectorised: depthwise 13x13 4x28x28x128 took 9.4 ms, and 1.5 ms with the slices made operands
    of a branch.
    """
    result = jax.eval_shape(f, *operands)
    return lax.cond(step >= 0, f, lambda *_: jnp.zeros(result.shape, result.dtype), *operands)


# The input gradient, from what Axis says: input q is read by the outputs o with o*s + i*d - low = q
# for a tap i. The taps that read the inputs q = r, r+s, r+2s, … are i0, i0 + s/c, …, c = gcd(d, s);
# from one to the next o falls by d/c. So every phase r is a convolution of g, without stride, with
# every (s/c)th tap in reverse order.


def phase(axis: Axis, r: int) -> tuple[slice, Axis]:
    """The taps that read the inputs ``r``, ``r + s``, …, and the convolution of g by them."""
    every = axis.s // math.gcd(axis.d, axis.s)
    first = next((i for i in range(every) if (r + axis.low - i * axis.d) % axis.s == 0), axis.k)
    k = len(range(first, axis.k, every))
    d = axis.d * every // axis.s
    low = (k - 1) * d - (r + axis.low - first * axis.d) // axis.s
    return slice(first, None, every), Axis(axis.o, -(-axis.n // axis.s), k, 1, d, low)


def interleaved(phases, axes):
    """The phases, in the order of their starts, as one array in the order of the inputs."""
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
