"""The three operators of depthwise convolutions as Mosaic-TPU kernels.

A grid step takes one block of the result and the window of the source under it, halo included,
straight from HBM: windows overlap, so that no padded copy is ever made. The window is staged in
float32 amid zeros, where every tap is a load at another offset (a register of 8 pixels by 128
channels may start at any pixel) and costs one multiplication and one addition. Images follow each
other innermost, so the zeros are written once for all of them.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..spec import ConvSpec, Operator
from . import tpu_blocks, tpu_kernels
from .tpu_blocks import blocks as blocks
from .tpu_blocks import candidates as candidates
from .tpu_blocks import grid_of, lanes_of, windows_of
from .tpu_kernels import Job
from .tpu_tiling import GENERATIONS, MIB, Blocks, Plan, plan


class Target(NamedTuple):
    """What kernels are made for: a generation's name, and pallas_call's ``interpret``."""

    generation: str
    interpret: Any = False


# A user context is part of jit's cache key: entering it makes jitted functions trace again.
_target = jax.make_user_context(None)


@contextlib.contextmanager
def target(generation: str = "v4", interpret: Any = False) -> Iterator[None]:
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


def refusal(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    """Why these kernels cannot compute ``operator`` of ``spec`` in ``dtype``, or None."""
    return tpu_blocks.refusal(operator, spec, dtype, generation())


def generation() -> str:
    """The generation of the target, else of this process's TPU, else the one with least VMEM."""
    if _target.value is not None:
        return _target.value.generation
    if jax.default_backend() != "tpu":
        return "v4"
    return generation_of(jax.local_devices()[0].device_kind)


def generation_of(kind: str) -> str:
    """The generation of a device kind, as ``"v5e"`` of ``"TPU v5 lite"``."""
    words = kind.lower().removeprefix("tpu").strip()
    name = {"v5 lite": "v5e", "v5": "v5p", "v6 lite": "v6e", "7x": "v7x"}.get(words, words)
    return name if name in GENERATIONS else "v4"


def _call(operator: Operator, a, b, spec: ConvSpec, dtype, cut: Blocks | None):
    common = jnp.promote_types(a.dtype, b.dtype)
    dtype = jnp.dtype(common if dtype is None else dtype)
    computed = jnp.promote_types(common, dtype)
    reason = refusal(operator, spec, computed)
    if reason is not None:
        raise ValueError(reason)
    chosen = _target.value or Target(generation())
    cut = cut or blocks(operator, spec, computed, chosen.generation)
    p = plan(operator, spec)
    leading, side = windows_of(p, cut)
    job = Job(operator, p, cut, tuple(leading), side, *lanes_of(p))
    filters = operator is Operator.FILTER_GRAD
    body = tpu_kernels.filters if filters else tpu_kernels.correlate
    a = _canonical(a, p)
    b = _canonical(b, p) if filters else b.reshape(spec.taps, spec.out_features)
    source, result, kernel = _block_specs(job)
    shape = (spec.taps, spec.out_features)
    if not filters:
        ends = spec.in_features if operator is Operator.INPUT_GRAD else spec.out_features
        shape = (p.images, *[line.result for line in p.lines], ends)
    sizes = p, cut, computed.itemsize
    axes = (1, 5) if filters else (4, 2)
    out = pl.pallas_call(
        functools.partial(body, job),
        grid=grid_of(p, cut),
        in_specs=[source, result if filters else kernel],
        out_specs=kernel if filters else result,
        out_shape=jax.ShapeDtypeStruct(shape, dtype),
        scratch_shapes=[
            pltpu.VMEM(shape, jnp.float32) for shape in tpu_blocks.scratch_shapes(operator, p, cut)
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",) * axes[0] + ("arbitrary",) * axes[1],
            vmem_limit_bytes=tpu_blocks.vmem_bytes(operator, *sizes) + 4 * MIB,
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * spec.macs,
            transcendentals=0,
            bytes_accessed=tpu_blocks.moved_bytes(operator, *sizes),
        ),
        interpret=chosen.interpret,
        name=f"depthwise_{operator.value}",
    )(a, b)
    return out.reshape(spec.kernel_shape) if filters else _natural(out, p, spec)


def _canonical(x, p: Plan):
    """``[N, *S, C] -> [images, *leading, sublanes, C]``"""
    if p.batch_on_sublanes:
        x = jnp.moveaxis(x, 0, -2)[None]
    return x.reshape(x.shape[0], *(1,) * (6 - x.ndim), *x.shape[1:])


def _natural(y, p: Plan, spec: ConvSpec):
    if p.batch_on_sublanes:
        y = y.reshape(*y.shape[4 - spec.rank : 4], *y.shape[4:])
        return jnp.moveaxis(y, -2, 0)
    return y.reshape(y.shape[0], *y.shape[5 - spec.rank :])


def _block_specs(job: Job) -> list[pl.BlockSpec]:
    """Of the source, the result (or, in a filter gradient, the cotangent) and the kernel."""
    ends = job.channels, job.features
    if job.operator is Operator.INPUT_GRAD:
        ends = ends[::-1]
    whole = job.plan.channels * ends[0] // job.channels
    lanes = pl.Element(ends[0], (0, -whole % ends[0]))
    extents = [*[w.extent for w in job.leading], job.side.source]
    grid = grid_of(job.plan, job.blocks)

    def source_at(c, i, j, k, s, n):
        starts = [w.start(t, jnp.clip) for w, t in zip(job.leading, (i, j, k), strict=True)]
        # Zeros where there is one block: the compiler must see that tiles are not cut.
        columns = s * job.blocks.tile[3] if grid[4] > 1 else 0
        return n, *starts, columns, c * ends[0] if grid[0] > 1 else 0

    return [
        pl.BlockSpec((None, *map(pl.Element, extents), lanes), source_at),
        pl.BlockSpec(
            (None, *job.blocks.tile, ends[1]), lambda c, i, j, k, s, n: (n, i, j, k, s, c)
        ),
        pl.BlockSpec((_taps(job), job.features), lambda c, i, j, k, s, n: (0, c)),
    ]


def _taps(job: Job) -> int:
    return math.prod(line.kernel for line in job.plan.lines)
