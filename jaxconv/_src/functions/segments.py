"""Causal convolution of packed sequences: a tap that would read another segment contributes zero.

    y[n, i, f] = sum over t, c of  x[n, j, c] * kernel[t, c, f]  where  ids[n, j] = ids[n, s*i],
    j = s*i - d*(K-1-t)

Depthwise, that is a primitive of its own. Otherwise the shifted and masked inputs of all taps are
stacked along the channels, and the convolution is one of extent 1.
"""

from __future__ import annotations

import jax
from jax import lax

from ..geometry import checks
from ..geometry.checks import Call
from ..geometry.epilogue import Epilogue
from ..geometry.spec import ConvSpec
from ..kernels.xla.segments import reads
from ..primitives.call import Options, Window
from ..primitives.segments import bind_segments
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
    if spec.depthwise and keywords.implementation in (None, "taps"):
        return bind_segments(
            inputs,
            kernel,
            ids,
            *(() if bias is None else (bias,)),
            spec=spec,
            epilogue=Epilogue(bias=bias is not None, **fields),
            dtype=keywords.dtype,
            implementation=keywords.implementation,
        )
    # [N, O, G, K, C/G]: the channels of each group for its first tap, its second, …
    grouped = [
        read.reshape(*read.shape[:2], spec.groups, 1, spec.group_in)
        for read in reads(inputs, ids, spec)
    ]
    stacked = lax.concatenate(grouped, 3)
    x = stacked.reshape(*stacked.shape[:2], spec.taps * spec.in_features)
    kernel = kernel.reshape(1, spec.taps * spec.group_in, spec.out_features)
    return convolve_activated(call, x, kernel, bias, Window(groups=spec.groups), fields, keywords)
