"""Depthwise causal convolutions within segments on the CPU engine."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...geometry.epilogue import Epilogue
from ...geometry.spec import ConvSpec
from . import library, native
from .engine_call import engine_call

Array = jax.Array

# As in csrc/causal_call.h.
MAX_TAPS = 32
MAX_WEIGHTS = 1 << 18


def depthwise(
    x: Array,
    kernel: Array,
    ids: Array,
    *bias: Array,
    spec: ConvSpec,
    epilogue: Epilogue,
    dtype: Any,
) -> Array:
    """``xla.segments.depthwise`` in one pass; 16-bit types are computed in float32."""
    computed = jnp.promote_types(x.dtype, dtype)
    y = engine_call(
        library.CAUSAL_TARGET,
        spec,
        spec.output_shape,
        computed,
        x.astype(computed),
        kernel.astype(computed),
        ids.astype(jnp.int32),
        *(values.astype(computed) for values in bias),
        before=np.int64(x.shape[1] - spec.input_spatial[0]),
        dilation=np.int64(spec.dilation[0]),
        activation=np.int64(native.activation_index(epilogue)),
        negative_slope=np.float64(epilogue.negative_slope),
    )
    return y.astype(dtype)


def unsupported_reason(spec: ConvSpec, dtype: Any, ids_dtype: Any) -> str | None:
    """Why the engine does not support this convolution, or None if it does."""
    if jnp.dtype(dtype).name not in native.ELEMENTS:
        return f"the CPU engine supports {', '.join(native.ELEMENTS)}, not {jnp.dtype(dtype).name}"
    if jnp.dtype(ids_dtype).itemsize > 4:
        return "the CPU engine compares segment ids of at most 32 bits"
    if not all(isinstance(size, int) for size in native.sizes(spec)):
        return "the CPU engine needs sizes known at compile time, but some are symbolic"
    if spec.strides != (1,) or spec.group_out != 1:
        return "with segments, the CPU engine supports strides of 1 and one filter per channel"
    if not 1 <= spec.taps <= MAX_TAPS or spec.parameters > MAX_WEIGHTS:
        return f"with segments, the CPU engine supports at most {MAX_TAPS} taps"
    reason = library.unavailable_reason()
    if reason is None and not library.has(library.CAUSAL_TARGET):
        return "the CPU engine was built from older sources; reinstall jaxconv from source"
    return reason
