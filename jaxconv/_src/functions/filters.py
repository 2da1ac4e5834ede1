"""Fixed filter banks: Sobel, Scharr, Laplacian and Gaussian, applied to every channel.

A bank is a kernel ``[*K, 1, M]`` of ``M`` filters. ``apply`` filters each channel of an image with
each of them, by one depthwise convolution, at any dilation.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from ..geometry import checks
from ..geometry.checks import AXES, Call
from ..geometry.padding import PaddingLike
from ..geometry.types import Ints
from ..keywords import checks_keywords
from ..primitives.call import Window, convolve_depthwise, options

Array = jax.Array
_AXES = {**AXES, "bank": "*K 1 M"}
MAX_SIZE = 2**13 - 1  # of a Gaussian: a bank of half a gigabyte


@checks_keywords("filters.sobel")
def sobel(dtype: DTypeLike = jnp.float32) -> Array:
    """The two Sobel filters: the derivatives along rows (down) and along columns (right).

    Each is a central difference in one direction, smoothed by (1, 2, 1) in the other and divided by
    8, so that the response to a ramp is its slope.

    Args:
        dtype: The dtype of the bank, floating or complex.

    Returns:
        ``[3, 3, 1, 2]``.

    Raises:
        TypeError: ``dtype`` is neither floating nor complex.

    >>> sobel()[:, :, 0, 1] * 8
    Array([[-1.,  0.,  1.],
           [-2.,  0.,  2.],
           [-1.,  0.,  1.]], dtype=float32)

    Source: I. Sobel, G. Feldman (1968), in R. Duda, P. Hart, "Pattern classification and scene
    analysis" (1973), page 271.
    """
    return _gradient("sobel", (1, 2, 1), dtype)


@checks_keywords("filters.scharr")
def scharr(dtype: DTypeLike = jnp.float32) -> Array:
    """The two Scharr filters: like Sobel's, but smoothed by (3, 10, 3) and closer to isotropic.

    Args:
        dtype: The dtype of the bank, floating or complex.

    Returns:
        ``[3, 3, 1, 2]``.

    Raises:
        TypeError: ``dtype`` is neither floating nor complex.

    >>> scharr()[:, :, 0, 1] * 32
    Array([[ -3.,   0.,   3.],
           [-10.,   0.,  10.],
           [ -3.,   0.,   3.]], dtype=float32)

    Source: H. Scharr, "Optimal operators in digital image processing" (2000), chapter 9.
    """
    return _gradient("scharr", (3, 10, 3), dtype)


def _gradient(function: str, smooth: tuple[int, int, int], dtype: DTypeLike) -> Array:
    across = np.outer(smooth, (-1, 0, 1)) / (2 * sum(smooth))
    return _bank(Call(f"filters.{function}"), np.stack([across.T, across], axis=-1), dtype)


def _bank(call: Call, filters: np.ndarray[Any, Any], dtype: DTypeLike) -> Array:
    """``[*K, M]`` as a bank ``[*K, 1, M]``."""
    dtype = checks.inexact(call, "dtype", dtype)
    bank = filters[:, :, None, :]
    return jnp.asarray(bank, dtype)  # pyright: ignore[reportUnknownMemberType] (jax's stub)


@checks_keywords("filters.laplacian")
def laplacian(diagonal: bool = False, dtype: DTypeLike = jnp.float32) -> Array:
    """The discrete Laplacian: the sum over the neighbors of their difference from the center.

    Args:
        diagonal: Whether to include the four diagonal neighbors.
        dtype: The dtype of the bank, floating or complex.

    Returns:
        ``[3, 3, 1, 1]``.

    Raises:
        ValueError: ``diagonal`` is not a bool, or is traced.
        TypeError: ``dtype`` is neither floating nor complex.

    >>> laplacian()[:, :, 0, 0]
    Array([[ 0.,  1.,  0.],
           [ 1., -4.,  1.],
           [ 0.,  1.,  0.]], dtype=float32)

    Source: R. Gonzalez, R. Woods, "Digital image processing", section 3.6.
    """
    call = Call("filters.laplacian")
    included = checks.flag(call, "diagonal", _static(call, "diagonal", diagonal, "bool"))
    bank = np.full((3, 3), float(included))
    bank[1, :] = bank[:, 1] = 1.0
    bank[1, 1] = 1.0 - bank.sum()
    return _bank(call, bank[:, :, None], dtype)


@checks_keywords("filters.gaussian")
def gaussian(sigma: float, size: int | None = None, dtype: DTypeLike = jnp.float32) -> Array:
    """A sampled Gaussian, normalized to a sum of 1.

    Args:
        sigma: The standard deviation in pixels, positive. Not traced: the extent depends on it.
        size: The extent, odd and at most 8,191; by default 4 standard deviations on either side of
            the center.
        dtype: The dtype of the bank, floating or complex.

    Returns:
        ``[size, size, 1, 1]``.

    Raises:
        ValueError: ``sigma`` is not positive, ``size`` is not a positive odd int, or one of them
            is traced.
        TypeError: ``dtype`` is neither floating nor complex.

    >>> gaussian(1.5).shape
    (13, 13, 1, 1)

    Source: R. Gonzalez, R. Woods, "Digital image processing", section 3.5.
    """
    call = Call("filters.gaussian")
    sigma, size = _static(call, "sigma", sigma), _static(call, "size", size)
    if not isinstance(sigma, numbers.Real) or not 0 < sigma < math.inf:
        raise call.error(
            f"sigma must be a positive number of pixels, but got {checks.shown(sigma)}"
        )
    if size is None:
        size = 2 * int(4 * min(sigma, MAX_SIZE) + 0.5) + 1
    size = checks.integer(call, "size", size, maximum=MAX_SIZE)
    sigma = float(sigma)
    if size % 2 == 0:
        raise call.error(f"size must be odd, so that it has a center pixel, but got {size}")
    profile = np.exp(-(((np.arange(size) - size // 2) / sigma) ** 2) / 2)
    bank = np.outer(profile, profile) / profile.sum() ** 2
    return _bank(call, bank[:, :, None], dtype)


def _static(call: Call, name: str, value: Any, kind: str = "number") -> Any:
    """``value``, or the Python number or bool that it holds if it is a scalar array."""
    if isinstance(value, Tracer):
        raise call.error(
            f"{name} must be a static {kind}, because the bank is computed with NumPy, but it is "
            f"traced: {value!r}; pass a Python {kind}, or list it in static_argnames of jax.jit"
        )
    array: Any = value
    is_number = (
        isinstance(value, jax.Array | np.ndarray | np.generic)
        and array.shape == ()
        and (jnp.issubdtype(array.dtype, np.number) or jnp.issubdtype(array.dtype, np.bool_))
    )
    return np.asarray(array).item() if is_number else array


@checks_keywords("filters.apply")
def apply(
    x: ArrayLike,
    bank: ArrayLike,
    *,
    padding: PaddingLike = "REFLECT",
    dilation: Ints = 1,
    strides: Ints = 1,
) -> Array:
    """Filters every channel of ``x`` with every filter of ``bank``.

    Args:
        x: ``[N, H, W, C]``, or ``[H, W, C]`` for one image; floating or complex.
        bank: ``[*K, 1, M]``, of the dtype of ``x``.
        padding: As in ``conv``; the default mirrors the image, so that its border is not an edge.
        dilation: Distance between neighboring taps in pixels; larger values find edges of a coarser
            scale at the same cost.
        strides: Distance between neighboring outputs in pixels.

    Returns:
        ``[N, *O, C*M]``, of the dtype of ``x``: the M responses of each channel, side by side.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> ramp = jnp.arange(25.0).reshape(5, 5, 1)
    >>> apply(ramp, sobel())[2, 2]
    Array([5., 1.], dtype=float32)

    Source: those of the banks.
    """
    return _apply("filters.apply", x, bank, Window(strides, padding, dilation))


def _apply(function: str, x: ArrayLike, bank: ArrayLike, window: Window) -> Array:
    call, (x, bank), _ = checks.arrays(function, axes=_AXES, x=x, bank=bank)
    checks.filter_bank(call, x.shape, bank.shape)
    kernel = jnp.tile(bank, (*(1,) * (bank.ndim - 1), x.shape[-1]))
    return convolve_depthwise(call, x, kernel, None, window, options(call, x.dtype))


@checks_keywords("filters.edges")
def edges(x: ArrayLike, bank: ArrayLike | None = None, *, dilation: Ints = 1) -> Array:
    """The magnitude of the gradient at every pixel, separately for each channel.

    Args:
        x: ``[N, H, W, C]``, or ``[H, W, C]`` for one image; floating or complex.
        bank: The derivative filters ``[*K, 1, M]``; by default Sobel's.
        dilation: Distance between neighboring taps in pixels.

    Returns:
        ``[N, H, W, C]``, real: the square root of the sum of the squared responses to the bank.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> step = jnp.zeros((6, 6, 1)).at[:, 3:].set(1.0)
    >>> edges(step)[3, :, 0]
    Array([0. , 0. , 0.5, 0.5, 0. , 0. ], dtype=float32)

    Source: I. Sobel, G. Feldman (1968).
    """
    _, (x,), _ = checks.arrays("filters.edges", x=x)
    bank = sobel(x.dtype) if bank is None else bank
    responses = _apply("filters.edges", x, bank, Window(1, "REFLECT", dilation))
    responses = responses.reshape(*x.shape, np.shape(bank)[-1])
    # In half precision the squares overflow or underflow where their root does not.
    wide = responses.astype(jnp.float32) if responses.dtype.itemsize < 4 else responses
    squared = jnp.sum(jnp.real(wide * wide.conj()), axis=-1)
    # The root has no derivative at 0; flat regions get the subgradient 0, not NaN.
    flat = squared == 0
    root = jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, squared)))
    return root.astype(jnp.real(responses).dtype)
