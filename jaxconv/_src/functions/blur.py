"""Anti-aliased downsampling."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ..geometry import checks
from ..geometry.padding import PaddingLike
from ..geometry.types import Ints
from ..keywords import checks_keywords
from ..primitives.call import Window, convolve_depthwise, options

Array = jax.Array
MAX_SIZE = 255  # of an axis: the tails of longer binomials are zero in float64


@checks_keywords("blur_pool")
def blur_pool(
    x: ArrayLike, *, size: Ints = 3, strides: Ints = 2, padding: PaddingLike = "REFLECT"
) -> Array:
    """Blurs every channel, then keeps every ``strides``-th pixel, so that no frequency is aliased.

        y[n, o, c] = sum over t of  x[n, s*o + t - low, c] * prod over axes of  B(t) / 2**(K-1)

    ``B`` are the binomial coefficients of a row of Pascal's triangle: (1, 1), (1, 2, 1),
    (1, 3, 3, 1), … In place of a strided layer, use the layer without strides, then this.

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example; floating or complex.
        size: The extent ``K`` of the blur, a positive int per spatial axis, at most 255; an int for
            ``[N, H, W, C]``.
        strides: Distance between neighboring outputs in pixels: a positive int, or one per axis.
        padding: As in ``conv``; the default mirrors the image, so that its border does not darken.

    Returns:
        ``[N, *O, C]``, of the dtype of ``x``, with ``O = ceil(S / strides)`` for the default
        padding.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: ``x`` is not an array, or neither floating nor complex.

    >>> import jax.numpy as jnp
    >>> stripes = jnp.tile(jnp.array([0.0, 1.0]), 4)[:, None]
    >>> stripes[::2, 0]  # aliased
    Array([0., 0., 0., 0.], dtype=float32)
    >>> blur_pool(stripes, size=(3,))[:, 0]
    Array([0.5, 0.5, 0.5, 0.5], dtype=float32)

    Source: R. Zhang, "Making convolutional networks shift-invariant again" (2019), section 3.2.
    """
    call, (x,), _ = checks.arrays("blur_pool", x=x)
    sizes = checks.per_axis_of_input(call, "size", size, x.shape)
    if max(sizes) > MAX_SIZE:
        raise call.error(f"size must be at most {MAX_SIZE} on every axis, but got {max(sizes)}")
    blur = functools.reduce(np.multiply.outer, map(_binomial, sizes))
    checks.elements(call, "the blur's kernel", (*sizes, 1, x.shape[-1]))
    kernel = jnp.asarray(blur[..., None, None], x.dtype)  # pyright: ignore[reportUnknownMemberType] (jax's stub)
    kernel = jnp.broadcast_to(kernel, (*sizes, 1, x.shape[-1]))
    window = Window(strides, padding)
    return convolve_depthwise(call, x, kernel, None, window, options(call, x.dtype))


def _binomial(size: int) -> np.ndarray:
    """A row of Pascal's triangle, normalized to a sum of 1."""
    return np.array([math.comb(size - 1, i) / 2 ** (size - 1) for i in range(size)])
