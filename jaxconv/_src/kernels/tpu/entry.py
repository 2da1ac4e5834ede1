"""The three operators of depthwise convolutions by Mosaic-TPU kernels.

A grid step computes one tile of the result from the window of the source under it, halo included,
which is copied straight from HBM. Windows overlap, so no padded copy is ever made.
"""

from __future__ import annotations

import jax.numpy as jnp

from ...geometry.spec import ConvSpec, Operator
from .. import target
from . import tile_config as tiles
from .generations import generation_of
from .layout import canonical, kernel_shape, natural, plan, result_shape, source_shape
from .tile_config import candidates as candidates
from .tile_config import tile_config as tile_config
from .tiling import TileConfig


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None, tile: TileConfig | None = None):
    return _call(Operator.CONV, x, kernel, spec, dtype, tile)


def input_grad(
    g, kernel, spec: ConvSpec, *, precision=None, dtype=None, tile: TileConfig | None = None
):
    return _call(Operator.INPUT_GRAD, g, kernel, spec, dtype, tile)


def filter_grad(
    x, g, spec: ConvSpec, *, precision=None, dtype=None, tile: TileConfig | None = None
):
    return _call(Operator.FILTER_GRAD, x, g, spec, dtype, tile)


def unsupported_reason(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    """Why these kernels cannot compute ``operator`` of ``spec`` in ``dtype``, or None."""
    return tiles.unsupported_reason(operator, spec, dtype, target.device_kind("tpu"))


def _call(operator: Operator, a, b, spec: ConvSpec, dtype, tile: TileConfig | None):
    # Imported here because loading Pallas takes a fifth of the time of importing jax.
    from . import call

    common = jnp.promote_types(a.dtype, b.dtype)
    dtype = jnp.dtype(common if dtype is None else dtype)
    computed = jnp.promote_types(common, dtype)
    reason = unsupported_reason(operator, spec, computed)
    if reason is not None:
        raise ValueError(reason)
    generation = generation_of(target.device_kind("tpu"))
    tile = tile or tile_config(operator, spec, computed, generation)
    p = plan(operator, spec)
    a = canonical(a, p, source_shape(operator, p, a.dtype.itemsize))
    if operator is Operator.FILTER_GRAD:
        b = canonical(b, p, result_shape(operator, p, b.dtype.itemsize))
    else:
        b = b.reshape(kernel_shape(p, p.whole, b.dtype.itemsize))
    out = call.run(operator, p, tile, a, b, dtype, generation, target.interpret())
    if operator is Operator.FILTER_GRAD:
        return out.reshape(spec.kernel_shape)
    return natural(out, p, spec.result_shape(operator))
