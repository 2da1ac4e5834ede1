"""Which inputs each tap reads, and the slicing and padding that ``taps`` and ``dots`` share."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...geometry import phases
from ...geometry.spec import ConvSpec

UNPADDED = (0, 0, 0)


class Axis(NamedTuple):
    """One spatial axis: through tap ``i``, output ``o`` reads input ``o*s + i*d - low``.

    There are ``n`` inputs, ``o`` outputs and ``k`` taps.
    """

    n: int
    o: int
    k: int
    s: int
    d: int
    low: int

    @property
    def window(self) -> int:
        """The inputs read, from the first tap of the first output to the last tap of the last."""
        return (self.o - 1) * self.s + self.d * (self.k - 1) + 1

    @property
    def border(self) -> tuple[int, int, int]:
        """The padding, or cropping if negative, that leaves exactly the window."""
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
    """The inputs that all outputs read through tap ``at``, of an ``x`` padded to the window."""
    starts = [i * axis.d for i, axis in zip(at, axes, strict=True)]
    reads = zip(starts, axes, strict=True)
    return x[:, *[slice(i, i + (axis.o - 1) * axis.s + 1, axis.s) for i, axis in reads]]


def window(x, starts, sizes):
    """A window of the spatial axes, whose starts may be traced."""
    return lax.dynamic_slice(x, (0, *starts, 0), (x.shape[0], *sizes, x.shape[-1]))


def even_extent(n: int, limit: int) -> int:
    """An extent of at most ``limit`` to split ``n`` into nearly equal parts.

    It is a divisor of ``n``, which needs no padding, unless that is less than half as large.
    """
    limit = min(n, limit)
    even = -(-n // -(-n // limit))
    divisor = max(d for d in range(1, limit + 1) if n % d == 0)
    return divisor if 2 * divisor >= even else even


def materialized(step, f, *operands):
    """``f(*operands)`` for a loop's ``step``, in a branch that is always taken.

    XLA:CPU recomputes a dynamic slice at every use inside a fusion, which is then not vectorized.
    As operands of a branch the slices are materialized: 9.4 ms become 1.5 ms; see
    docs/design/measurements.md.
    """
    result = jax.eval_shape(f, *operands)
    return lax.cond(step >= 0, f, lambda *_: jnp.zeros(result.shape, result.dtype), *operands)


def phase(axis: Axis, residue: int) -> tuple[slice, Axis]:
    """One phase of the input gradient, as ``geometry/phases.py`` derives it.

    Returns the taps that reach the inputs ``residue``, ``residue + s``, …, and the convolution of
    the cotangent by these taps in reverse order.
    """
    found = phases.phase(residue, axis.k, axis.s, axis.d, axis.low)
    low = (found.number - 1) * found.output_step - found.output
    extent = -(-axis.n // axis.s)
    convolution = Axis(axis.o, extent, found.number, 1, found.output_step, low)
    return slice(found.first, None, found.tap_step), convolution


def interleaved(parts, axes):
    """The gradients of all phases, ordered by residue, as one array in the order of the inputs."""
    for axis in range(len(axes), 0, -1):
        s, n = axes[axis - 1].s, axes[axis - 1].n
        groups = [parts[i : i + s] for i in range(0, len(parts), s)]
        parts = [lax.slice_in_dim(_merged(group, axis), 0, n, axis=axis) for group in groups]
    return parts[0]


def _merged(parts, axis: int):
    if len(parts) == 1:
        return parts[0]
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return jnp.stack(parts, axis=axis + 1).reshape(shape)
