"""Rearrangements between channels and pixels, and of channels between groups."""

from __future__ import annotations

import math

import jax
from jax.typing import ArrayLike

from ..geometry import checks
from ..geometry.checks import Call
from ..geometry.types import Ints
from ..keywords import checks_keywords

Array = jax.Array


@checks_keywords("pixel_shuffle")
def pixel_shuffle(x: ArrayLike, factor: Ints) -> Array:
    """Moves channels into space: each pixel becomes a block of ``prod(factor)`` pixels.

        y[n, r*o + i, c] = x[n, o, c*prod(r) + i]        (i in row-major order of the block)

    The channels are in the order of PyTorch, and of ``depthwise_conv``: the pixels of one block are
    next to each other. For TensorFlow's ``depth_to_space``, in which they are ``C`` apart, first
    reorder: ``x.reshape(*x.shape[:-1], prod(r), C).swapaxes(-1, -2).reshape(x.shape)``.

    Args:
        x: ``[N, *S, C*prod(r)]``, or ``[*S, C*prod(r)]`` for one example; of any dtype.
        factor: ``r``, one positive int per spatial axis; an int for ``[N, H, W, C]``.

    Returns:
        ``[N, *S*r, C]``, of the dtype of ``x``.

    Raises:
        ValueError: ``factor`` does not fit, or the channels are not a multiple of its product.
        TypeError: ``x`` is not an array.

    >>> import jax.numpy as jnp
    >>> pixel_shuffle(jnp.arange(8).reshape(1, 2, 4), (2, 2))[..., 0]
    Array([[0, 1, 4, 5],
           [2, 3, 6, 7]], dtype=int32)

    Source: W. Shi et al., "Real-time single image and video super-resolution using an efficient
    sub-pixel convolutional neural network" (2016); ``torch.nn.functional.pixel_shuffle``.
    """
    x = checks.array("pixel_shuffle", "x", x)
    call = Call("pixel_shuffle", x=x.shape)
    factors = checks.per_axis_of_input(call, "factor", factor, x.shape)
    block = math.prod(factors)
    if checks.known(x.shape[-1]) and x.shape[-1] % block:
        raise call.error(
            f"the number of channels must be a multiple of the product of factor, but "
            f"{x.shape[-1]} % {block} = {x.shape[-1] % block}"
        )
    rank = len(factors)
    first = x.ndim - rank - 1
    channels = x.shape[-1] // block
    extents = [n * r for n, r in zip(x.shape[first:-1], factors, strict=True)]
    # [..., *S, C, *r] -> [..., S1, r1, S2, r2, ..., C]
    pairs = [axis for i in range(first, first + rank) for axis in (i, i + rank + 1)]
    y = x.reshape(*x.shape[:-1], channels, *factors)
    y = y.transpose(*range(first), *pairs, first + rank)
    return y.reshape(*x.shape[:first], *extents, channels)


@checks_keywords("pixel_unshuffle")
def pixel_unshuffle(x: ArrayLike, factor: Ints) -> Array:
    """Moves pixels into channels: the inverse of ``pixel_shuffle``.

        y[n, o, c*prod(r) + i] = x[n, r*o + i, c]        (i in row-major order of the block)

    No pixel is lost, unlike in a strided slice. The order of channels is PyTorch's, as in
    ``pixel_shuffle``.

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example; of any dtype.
        factor: ``r``, one positive int per spatial axis, which divides its extent; an int for
            ``[N, H, W, C]``.

    Returns:
        ``[N, *S/r, C*prod(r)]``, of the dtype of ``x``.

    Raises:
        ValueError: ``factor`` does not fit, or an extent is not a multiple of it.
        TypeError: ``x`` is not an array.

    >>> import jax.numpy as jnp
    >>> pixel_unshuffle(jnp.arange(8).reshape(2, 4, 1), (2, 2))
    Array([[[0, 1, 4, 5],
            [2, 3, 6, 7]]], dtype=int32)

    Source: ``torch.nn.functional.pixel_unshuffle``.
    """
    x = checks.array("pixel_unshuffle", "x", x)
    call = Call("pixel_unshuffle", x=x.shape)
    factors = checks.per_axis_of_input(call, "factor", factor, x.shape)
    rank = len(factors)
    first = x.ndim - rank - 1
    spatial = x.shape[first:-1]
    for axis, (extent, r) in enumerate(zip(spatial, factors, strict=True)):
        if checks.known(extent) and extent % r:
            raise call.error(
                f"every extent must be a multiple of factor, but on spatial axis {axis} "
                f"{extent} % {r} = {extent % r}; crop or pad x"
            )
    outer = [extent // r for extent, r in zip(spatial, factors, strict=True)]
    split = [size for pair in zip(outer, factors, strict=True) for size in pair]
    outers, inners = (range(first + i, first + 2 * rank, 2) for i in (0, 1))
    y = x.reshape(*x.shape[:first], *split, x.shape[-1])
    y = y.transpose(*range(first), *outers, first + 2 * rank, *inners)
    return y.reshape(*x.shape[:first], *outer, x.shape[-1] * math.prod(factors))


@checks_keywords("channel_shuffle")
def channel_shuffle(x: ArrayLike, groups: int) -> Array:
    """Deals the channels of each group out to all groups, so that grouped convolutions mix.

        y[..., k*G + g] = x[..., g*(C/G) + k]

    Args:
        x: ``[..., C]``, of any dtype.
        groups: ``G``, which divides the number of channels.

    Returns:
        ``[..., C]``, of the dtype of ``x``.

    Raises:
        ValueError: ``x`` has no axes, or ``groups`` is not a positive int that divides C.
        TypeError: ``x`` is not an array.

    >>> import jax.numpy as jnp
    >>> channel_shuffle(jnp.arange(6), 2)
    Array([0, 3, 1, 4, 2, 5], dtype=int32)

    Source: X. Zhang et al., "ShuffleNet" (2018), section 3.1;
    ``torch.nn.functional.channel_shuffle``.
    """
    x = checks.array("channel_shuffle", "x", x)
    call = Call("channel_shuffle", x=x.shape)
    count = checks.integer(call, "groups", groups)
    if not x.shape:
        raise call.error("x must have a channel axis, but it is a scalar")
    if checks.known(x.shape[-1]) and x.shape[-1] % count:
        raise call.error(
            f"the number of channels must be a multiple of groups, but C % groups = "
            f"{x.shape[-1]} % {count} = {x.shape[-1] % count}"
        )
    grouped = x.reshape(*x.shape[:-1], count, x.shape[-1] // count)
    return grouped.swapaxes(-1, -2).reshape(x.shape)
