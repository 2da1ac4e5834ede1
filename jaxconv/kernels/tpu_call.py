"""One Mosaic-TPU kernel as a call: its grid, its blocks in HBM and its scratch in VMEM."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..spec import Operator
from . import tpu_blocks, tpu_kernels
from .tpu_job import Job, job_of
from .tpu_tiling import GENERATIONS, MIB, Blocks, Plan

# VMEM for the compiler's own use, beside what the kernel asks for.
SPARE = 4 * MIB


def run(
    operator: Operator, p: Plan, cut: Blocks, a, b, dtype, generation: str, interpret
) -> jax.Array:
    """``operator`` of canonical operands ``[images, *leading, sublanes, channels or features]``
    and ``[taps, features]``."""
    alone = GENERATIONS[generation].cores == 1
    job = job_of(operator, p, cut, alone)
    source, result, kernel = _block_specs(job)
    leads, ends = tuple(line.result for line in p.lines), p.channels * p.multiplier
    filters = operator is Operator.FILTER_GRAD
    if filters:
        shape = (tpu_blocks.taps_of(p), ends)
    else:
        shape = (p.images, *leads, p.channels if operator is Operator.INPUT_GRAD else ends)
    itemsize = max(array.dtype.itemsize for array in (a, b, jnp.zeros((), dtype)))
    return pl.pallas_call(
        functools.partial(tpu_kernels.filters if filters else tpu_kernels.correlate, job),
        grid=tpu_blocks.grid_of(p, cut),
        in_specs=[source, result if filters else kernel],
        out_specs=kernel if filters else result,
        out_shape=jax.ShapeDtypeStruct(shape, dtype),
        scratch_shapes=[
            pltpu.VMEM(shape, jnp.float32) for shape in tpu_blocks.scratch_shapes(operator, p, cut)
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=_semantics(job),
            vmem_limit_bytes=tpu_blocks.vmem_bytes(operator, p, cut, itemsize) + SPARE,
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * p.images * math.prod(leads) * ends * tpu_blocks.taps_of(p),
            transcendentals=0,
            bytes_accessed=tpu_blocks.moved_bytes(operator, p, cut, itemsize),
        ),
        interpret=interpret,
        name=f"depthwise_{operator.value}",
    )(a, b)


def _semantics(job: Job) -> tuple[pltpu.GridDimensionSemantics, ...]:
    """The first axes are parallel unless later steps use what earlier ones left: zeros, or sums."""
    filters = job.operator is Operator.FILTER_GRAD
    parallel = 0 if job.zeros_once else 1 if filters else 4
    return (pltpu.PARALLEL,) * parallel + (pltpu.ARBITRARY,) * (6 - parallel)


def _block_specs(job: Job) -> list[pl.BlockSpec]:
    """Of the source, the result (or, in a filter gradient, the cotangent) and the kernel."""
    p, tile = job.plan, job.blocks.tile
    grid = tpu_blocks.grid_of(p, job.blocks)
    ends, whole = (job.channels, job.features), (p.channels, p.channels * p.multiplier)
    if job.operator is Operator.INPUT_GRAD:
        ends, whole = ends[::-1], whole[::-1]
    extents = [*[w.extent for w in job.leading], job.side.source]
    lanes = pl.Element(ends[0], (0, -whole[0] % ends[0]))

    def source_at(c, i, j, k, s, n):
        starts = [w.start(t, jnp.clip) for w, t in zip(job.leading, (i, j, k), strict=True)]
        # Zero where there is one block: the compiler must see that no 8x128 tile is cut.
        column = s * tile[3] if grid[4] > 1 else 0
        return n, *starts, column, c * ends[0] if grid[0] > 1 else 0

    return [
        pl.BlockSpec((None, *map(pl.Element, extents), lanes), source_at),
        pl.BlockSpec((None, *tile, ends[1]), lambda c, i, j, k, s, n: (n, i, j, k, s, c)),
        pl.BlockSpec((tpu_blocks.taps_of(p), job.features), lambda c, i, j, k, s, n: (0, c)),
    ]
