"""One Mosaic-TPU kernel as a call: its grid, its blocks in HBM and its scratch in VMEM."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ...geometry.spec import Operator
from . import blocks, bodies
from .job import Job, job_of
from .layout import Plan, ends, kernel_shape, result_shape, single
from .tiling import GENERATIONS, MIB, Blocks

# VMEM for the compiler's own use, beside what the kernel asks for.
SPARE = 4 * MIB


def run(
    operator: Operator, p: Plan, cut: Blocks, a, b, dtype, generation: str, interpret
) -> jax.Array:
    """``operator`` of operands as ``tpu_layout`` shapes them."""
    job = job_of(operator, p, cut, GENERATIONS[generation])
    filters = operator is Operator.FILTER_GRAD
    sizes = [array.dtype.itemsize for array in (a, b, jnp.zeros((), dtype))]
    if filters:
        shape = kernel_shape(p, p.whole, sizes[2])
        source, result, kernel = _block_specs(job, *sizes)
    else:
        shape = result_shape(operator, p, sizes[2])
        source, result, kernel = _block_specs(job, sizes[0], sizes[2], sizes[1])
    macs = p.images * math.prod(line.result for line in p.lines) * p.whole[1] * p.taps
    return pl.pallas_call(
        functools.partial(bodies.filters if filters else bodies.correlate, job),
        grid=blocks.grid_of(p, cut),
        in_specs=[source, result if filters else kernel],
        out_specs=kernel if filters else result,
        out_shape=jax.ShapeDtypeStruct(shape, dtype),
        scratch_shapes=[
            pltpu.VMEM(shape, jnp.float32) for shape in blocks.scratch_shapes(operator, p, cut)
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=_semantics(job),
            vmem_limit_bytes=blocks.vmem_bytes(operator, p, cut, max(sizes)) + SPARE,
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * macs,
            transcendentals=0,
            bytes_accessed=blocks.moved_bytes(operator, p, cut, max(sizes)),
        ),
        interpret=interpret,
        name=f"depthwise_{operator.value}",
    )(a, b)


def _semantics(job: Job) -> tuple[pltpu.GridDimensionSemantics, ...]:
    """The first axes are parallel unless later steps use what earlier ones left: zeros, unpacked
    kernels, or sums."""
    parallel = 0 if job.alone else 1 if job.operator is Operator.FILTER_GRAD else 4
    return (pltpu.PARALLEL,) * parallel + (pltpu.ARBITRARY,) * (6 - parallel)


def _block_specs(job: Job, source_size: int, result_size: int, kernel_size: int):
    """Of the source, the result (or, in a filter gradient, the cotangent) and the kernel, whose
    elements have these many bytes."""
    p, tile = job.plan, job.blocks.tile
    grid = blocks.grid_of(p, job.blocks)
    lanes, whole = (ends(job.operator, p, pair) for pair in (p.block, p.whole))
    extents = [*[w.extent for w in job.leading], job.side.source]
    one, ones = (
        single(p, pixels, size)
        for pixels, size in ((p.lines[3].source, source_size), (p.lines[3].result, result_size))
    )

    def source_at(c, i, j, k, s, n):
        starts = [w.start(t, jnp.clip) for w, t in zip(job.leading, (i, j, k), strict=True)]
        # Zero where there is one block: the compiler must see that no 8x128 tile is cut.
        column = s * tile[3] if grid[4] > 1 else 0
        return n, *starts, column, *(0,) * len(one), c * lanes[0] if grid[0] > 1 else 0

    features = kernel_shape(p, p.block, kernel_size)
    return [
        pl.BlockSpec(
            (
                None,
                *map(pl.Element, (*extents, *one)),
                pl.Element(lanes[0], (0, -whole[0] % lanes[0])),
            ),
            source_at,
        ),
        pl.BlockSpec(
            (None, *tile, *ones, lanes[1]),
            lambda c, i, j, k, s, n: (n, i, j, k, s, *(0,) * len(ones), c),
        ),
        pl.BlockSpec(features, lambda c, i, j, k, s, n: (*(0,) * (len(features) - 1), c)),
    ]
