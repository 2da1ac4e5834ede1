"""Fixed filter banks: Sobel, Scharr, Laplacian and Gaussian, applied to every feature.

A bank is a kernel ``[*K, 1, M]`` of ``M`` filters. ``apply`` gives each feature of an image its own
response to each filter, by one depthwise convolution, at any dilation.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..geometry import checks
from ..geometry.checks import Call
from ..geometry.padding import PaddingLike
from ..primitives.call import convolve_depthwise

Array = jax.Array


def sobel(dtype: Any = jnp.float32) -> Array:
    """The two Sobel filters, derivative along rows (down) and along columns (right).

    Each is a central difference smoothed across by (1, 2, 1), divided by 8, so that the response to
    a ramp is its slope.

    Returns:
        ``[3, 3, 1, 2]``.

    >>> sobel()[:, :, 0, 1] * 8
    Array([[-1.,  0.,  1.],
           [-2.,  0.,  2.],
           [-1.,  0.,  1.]], dtype=float32)

    Source: I. Sobel, G. Feldman (1968), in R. Duda, P. Hart, "Pattern classification and scene
    analysis" (1973), page 271.
    """
    return _gradient("sobel", (1, 2, 1), dtype)


def scharr(dtype: Any = jnp.float32) -> Array:
    """The two Scharr filters: as Sobel's, but smoothed by (3, 10, 3), and closer to isotropic.

    Returns:
        ``[3, 3, 1, 2]``.

    >>> scharr()[:, :, 0, 1] * 32
    Array([[ -3.,   0.,   3.],
           [-10.,   0.,  10.],
           [ -3.,   0.,   3.]], dtype=float32)

    Source: H. Scharr, "Optimal operators in digital image processing" (2000), chapter 9.
    """
    return _gradient("scharr", (3, 10, 3), dtype)


def _gradient(function: str, smooth: tuple[int, int, int], dtype: Any) -> Array:
    across = np.outer(smooth, (-1, 0, 1)) / (2 * sum(smooth))
    return _bank(Call(f"filters.{function}"), np.stack([across.T, across], axis=-1), dtype)


def _bank(call: Call, filters: np.ndarray, dtype: Any) -> Array:
    """``[*K, M]`` as a bank ``[*K, 1, M]``."""
    return jnp.asarray(filters[:, :, None, :], checks.inexact(call, "dtype", dtype))


def laplacian(diagonal: bool = False, dtype: Any = jnp.float32) -> Array:
    """The discrete Laplacian: the sum of the neighbours less their number times the centre.

    Args:
        diagonal: Whether the four diagonal neighbours count as well.
        dtype: The dtype of the bank.

    Returns:
        ``[3, 3, 1, 1]``.

    >>> laplacian()[:, :, 0, 0]
    Array([[ 0.,  1.,  0.],
           [ 1., -4.,  1.],
           [ 0.,  1.,  0.]], dtype=float32)

    Source: R. Gonzalez, R. Woods, "Digital image processing", section 3.6.
    """
    bank = np.full((3, 3), 1.0 if diagonal else 0.0)
    bank[1, :] = bank[:, 1] = 1.0
    bank[1, 1] = 1.0 - bank.sum()
    return _bank(Call("filters.laplacian"), bank[:, :, None], dtype)


def gaussian(sigma: float, size: int | None = None, dtype: Any = jnp.float32) -> Array:
    """A sampled Gaussian that sums to 1.

    Args:
        sigma: The standard deviation in pixels, positive.
        size: The extent, odd; by default it reaches 4 standard deviations on either side.
        dtype: The dtype of the bank.

    Returns:
        ``[size, size, 1, 1]``.

    Raises:
        ValueError: ``sigma`` is not positive, or ``size`` not a positive odd int.
        TypeError: ``dtype`` is neither floating nor complex.

    >>> gaussian(1.5).shape
    (13, 13, 1, 1)

    Source: R. Gonzalez, R. Woods, "Digital image processing", section 3.5.
    """
    call = Call("filters.gaussian")
    if not isinstance(sigma, numbers.Real) or not 0 < sigma < math.inf:
        raise call.error(f"sigma must be a positive number of pixels, but got {sigma!r}")
    size = 2 * int(4 * sigma + 0.5) + 1 if size is None else checks.integer(call, "size", size)
    if size % 2 == 0:
        raise call.error(f"size must be odd, so that a pixel is its centre, but got {size}")
    profile = np.exp(-(((np.arange(size) - size // 2) / sigma) ** 2) / 2)
    bank = np.outer(profile, profile) / profile.sum() ** 2
    return _bank(call, bank[:, :, None], dtype)


def apply(
    x: Any, bank: Any, *, padding: PaddingLike = "REFLECT", dilation: Any = 1, strides: Any = 1
) -> Array:
    """Gives every feature of ``x`` its response to every filter of ``bank``.

    Args:
        x: ``[N, H, W, C]``, or ``[H, W, C]`` for one image; floating or complex.
        bank: ``[*K, 1, M]``, of the dtype of ``x``.
        padding: As in ``conv``; the default mirrors the image, so that its border is no edge.
        dilation: Pixels between neighbouring taps; edges of a coarser scale at the same cost.
        strides: Pixels between neighbouring outputs.

    Returns:
        ``[N, *O, C*M]``: for each feature the responses to all filters, side by side.

    Raises:
        ValueError: A shape does not fit.
        TypeError: Something is not an array, or the dtypes differ.

    >>> ramp = jnp.arange(25.0).reshape(5, 5, 1)
    >>> apply(ramp, sobel())[2, 2]
    Array([5., 1.], dtype=float32)

    Source: the pages that the banks name.
    """
    return _apply("filters.apply", x, bank, strides, padding, dilation)


def _apply(function: str, x, bank, strides, padding, dilation) -> Array:
    call, x, bank = checks.arrays(function, x=x, bank=bank)
    checks.filter_bank(call, x.shape, bank.shape)
    kernel = jnp.tile(bank, (*(1,) * (bank.ndim - 1), x.shape[-1]))
    window = strides, padding, dilation
    return convolve_depthwise(call, x, kernel, None, window, (None, None, None))


def edges(x: Any, bank: Any = None, *, dilation: Any = 1) -> Array:
    """The magnitude of the gradient at every pixel, feature by feature.

    Args:
        x: ``[N, H, W, C]``, or ``[H, W, C]`` for one image; floating or complex.
        bank: The derivative filters ``[*K, 1, M]``; by default Sobel's.
        dilation: Pixels between neighbouring taps.

    Returns:
        ``[N, H, W, C]``, real: the root of the sum of the squared responses to the bank.

    Raises:
        ValueError: A shape does not fit.
        TypeError: Something is not an array, or the dtypes differ.

    >>> step = jnp.zeros((6, 6, 1)).at[:, 3:].set(1.0)
    >>> edges(step)[3, :, 0]
    Array([0. , 0. , 0.5, 0.5, 0. , 0. ], dtype=float32)

    Source: I. Sobel, G. Feldman (1968).
    """
    _, x = checks.arrays("filters.edges", x=x)
    bank = sobel(x.dtype) if bank is None else bank
    responses = _apply("filters.edges", x, bank, 1, "REFLECT", dilation)
    responses = responses.reshape(*x.shape, np.shape(bank)[-1])
    # The squares of half precision leave its range where their root does not.
    wide = responses.astype(jnp.float32) if responses.dtype.itemsize < 4 else responses
    squared = jnp.sum(jnp.real(wide * wide.conj()), axis=-1)
    # The root has no derivative at 0: flat regions get the subgradient 0, not NaN.
    flat = squared == 0
    root = jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, squared)))
    return root.astype(jnp.real(responses).dtype)
