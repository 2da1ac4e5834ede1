"""Causal convolution of packed sequences: a tap that would read another segment contributes zero.

    y[n, i, f] = sum over t, c of  x[n, j, c] * kernel[t, c, f]  where  ids[n, j] = ids[n, s*i],
    j = s*i - d*(K-1-t)

For each tap, the input is shifted and masked. A depthwise convolution multiplies and adds the
shifted inputs, which XLA fuses into one loop. Otherwise they are stacked along the channels, and
the convolution is one of extent 1, computed by jaxconv's primitives.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from ..geometry import checks
from ..geometry.checks import Call
from ..geometry.epilogue import Epilogue
from ..geometry.spec import ConvSpec
from ..kernels.xla.epilogue import activate
from ..primitives.call import Options, Window, add_bias
from .epilogue import Fields, convolve_activated

Array = jax.Array


def convolve_segments(
    call: Call,
    inputs: Array,
    ids: Array,
    kernel: Array,
    bias: Array | None,
    spec: ConvSpec,
    fields: Fields,
    keywords: Options,
) -> Array:
    """The causal convolution ``spec``, within segments.

    ``inputs [N, P+L, C]`` and ``ids [N, P+L]`` may begin with P steps that have no outputs.
    """
    checks.bias(call, bias, spec.out_features)
    reads = _reads(inputs, ids, spec)
    if spec.depthwise and keywords.implementation in (None, "taps"):
        return _depthwise(reads, kernel, bias, spec, fields, keywords)
    # [N, O, G, K, C/G]: the channels of each group for its first tap, its second, …
    grouped = [read.reshape(*read.shape[:2], spec.groups, 1, spec.group_in) for read in reads]
    stacked = lax.concatenate(grouped, 3)
    x = stacked.reshape(*stacked.shape[:2], spec.taps * spec.in_features)
    kernel = kernel.reshape(1, spec.taps * spec.group_in, spec.out_features)
    return convolve_activated(call, x, kernel, bias, Window(groups=spec.groups), fields, keywords)


def _reads(inputs: Array, ids: Array, spec: ConvSpec) -> Iterator[Array]:
    """``[N, O, C]`` for each tap: what it reads, and zeros where that is another segment's."""
    past = inputs.shape[1] - spec.input_spatial[0]
    shift = functools.partial(_shifted, past=past, stride=spec.strides[0])
    present = shift(ids, 0)
    for tap in range(spec.taps):
        distance = spec.dilation[0] * (spec.taps - 1 - tap)
        read = shift(inputs, distance)
        if distance:
            same = (shift(ids, distance) == present)[..., None]
            read = jnp.where(same, read, lax.full((), 0, read.dtype))
        yield read


def _shifted(steps: Array, distance: int, past: int, stride: int) -> Array:
    """For each output, the entry ``distance`` steps before it; zero before the first."""
    pads = [(0, 0, 0)] * steps.ndim
    pads[1] = (distance - past, -distance, 0)
    shifted = lax.pad(steps, lax.full((), 0, steps.dtype), pads)
    return shifted if stride == 1 else lax.slice_in_dim(shifted, 0, None, stride, axis=1)


def _depthwise(
    reads: Iterator[Array],
    kernel: Array,
    bias: Array | None,
    spec: ConvSpec,
    fields: Fields,
    keywords: Options,
) -> Array:
    """Computed in float32 at least, and rounded once."""
    dtype = jnp.dtype(keywords.dtype)
    sums = jnp.float32 if dtype.itemsize < 4 else dtype
    weights = kernel.reshape(spec.taps, 1, 1, spec.out_features).astype(sums)
    filters = (jnp.repeat(r, spec.group_out, axis=-1) if spec.group_out > 1 else r for r in reads)
    products = (x.astype(sums) * w for x, w in zip(filters, weights, strict=True))
    y = add_bias(functools.reduce(operator.add, products), bias)
    return activate(y, Epilogue(**fields)).astype(dtype)
