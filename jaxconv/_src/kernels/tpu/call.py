"""One Mosaic-TPU kernel as a ``pallas_call``: its grid, blocks and scratch memory."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ...geometry.spec import Operator
from . import bodies, tile_config
from .generations import GENERATIONS, MIB
from .job import Job, job_of
from .layout import Plan, ends, kernel_shape, result_shape, single
from .tiling import TileConfig

# VMEM for the compiler, in addition to what the kernel declares.
COMPILER_VMEM_BYTES = 4 * MIB


def run(
    operator: Operator, p: Plan, tile: TileConfig, a, b, dtype, generation: str, interpret
) -> jax.Array:
    """``operator`` of operands in the shapes of ``layout.py``."""
    job = job_of(operator, p, tile, GENERATIONS[generation])
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
        grid=tile_config.grid_of(p, tile),
        in_specs=[source, result if filters else kernel],
        out_specs=kernel if filters else result,
        out_shape=jax.ShapeDtypeStruct(shape, dtype),
        scratch_shapes=[
            pltpu.VMEM(shape, jnp.float32)
            for shape in tile_config.scratch_shapes(operator, p, tile)
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=_semantics(job),
            vmem_limit_bytes=tile_config.vmem_bytes(operator, p, tile, max(sizes))
            + COMPILER_VMEM_BYTES,
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * macs,
            transcendentals=0,
            bytes_accessed=tile_config.moved_bytes(operator, p, tile, max(sizes)),
        ),
        interpret=interpret,
        name=f"depthwise_{operator.value}",
    )(a, b)


def _semantics(job: Job) -> tuple[pltpu.GridDimensionSemantics, ...]:
    """The first axes are parallel unless later steps use what earlier ones leave in scratch memory:
    zeros, unpacked kernels, or sums."""
    parallel = 0 if job.one_core else 1 if job.operator is Operator.FILTER_GRAD else 4
    return (pltpu.PARALLEL,) * parallel + (pltpu.ARBITRARY,) * (6 - parallel)


def _block_specs(job: Job, source_size: int, result_size: int, kernel_size: int):
    """Those of the source, the result (the cotangent, in a filter gradient) and the kernel, whose
    elements have these sizes in bytes."""
    p, extents = job.plan, job.tile.extents
    grid = tile_config.grid_of(p, job.tile)
    lanes, whole = (ends(job.operator, p, pair) for pair in (p.block, p.whole))
    source_extents = [*[w.extent for w in job.leading], job.side.source]
    one, ones = (
        single(p, pixels, size)
        for pixels, size in ((p.lines[3].source, source_size), (p.lines[3].result, result_size))
    )

    def source_at(c, i, j, k, s, n):
        starts = [w.start(t, jnp.clip) for w, t in zip(job.leading, (i, j, k), strict=True)]
        # A static 0 if there is one tile: the compiler must see that it is aligned to 8x128.
        column = s * extents[3] if grid[4] > 1 else 0
        return n, *starts, column, *(0,) * len(one), c * lanes[0] if grid[0] > 1 else 0

    features = kernel_shape(p, p.block, kernel_size)
    return [
        pl.BlockSpec(
            (
                None,
                *map(pl.Element, (*source_extents, *one)),
                pl.Element(lanes[0], (0, -whole[0] % lanes[0])),
            ),
            source_at,
        ),
        pl.BlockSpec(
            (None, *extents, *ones, lanes[1]),
            lambda c, i, j, k, s, n: (n, i, j, k, s, *(0,) * len(ones), c),
        ),
        pl.BlockSpec(features, lambda c, i, j, k, s, n: (*(0,) * (len(features) - 1), c)),
    ]
