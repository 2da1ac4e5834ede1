"""The three operators of depthwise convolutions by Mosaic-TPU kernels.

A grid step takes one block of the result and the window of the source under it, halo included,
straight from HBM: windows overlap, so that no padded copy is ever made. ``tpu_tiling`` has the
geometry, ``tpu_layout`` says which axes lie where, ``tpu_blocks`` chooses the blocks,
``tpu_staging``, ``tpu_weights`` and ``tpu_kernels`` compute one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...geometry.spec import ConvSpec, Operator
from . import blocks as tile_blocks
from .blocks import blocks as blocks
from .blocks import candidates as candidates
from .layout import canonical, kernel_shape, natural, plan, result_shape, source_shape
from .tiling import GENERATIONS, Blocks

# What is assumed of a TPU that is not known: the least VMEM.
SMALLEST = "v4"


class Target(NamedTuple):
    """What kernels are made for: a generation's name, and pallas_call's ``interpret``."""

    generation: str
    interpret: Any = False


# A user context is part of jit's cache key: entering it makes jitted functions trace again.
_target = jax.make_user_context(None)


@contextlib.contextmanager
def target(generation: str = SMALLEST, interpret: Any = False) -> Iterator[None]:
    """Makes the kernels lowered in the block for a generation, or interpreted on any machine."""
    with _target(Target(generation, interpret)):
        yield


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None, blocks: Blocks | None = None):
    return _call(Operator.CONV, x, kernel, spec, dtype, blocks)


def input_grad(
    g, kernel, spec: ConvSpec, *, precision=None, dtype=None, blocks: Blocks | None = None
):
    return _call(Operator.INPUT_GRAD, g, kernel, spec, dtype, blocks)


def filter_grad(x, g, spec: ConvSpec, *, precision=None, dtype=None, blocks: Blocks | None = None):
    return _call(Operator.FILTER_GRAD, x, g, spec, dtype, blocks)


def unsupported_reason(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    """Why these kernels cannot compute ``operator`` of ``spec`` in ``dtype``, or None."""
    return tile_blocks.unsupported_reason(operator, spec, dtype, generation())


def generation() -> str:
    """The generation of the target, else of the device that a mesh in use describes, else of this
    process's TPU, else the one with least VMEM."""
    if _target.value is not None:
        return _target.value.generation
    described = jax.sharding.get_abstract_mesh().abstract_device
    if described is not None and described.platform == "tpu":
        return generation_of(described.device_kind)
    if jax.default_backend() != "tpu":
        return SMALLEST
    return generation_of(jax.local_devices()[0].device_kind)


def generation_of(kind: str) -> str:
    """The generation of a device kind.

    >>> generation_of("TPU v5 lite"), generation_of("TPU v6e"), generation_of("TPU7x")
    ('v5e', 'v6e', 'v7x')
    """
    words = kind.lower().removeprefix("tpu").strip()
    name = {"v5 lite": "v5e", "v5": "v5p", "v6 lite": "v6e", "7x": "v7x"}.get(words, words)
    return name if name in GENERATIONS else SMALLEST


def _call(operator: Operator, a, b, spec: ConvSpec, dtype, cut: Blocks | None):
    # Loading Pallas takes a fifth of the time that jax itself takes.
    from . import call

    common = jnp.promote_types(a.dtype, b.dtype)
    dtype = jnp.dtype(common if dtype is None else dtype)
    computed = jnp.promote_types(common, dtype)
    reason = unsupported_reason(operator, spec, computed)
    if reason is not None:
        raise ValueError(reason)
    chosen = _target.value or Target(generation())
    cut = cut or blocks(operator, spec, computed, chosen.generation)
    p = plan(operator, spec)
    a = canonical(a, p, source_shape(operator, p, a.dtype.itemsize))
    if operator is Operator.FILTER_GRAD:
        b = canonical(b, p, result_shape(operator, p, b.dtype.itemsize))
    else:
        b = b.reshape(kernel_shape(p, p.whole, b.dtype.itemsize))
    out = call.run(operator, p, cut, a, b, dtype, chosen.generation, chosen.interpret)
    if operator is Operator.FILTER_GRAD:
        return out.reshape(spec.kernel_shape)
    return natural(out, p, spec.result_shape(operator))
