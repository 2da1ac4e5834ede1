"""Causal convolutions within segments, in plain XLA: the definition, and the fallback.

For each tap the input is shifted, and masked where that is another segment's.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ...geometry.epilogue import Epilogue
from ...geometry.spec import ConvSpec
from .epilogue import activate, per_feature

Array = jax.Array


def reads(x: Array, ids: Array, spec: ConvSpec) -> Iterator[Array]:
    """``[N, O, C]`` for each tap: what it reads, and zeros where that is another segment's."""
    past = x.shape[1] - spec.input_spatial[0]
    shift = functools.partial(_shifted, past=past, stride=spec.strides[0])
    present = shift(ids, 0)
    for tap in range(spec.taps):
        distance = spec.dilation[0] * (spec.taps - 1 - tap)
        read = shift(x, distance)
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


def depthwise(
    x: Array,
    kernel: Array,
    ids: Array,
    *bias: Array,
    spec: ConvSpec,
    epilogue: Epilogue,
    dtype: Any,
) -> Array:
    """The taps multiplied and added, which XLA fuses into one loop; rounded once.

    ``x [N, P+L, C]`` and ``ids [N, P+L]`` may begin with P steps that have no outputs.
    """
    sums = jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype
    weights = kernel.reshape(spec.taps, 1, 1, spec.out_features).astype(sums)
    each = reads(x, ids, spec)
    filters = (jnp.repeat(r, spec.group_out, axis=-1) if spec.group_out > 1 else r for r in each)
    products = (read.astype(sums) * w for read, w in zip(filters, weights, strict=True))
    y = functools.reduce(operator.add, products)
    for values in bias:
        y = y + per_feature(values, y)
    return activate(y, epilogue).astype(dtype)
