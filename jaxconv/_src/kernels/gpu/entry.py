"""Depthwise convolutions on NVIDIA GPUs: one Pallas kernel for outputs, one for filter gradients.

Both are generic over the rank. Nothing is padded: loads beside the image are masked. Products are
summed in float32; a filter gradient is a few partial sums, added in a fixed order, without atomics.
``gpu_plan`` says what is computed where; the kernels themselves are in ``gpu_kernels``.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from ...geometry.spec import ConvSpec, Operator
from ..dtypes import results_dtypes
from . import bodies, plan
from .plan import Blocks
from .plan import blocks as blocks
from .plan import candidates as candidates
from .tiles import generation, interpreting
from .tiles import target as target

DTYPES = ("float32", "bfloat16", "float16")


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None, blocks: Blocks | None = None):
    return _outputs(Operator.CONV, x, kernel, spec, dtype, blocks)


def input_grad(
    g, kernel, spec: ConvSpec, *, precision=None, dtype=None, blocks: Blocks | None = None
):
    return _outputs(Operator.INPUT_GRAD, g, kernel, spec, dtype, blocks)


def filter_grad(x, g, spec: ConvSpec, *, precision=None, dtype=None, blocks: Blocks | None = None):
    dtype, _ = results_dtypes(x, g, dtype)
    cut = blocks or plan.blocks(Operator.FILTER_GRAD, spec, dtype, generation())
    grid = plan.grid(Operator.FILTER_GRAD, spec, cut)
    shape = (cut.chunks * spec.taps, spec.out_features)
    body = functools.partial(bodies.filter_sums, spec, cut)
    sums = _call("filter_grad", body, grid, cut, shape, jnp.float32)(_pixels(x), _pixels(g))
    return sums.reshape(cut.chunks, *spec.kernel_shape).sum(0).astype(dtype)


def unsupported_reason(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    """Why these kernels cannot compute ``operator`` of ``spec`` in ``dtype``, or None."""
    name = jnp.dtype(dtype).name
    if not spec.depthwise:
        return f"it serves depthwise convolutions only, but a group has {spec.group_in} in-features"
    if name not in DTYPES:
        return f"it computes {', '.join(DTYPES)}, not {name}"
    return plan.unsupported_reason(operator, spec)


def _outputs(operator: Operator, a, kernel, spec: ConvSpec, dtype, cut: Blocks | None):
    """The convolution or the input gradient: both weigh and sum the neighbours of each output."""
    dtype, _ = results_dtypes(a, kernel, dtype)
    cut = cut or blocks(operator, spec, dtype, generation())
    *pixels, features = spec.result_shape(operator)
    grid = plan.grid(operator, spec, cut)
    body = functools.partial(bodies.outputs, operator, spec, cut)
    call = _call(operator.value, body, grid, cut, (math.prod(pixels), features), dtype)
    result = call(_pixels(a), kernel.reshape(spec.taps, spec.out_features))
    return result.reshape(spec.result_shape(operator))


def _pixels(array):
    return array.reshape(-1, array.shape[-1])


def _call(name: str, body, grid, cut: Blocks, shape, dtype):
    return pl.pallas_call(
        body,
        grid=grid,
        out_shape=jax.ShapeDtypeStruct(shape, dtype),
        compiler_params=triton.CompilerParams(num_warps=cut.warps, num_stages=1),
        interpret=interpreting(),
        name=f"jaxconv_depthwise_{name}",
    )
