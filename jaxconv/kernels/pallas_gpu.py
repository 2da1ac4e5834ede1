"""Depthwise convolutions on NVIDIA GPUs: one Pallas kernel for outputs, one for filter gradients.

Both are generic over the rank. Nothing is padded: loads beside the image are masked. Products are
summed in float32; a filter gradient is a few partial sums, added in a fixed order, without atomics.
``gpu_plan`` says what is computed where. The kernels are lowered through Triton, and what is
particular to it is in ``_call`` and ``_load``.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from ..spec import ConvSpec, Operator
from . import gpu_plan
from .dtypes import results_dtypes
from .gpu_plan import Blocks
from .gpu_plan import blocks as blocks
from .gpu_plan import candidates as candidates

DTYPES = ("float32", "bfloat16", "float16")

# A loop over taps is unrolled, so that its loads overlap, up to this many products of tiles: 7x7 in
# strips of 4 has 196, and took XLA 6 s unrolled, 1 s as a loop.
UNROLLED = 80


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


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None, blocks: Blocks | None = None):
    return _outputs(Operator.CONV, x, kernel, spec, dtype, blocks)


def input_grad(
    g, kernel, spec: ConvSpec, *, precision=None, dtype=None, blocks: Blocks | None = None
):
    return _outputs(Operator.INPUT_GRAD, g, kernel, spec, dtype, blocks)


def filter_grad(x, g, spec: ConvSpec, *, precision=None, dtype=None, blocks: Blocks | None = None):
    dtype, _ = results_dtypes(x, g, dtype)
    cut = blocks or gpu_plan.blocks(Operator.FILTER_GRAD, spec, dtype, generation())
    last = gpu_plan.walks(Operator.FILTER_GRAD, spec)[-1]
    tap_blocks = spec.taps // last.taps // cut.rows * pl.cdiv(last.taps, cut.taps)
    grid = (cut.chunks, pl.cdiv(spec.out_features, cut.features), tap_blocks)
    shape = (cut.chunks * spec.taps, spec.out_features)
    body = functools.partial(_sums_body, spec, cut)
    sums = _call("filter_grad", body, grid, cut, shape, jnp.float32)(_pixels(x), _pixels(g))
    return sums.reshape(cut.chunks, *spec.kernel_shape).sum(0).astype(dtype)


def refusal(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    """Why these kernels cannot compute ``operator`` of ``spec`` in ``dtype``, or None."""
    name = jnp.dtype(dtype).name
    if not spec.depthwise:
        return f"it serves depthwise convolutions only, but a group has {spec.group_in} in-features"
    if name not in DTYPES:
        return f"it computes {', '.join(DTYPES)}, not {name}"
    return gpu_plan.refusal(operator, spec)


def _outputs(operator: Operator, a, kernel, spec: ConvSpec, dtype, cut: Blocks | None):
    """The convolution or the input gradient: both weigh and sum the neighbours of each output."""
    dtype, _ = results_dtypes(a, kernel, dtype)
    cut = cut or blocks(operator, spec, dtype, generation())
    walks = gpu_plan.walks(operator, spec)
    *pixels, features = spec.result_shape(operator)
    grid = (
        pl.cdiv(math.prod(gpu_plan.strip_extents(spec, walks, cut)), cut.strips),
        pl.cdiv(features, cut.features),
        math.prod(walk.phases for walk in walks),
    )
    body = functools.partial(_outputs_body, operator, spec, cut)
    call = _call(operator.value, body, grid, cut, (math.prod(pixels), features), dtype)
    result = call(_pixels(a), kernel.reshape(spec.taps, spec.out_features))
    return result.reshape(spec.result_shape(operator))


def _outputs_body(operator, spec: ConvSpec, cut: Blocks, a_ref, kernel_ref, y_ref):
    *outer, last = walks = gpu_plan.walks(operator, spec)
    filters = spec.group_out if operator is Operator.INPUT_GRAD else 1
    (n, *place, strip), real = _strips(spec, walks, cut, pl.program_id(0))
    phases = _unravel(pl.program_id(2), [walk.phases for walk in walks])
    *starts, (first, base) = map(gpu_plan.phase_of, walks, phases)
    feature, known = _features(y_ref, cut, pl.program_id(1))

    def add(taps: int, begin, m, others, sums):
        """Adds ``taps`` taps of the last axis, from ``begin`` on, for one filter and outer tap."""
        pixel, row, inside, fits = n, 0, real, True
        for walk, (tap, at), j, i in zip(outer, starts, place, others, strict=True):
            position, tap = j * walk.step + (i * walk.dilation + at), tap + i * walk.every
            pixel, row = pixel * walk.reads + position, row * walk.taps + tap
            inside, fits = inside & _within(position, walk.reads), fits & (tap < walk.taps)
        channel = feature * filters + m
        tap_of = [first + (begin + i) * last.every for i in range(taps)]
        fit = [tap < last.taps for tap in tap_of]
        weights = [
            _load(kernel_ref, cut, row * last.taps + tap, channel, known & (fits & fits_too))
            for tap, fits_too in zip(tap_of, fit, strict=True)
        ]
        if operator is Operator.CONV and spec.group_out > 1:
            channel = lax.div(channel, jnp.int32(spec.group_out))
        corner = strip * (cut.columns * last.step) + (begin * last.dilation + base)
        sums = list(sums)
        for offset, pairs in gpu_plan.reads(last, cut.columns, taps).items():
            mask = inside & fits & _within(corner + offset, last.reads)
            pixels = pixel * last.reads + corner + offset
            a = _load(a_ref, cut, pixels, channel, mask[:, None] & known)
            for column, i in pairs:
                sums[column] = _add(sums[column], a, weights[i], fit[i])
        return tuple(sums)

    def add_pieces(count: int, taps: int, begin: int, sums):
        """Adds ``count`` times ``taps`` taps of the last axis, for every filter and outer tap."""
        extents = [filters, *[walk.reached for walk in outer], count]

        def step(at, sums):
            m, *others, piece = _unravel(at, extents)
            return add(taps, begin + piece * taps, m, others, sums)

        return _repeated(math.prod(extents), taps * cut.columns, step, sums)

    pieces, rest = divmod(last.reached, cut.taps)
    sums = (jnp.zeros((cut.strips, cut.features), jnp.float32),) * cut.columns
    sums = add_pieces(pieces, cut.taps, 0, sums)
    sums = add_pieces(1, rest, pieces * cut.taps, sums) if rest else sums
    pixel, inside = n, real
    for walk, j, r in zip(outer, place, phases[:-1], strict=True):
        position = j * walk.phases + r
        pixel, inside = pixel * walk.writes + position, inside & (position < walk.writes)
    for column, y in enumerate(sums):
        position = (strip * cut.columns + column) * last.phases + phases[-1]
        mask = (inside & (position < last.writes))[:, None] & known
        at = _tile(y_ref, cut, pixel * last.writes + position, feature)
        triton.store(at, y.astype(y_ref.dtype), mask=mask)


def _sums_body(spec: ConvSpec, cut: Blocks, x_ref, g_ref, kernel_ref):
    """One program's share of a filter gradient: some taps, some features, some of the pixels."""
    *outer, last = walks = gpu_plan.walks(Operator.FILTER_GRAD, spec)
    feature, known = _features(g_ref, cut, pl.program_id(1))
    channel = lax.div(feature, jnp.int32(spec.group_out)) if spec.group_out > 1 else feature
    chunk = pl.program_id(0)
    rows = spec.taps // last.taps
    row, piece = _unravel(pl.program_id(2), [rows // cut.rows, pl.cdiv(last.taps, cut.taps)])
    row, begin = row * cut.rows, piece * cut.taps

    def step(turn, sums):
        (n, *place, strip), real = _strips(spec, walks, cut, turn)
        pixel = n
        for walk, j in zip(outer, place, strict=True):
            pixel = pixel * walk.writes + j
        fit, g = [], []
        for column in range(cut.columns):
            position = strip * cut.columns + column
            fit.append((real & (position < last.writes))[:, None])
            g.append(_load(g_ref, cut, pixel * last.writes + position, feature, fit[-1] & known))
        sums = list(sums)
        for u in range(cut.rows):
            pixel, inside = n, real
            taps = _unravel(row + u, [walk.taps for walk in outer])
            for walk, j, i in zip(outer, place, taps, strict=True):
                position = j * walk.step + (i * walk.dilation - walk.low)
                pixel, inside = (
                    pixel * walk.reads + position,
                    inside & _within(position, walk.reads),
                )
            corner = strip * (cut.columns * last.step) + (begin * last.dilation - last.low)
            for offset, pairs in gpu_plan.reads(last, cut.columns, cut.taps).items():
                mask = inside & _within(corner + offset, last.reads)
                pixels = pixel * last.reads + corner + offset
                x = _load(x_ref, cut, pixels, channel, mask[:, None] & known)
                for column, i in pairs:
                    fits = last.writes % cut.columns == 0 or fit[column]
                    at = u * cut.taps + i
                    sums[at] = _add(sums[at], x, g[column], fits)
        return tuple(sums)

    turns = pl.cdiv(math.prod(gpu_plan.strip_extents(spec, walks, cut)), cut.strips)
    share = pl.cdiv(turns, cut.chunks)
    sums = (jnp.zeros((cut.strips, cut.features), jnp.float32),) * (cut.rows * cut.taps)
    sums = lax.fori_loop(0, share, lambda turn, sums: step(chunk * share + turn, sums), sums)
    for at, total in enumerate(sums):
        u, i = divmod(at, cut.taps)
        place = ((chunk * rows + row + u) * last.taps) + begin + i
        mask = known & (begin + i < last.taps)
        to = kernel_ref.at[jnp.broadcast_to(place, feature.shape), feature]
        triton.store(to, total.sum(0).astype(kernel_ref.dtype), mask=mask)


def _strips(spec: ConvSpec, walks, cut: Blocks, block):
    """Of a tile's rows: the image, the place in a phase, the strip; and which rows there are."""
    extents = gpu_plan.strip_extents(spec, walks, cut)
    index = block * cut.strips + jnp.arange(cut.strips, dtype=jnp.int32)
    # Rows past the last one must not be taken for others, so images are not bounded, even if one.
    return _unravel(index, [0, *extents[1:]]), index < math.prod(extents)


def _features(ref, cut: Blocks, block):
    """The features of a tile's columns, and which of them there are."""
    feature = block * cut.features + jnp.arange(cut.features, dtype=jnp.int32)
    return feature, feature < ref.shape[-1]


def _unravel(index, extents):
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


def _within(position, extent: int):
    return (position >= 0) & (position < extent)


def _add(total, a, b, fits):
    """``total + a * b`` where the tap fits; zeros would not do there: the other may be infinite."""
    added = total + a * b if _interpreting() else _fused(a, b, total)
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


def _repeated(count: int, products: int, step, carry):
    """``carry`` after ``count`` steps of so many products each, unrolled where they are few."""
    if count * products > UNROLLED:
        return lax.fori_loop(0, count, step, carry)
    return functools.reduce(lambda carry, at: step(at, carry), range(count), carry)


def _pixels(array):
    return array.reshape(-1, array.shape[-1])


def _tile(ref, cut: Blocks, pixels, features):
    shape = (cut.strips, cut.features)
    pixels = jnp.broadcast_to(pixels[:, None] if jnp.ndim(pixels) else pixels, shape)
    return ref.at[pixels, jnp.broadcast_to(features, shape)]


def _load(ref, cut: Blocks, pixels, features, mask):
    """A tile in float32, with zeros where ``mask`` does not hold."""
    mask = jnp.broadcast_to(mask, (cut.strips, cut.features))
    return triton.load(_tile(ref, cut, pixels, features), mask=mask, other=0.0).astype(jnp.float32)


def _call(name: str, body, grid, cut: Blocks, shape, dtype):
    return pl.pallas_call(
        body,
        grid=grid,
        out_shape=jax.ShapeDtypeStruct(shape, dtype),
        compiler_params=triton.CompilerParams(num_warps=cut.warps, num_stages=1),
        interpret=_interpreting(),
        name=f"jaxconv_depthwise_{name}",
    )


def _interpreting() -> bool:
    return _target.value is not None and _target.value.interpret
