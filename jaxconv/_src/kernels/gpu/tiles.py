"""A tile of features by strips on a GPU: its indices, its loads and its products.

All that depends on Triton is here, except the call itself.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import triton

from ...geometry.spec import ConvSpec
from ..target import interpret
from . import plan
from .plan import TileConfig


def strips(spec: ConvSpec, axes, tile: TileConfig, at):
    """For the rows of tile ``at``: image, output on the outer axes and strip; and which exist."""
    extents = plan.strip_extents(spec, axes, tile)
    index = at * tile.strips + jnp.arange(tile.strips, dtype=jnp.int32)
    # Images are unbounded, even if there is one, so that rows past the last differ from all others.
    return unravel(index, [0, *extents[1:]]), index < math.prod(extents)


def features(ref, tile: TileConfig, at):
    """The features of the columns of tile ``at``, and which exist."""
    feature = at * tile.features + jnp.arange(tile.features, dtype=jnp.int32)
    return feature, feature < ref.shape[-1]


def unravel(index, extents):
    """The indices along axes of these ``extents``; that of an axis of extent 1 is static.

    Triton loads vectors only if it can prove that they are aligned, which static indices help.
    """
    digits = []
    for at, extent in reversed(list(enumerate(extents))):
        if extent == 1:
            digits.append(0)
        elif at == 0:
            digits.append(index)
        elif isinstance(index, int):
            index, digit = divmod(index, extent)
            digits.append(digit)
        else:
            digits.append(lax.rem(index, jnp.int32(extent)))
            index = lax.div(index, jnp.int32(extent))
    return digits[::-1]


def within(position, extent: int):
    return (position >= 0) & (position < extent)


def wide(values):
    """A tile in float32; bfloat16 is widened two at a time, each in one instruction."""
    if values.dtype != jnp.bfloat16 or interpret():
        return values.astype(jnp.float32)
    (result,) = triton.elementwise_inline_asm(
        "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;",
        args=(values,),
        constraints="=r,=r,r",
        pack=2,
        result_shape_dtypes=(jax.ShapeDtypeStruct(values.shape, jnp.float32),),
    )
    return result


def add(total, a, b, exists):
    """``total + a * b`` if the tap exists; a weight of zero would not do, since 0 * inf is NaN."""
    added = total + a * b if interpret() else _fused(a, b, total)
    return added if exists is True else jnp.where(exists, added, total)


def _fused(a, b, total):
    """A fused multiply-add, which XLA's pipeline for Triton does not form by itself."""
    (result,) = triton.elementwise_inline_asm(
        "fma.rn.f32 $0, $1, $2, $3;",
        args=(a, b, total),
        constraints="=f,f,f,f",
        pack=1,
        result_shape_dtypes=(jax.ShapeDtypeStruct(total.shape, total.dtype),),
    )
    return result


def view(ref, tile: TileConfig, pixels, features):
    """The elements of ``ref`` at these pixels and features."""
    shape = (tile.strips, tile.features)
    pixels = jnp.broadcast_to(pixels[:, None] if jnp.ndim(pixels) else pixels, shape)
    return ref.at[pixels, jnp.broadcast_to(features, shape)]


def load(ref, tile: TileConfig, pixels, features, mask):
    """A tile, with zeros where ``mask`` is False."""
    mask = jnp.broadcast_to(mask, (tile.strips, tile.features))
    return triton.load(view(ref, tile, pixels, features), mask=mask, other=0.0)
