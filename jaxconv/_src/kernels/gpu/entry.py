"""Depthwise convolutions on NVIDIA GPUs: one Pallas kernel for outputs, one for filter gradients.

Both work in any rank. Nothing is padded: loads outside the image are masked. Products are summed in
float32; a filter gradient is a few partial sums, added in a fixed order, without atomics.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from ...geometry.spec import ConvSpec, Operator
from .. import target
from ..dtypes import results_dtypes
from . import bodies, plan
from .plan import TileConfig
from .plan import candidates as candidates
from .plan import tile_config as tile_config

DTYPES = ("float32", "bfloat16", "float16")


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None, tile: TileConfig | None = None):
    return _outputs(Operator.CONV, x, kernel, spec, dtype, tile)


def input_grad(
    g, kernel, spec: ConvSpec, *, precision=None, dtype=None, tile: TileConfig | None = None
):
    return _outputs(Operator.INPUT_GRAD, g, kernel, spec, dtype, tile)


def filter_grad(
    x, g, spec: ConvSpec, *, precision=None, dtype=None, tile: TileConfig | None = None
):
    dtype, _ = results_dtypes(x, g, dtype)
    tile = tile or tile_config(Operator.FILTER_GRAD, spec, dtype, target.device_kind("cuda"))
    grid = plan.grid(Operator.FILTER_GRAD, spec, tile)
    shape = (tile.chunks * spec.taps, spec.out_features)
    body = functools.partial(bodies.filter_sums, spec, tile)
    sums = _call("filter_grad", body, grid, tile, shape, jnp.float32)(_pixels(x), _pixels(g))
    return sums.reshape(tile.chunks, *spec.kernel_shape).sum(0).astype(dtype)


def unsupported_reason(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    """Why these kernels cannot compute ``operator`` of ``spec`` in ``dtype``, or None."""
    name = jnp.dtype(dtype).name
    if not spec.depthwise:
        return (
            "the GPU kernels support only depthwise convolutions, but each group has "
            f"{spec.group_in} input channels"
        )
    if name not in DTYPES:
        return f"the GPU kernels support {', '.join(DTYPES)}, not {name}"
    return plan.unsupported_reason(operator, spec)


def _outputs(operator: Operator, a, kernel, spec: ConvSpec, dtype, tile: TileConfig | None):
    """The convolution or the input gradient, whose outputs are weighted sums of neighbors."""
    dtype, _ = results_dtypes(a, kernel, dtype)
    tile = tile or tile_config(operator, spec, dtype, target.device_kind("cuda"))
    *pixels, features = spec.result_shape(operator)
    grid = plan.grid(operator, spec, tile)
    body = functools.partial(bodies.outputs, operator, spec, tile)
    call = _call(operator.value, body, grid, tile, (math.prod(pixels), features), dtype)
    result = call(_pixels(a), kernel.reshape(spec.taps, spec.out_features))
    return result.reshape(spec.result_shape(operator))


def _pixels(array):
    return array.reshape(-1, array.shape[-1])


def _call(name: str, body, grid, tile: TileConfig, shape, dtype):
    return pl.pallas_call(
        body,
        grid=grid,
        out_shape=jax.ShapeDtypeStruct(shape, dtype),
        compiler_params=triton.CompilerParams(num_warps=tile.warps, num_stages=1),
        interpret=target.interpret(),
        name=f"jaxconv_depthwise_{name}",
    )
