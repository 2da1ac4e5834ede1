"""Partial convolution: only valid pixels count."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..geometry import checks
from ..geometry.checks import Call
from ..geometry.padding import PaddingLike
from ..geometry.types import ImplementationName, Ints
from ..keywords import checks_keywords
from ..primitives.call import Window, add_bias, convolve, convolve_depthwise, options

Array = jax.Array


@checks_keywords("partial_conv")
def partial_conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    mask: ArrayLike,
    strides: Ints = 1,
    padding: PaddingLike = "SAME",
    dilation: Ints = 1,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> tuple[Array, Array]:
    """Convolution of the valid pixels alone, scaled up by how many there are in each window.

        y = conv(where(mask, x, 0), kernel) * window / valid + bias   where valid > 0, otherwise 0

    ``valid`` is the number of valid entries that an output reads and ``window`` the number of taps,
    both of one channel, or of all channels of a group if the mask has channels. Zeros of the
    padding are not valid. What ``x`` holds where the mask is 0, even NaN, has no effect.

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example; floating or complex.
        kernel: ``[*K, C/groups, F]``, of the dtype of ``x``.
        bias: ``[F]``, of the dtype of ``x``, or None.
        mask: The shape of ``x``, or that with 1 channel for all; bool or a number, where everything
            but 0 is valid.
        strides, padding, dilation, groups: As in ``conv``.
        precision, preferred_element_type, implementation: As in ``conv``.

    Returns:
        ``[N, *O, F]``, of the dtype of ``x`` or ``preferred_element_type``; and the mask of the
        next layer, of the dtype of ``mask``: 1 (or True) where an output has read a valid entry;
        ``[N, *O, 1]`` if ``mask`` has 1 channel, or else ``[N, *O, F]``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> x, mask = jnp.array([4.0, 9.0, 9.0, 9.0, 6.0]), jnp.array([1, 0, 0, 0, 1])
    >>> y, mask = partial_conv(x[:, None], jnp.ones((3, 1, 1)) / 3, mask=mask[:, None])
    >>> y[:, 0], mask[:, 0]
    (Array([4., 4., 0., 6., 6.], dtype=float32), Array([1, 1, 0, 1, 1], dtype=int32))

    Source: G. Liu et al., "Image inpainting for irregular holes using partial convolutions" (2018),
    equations 1 and 2.
    """
    call, (x, kernel), bias = checks.arrays("partial_conv", x=x, kernel=kernel, bias=bias)
    mask = _checked_mask(call, checks.array("partial_conv", "mask", mask), x)
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    window = Window(strides, padding, dilation, groups)
    valid = mask != mask.dtype.type(0)
    y = convolve(call, jnp.where(valid, x, 0), kernel, None, window, keywords)
    checks.bias(call, bias, y.shape[-1])
    counts, total = _valid_counts(call, valid, kernel.shape, window)
    if mask.shape[-1] != 1:
        counts = jnp.repeat(counts, y.shape[-1] // counts.shape[-1], axis=-1)
    some = counts > 0
    wide = jnp.float32 if y.dtype.itemsize < 4 else y.dtype
    ratio = total / jnp.where(some, counts, 1).astype(wide)
    scaled = (y.astype(wide) * ratio).astype(y.dtype)
    return jnp.where(some, add_bias(scaled, bias), 0), some.astype(mask.dtype)


def _checked_mask(call: Call, mask: Array, x: Array) -> Array:
    if not (jnp.issubdtype(mask.dtype, jnp.bool_) or jnp.issubdtype(mask.dtype, jnp.number)):
        raise call.error(f"mask must be bool or a number, but its dtype is {mask.dtype}", TypeError)
    single = (*x.shape[:-1], 1)
    if mask.shape in (x.shape, single):
        return mask
    hint = "; add the axis of channels with mask[..., None]" if mask.shape == x.shape[:-1] else ""
    raise call.error(
        f"mask must have the shape of x, {tuple(x.shape)}, or {single}, but got "
        f"{tuple(mask.shape)}{hint}"
    )


def _valid_counts(
    call: Call, valid: Array, kernel_shape: tuple[int, ...], window: Window
) -> tuple[Array, int]:
    """How many entries that each output reads are valid, and how many it reads.

    The counts are ``[N, *O, groups]`` if every channel has its own mask, and ``[N, *O, 1]`` if all
    have one.
    """
    *extents, group_in, _ = kernel_shape
    if valid.shape[-1] <= 1 or group_in == 0:
        per_pixel, groups = 1, 1
        counts = jnp.any(valid, axis=-1, keepdims=True).astype(jnp.float32)
    else:
        per_pixel, groups = group_in, valid.shape[-1] // group_in
        grouped = valid.reshape(*valid.shape[:-1], groups, per_pixel)
        counts = jnp.sum(grouped.astype(jnp.float32), axis=-1)  # which counts up to 2**24
    ones = jnp.broadcast_to(jnp.float32(1), (*extents, 1, groups))
    counts = convolve_depthwise(call, counts, ones, None, window, options(call, ones.dtype))
    return counts, math.prod(extents) * per_pixel
