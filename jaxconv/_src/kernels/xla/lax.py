"""The three operators by ``lax.conv_general_dilated``, which defines them on every platform.

The gradients are lax's own transposes of its convolution.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ...geometry.spec import ConvSpec, Operator, Pairs
from ..dtypes import promoted

LETTERS = {1: "W", 2: "HW", 3: "DHW"}


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    x, kernel = promoted(x, kernel)
    # lax's result must not be narrower than its operands, which a wide cotangent can make wide.
    wide = dtype and max(x.dtype, jnp.dtype(dtype), key=lambda each: each.itemsize)
    y = _forward(spec, precision, spec.padding)(x, kernel, dtype=wide)
    return y.astype(dtype or y.dtype)


def input_grad(g, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    g, kernel = promoted(g, kernel)
    if _symbolic(spec.input_spatial):
        return _dilated(g, kernel, spec, precision).astype(dtype or g.dtype)
    forward = _forward(spec, precision, spec.input_grad_padding)
    x = jax.ShapeDtypeStruct(spec.input_shape, g.dtype)
    transpose = jax.linear_transpose(lambda x: forward(x, kernel), x)
    return transpose(g)[0].astype(dtype or g.dtype)


def filter_grad(x, g, spec: ConvSpec, *, precision=None, dtype=None):
    x, g = promoted(x, g)
    forward = _forward(spec, precision, spec.filter_grad_padding)
    kernel = jax.ShapeDtypeStruct(spec.kernel_shape, x.dtype)
    transpose = jax.linear_transpose(lambda kernel: forward(x, kernel), kernel)
    return transpose(g)[0].astype(dtype or x.dtype)


def _dilated(g, kernel, spec: ConvSpec, precision):
    """The convolution that lax's transpose rule builds, of an input that is dilated and padded.

    The rule itself fails on symbolic extents: it finds that ``g``, of extent ``n``, differs from
    the forward convolution's output, of extent ``max(n, 0)``. And lax takes no symbolic padding:
    with a stride, the padding is the remainder of an extent.
    """
    letters = LETTERS[spec.rank]
    *extents, _, _ = kernel.shape
    kernel = kernel.reshape(*extents, spec.group_in, spec.groups, spec.group_out)
    kernel = jnp.moveaxis(kernel, -1, -3).swapaxes(-1, -2)  # [*K, F/G, G, C/G]
    kernel = kernel.reshape(*extents, spec.group_out, spec.in_features)
    axes = zip(spec.input_grad_padding, spec.strides, strict=True)
    widths = [(low, high, s - 1) for (low, high), s in axes]
    return lax.conv_general_dilated(
        lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *widths, (0, 0, 0)]),
        lax.rev(kernel, range(spec.rank)),
        window_strides=(1,) * spec.rank,
        padding="VALID",
        rhs_dilation=spec.dilation,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=spec.groups,
        precision=precision,
    )


def unsupported_reason(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    """lax supports every spec."""
    return None


def _forward(spec: ConvSpec, precision, window_padding: Pairs):
    """The forward convolution, in a form whose transpose XLA computes correctly.

    ``window_padding`` is the padding of the convolution that XLA will run. XLA:CPU of jaxlib 0.10.2
    returns wrong values if it crops one side and pads the other (``low < 0 < high``; seen with a
    kernel [4, 2, 2] and an input [2, 9, 2]), so such an input is padded or cropped before the
    convolution. So is one of symbolic padding, which only lax.pad accepts.
    """
    symbolic = any(map(_symbolic, (*window_padding, *spec.padding)))
    if symbolic or any(map(_mixed, window_padding)):
        return functools.partial(_convolve_fitted, spec=spec, precision=precision)
    return functools.partial(_convolve, spec=spec, precision=precision, padding=spec.padding)


def _mixed(pair: tuple[int, int]) -> bool:
    """Whether a pair crops one side and pads the other; False if it is symbolic."""
    low, high = pair
    return not _symbolic(pair) and low < 0 < high


def _symbolic(sizes: tuple[int, ...]) -> bool:
    return not all(isinstance(size, int) for size in sizes)


def _convolve_fitted(x, kernel, *, spec: ConvSpec, precision, dtype=None):
    """Pads to exactly what the taps read, so that lax's own padding is zero on both sides."""
    reads = (s * (o - 1) + k for s, o, k in _extents(spec))
    axes = zip(spec.input_spatial, reads, spec.padding, strict=True)
    widths = [(low, read - n - low, 0) for n, read, (low, _) in axes]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *widths, (0, 0, 0)])
    none = ((0, 0),) * spec.rank
    return _convolve(x, kernel, spec=spec, precision=precision, padding=none, dtype=dtype)


def _extents(spec: ConvSpec):
    return zip(spec.strides, spec.output_spatial, spec.effective_kernel, strict=True)


def _convolve(x, kernel, *, spec: ConvSpec, precision, padding: Pairs, dtype=None):
    letters = LETTERS[spec.rank]
    y = lax.conv_general_dilated(
        x,
        kernel,
        window_strides=spec.strides,
        padding=padding,
        rhs_dilation=spec.dilation,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=spec.groups,
        precision=precision,
        preferred_element_type=dtype,
    )
    return y if dtype is None else y.astype(dtype)
