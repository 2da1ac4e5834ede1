"""A tile of features by strips on a GPU: which elements it is, how it is loaded and multiplied.

What is particular to lowering through Triton is here, but for the call itself.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import triton

from ...geometry.spec import ConvSpec
from . import plan
from .plan import Blocks


class Target(NamedTuple):
    """What kernels are made for: a device's kind, and pallas_call's ``interpret``."""

    generation: str
    interpret: bool = False


# A user context is part of jit's cache key: entering it makes jitted functions trace again.
_target = jax.make_user_context(None)


@contextlib.contextmanager
def target(generation: str = "", interpret: bool = False) -> Iterator[None]:
    """Makes the kernels lowered in the block for a device's kind, or interpreted on any machine."""
    with _target(Target(generation, interpret)):
        yield


def generation() -> str:
    """The kind of the target, else of this process's GPU, as jax names it."""
    if _target.value is not None:
        return _target.value.generation
    return jax.local_devices()[0].device_kind if jax.default_backend() == "gpu" else ""


def interpreting() -> bool:
    return _target.value is not None and _target.value.interpret


def strips(spec: ConvSpec, walks, cut: Blocks, block):
    """Of a tile's rows: the image, the place in a phase, the strip; and which rows there are."""
    extents = plan.strip_extents(spec, walks, cut)
    index = block * cut.strips + jnp.arange(cut.strips, dtype=jnp.int32)
    # Rows past the last one must not be taken for others, so images are not bounded, even if one.
    return unravel(index, [0, *extents[1:]]), index < math.prod(extents)


def features(ref, cut: Blocks, block):
    """The features of a tile's columns, and which of them there are."""
    feature = block * cut.features + jnp.arange(cut.features, dtype=jnp.int32)
    return feature, feature < ref.shape[-1]


def unravel(index, extents):
    """The digits of ``index`` to the base of ``extents``; where one is 1, its digit is known.

    What is known matters: Triton loads vectors only where it sees that they are aligned.
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


def wide(tile):
    """In float32; of bfloat16 two at once, each in one instruction."""
    if tile.dtype != jnp.bfloat16 or interpreting():
        return tile.astype(jnp.float32)
    (result,) = triton.elementwise_inline_asm(
        "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;",
        args=(tile,),
        constraints="=r,=r,r",
        pack=2,
        result_shape_dtypes=(jax.ShapeDtypeStruct(tile.shape, jnp.float32),),
    )
    return result


def add(total, a, b, fits):
    """``total + a * b`` where the tap fits; zeros would not do there: the other may be infinite."""
    added = total + a * b if interpreting() else _fused(a, b, total)
    return added if fits is True else jnp.where(fits, added, total)


def _fused(a, b, total):
    """One instruction, where XLA's pipeline for Triton leaves a multiplication and an addition."""
    (result,) = triton.elementwise_inline_asm(
        "fma.rn.f32 $0, $1, $2, $3;",
        args=(a, b, total),
        constraints="=f,f,f,f",
        pack=1,
        result_shape_dtypes=(jax.ShapeDtypeStruct(total.shape, total.dtype),),
    )
    return result


def tile(ref, cut: Blocks, pixels, features):
    shape = (cut.strips, cut.features)
    pixels = jnp.broadcast_to(pixels[:, None] if jnp.ndim(pixels) else pixels, shape)
    return ref.at[pixels, jnp.broadcast_to(features, shape)]


def load(ref, cut: Blocks, pixels, features, mask):
    """A tile, with zeros where ``mask`` does not hold."""
    mask = jnp.broadcast_to(mask, (cut.strips, cut.features))
    return triton.load(tile(ref, cut, pixels, features), mask=mask, other=0.0)
