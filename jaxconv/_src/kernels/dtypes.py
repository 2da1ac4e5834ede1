"""The dtypes to compute in. Operands may be of mixed dtypes: a cotangent beside a residual."""

from __future__ import annotations

import jax.numpy as jnp


def promoted(a, b):
    """Both operands in their common dtype, which products require."""
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return a.astype(dtype), b.astype(dtype)


def results_dtypes(a, b, dtype):
    """The dtype of the result, and the dtype to accumulate in."""
    operands = jnp.promote_types(a.dtype, b.dtype)
    dtype = jnp.dtype(dtype or operands)
    sums = jnp.promote_types(operands, dtype)
    return dtype, jnp.promote_types(sums, jnp.float32) if sums.itemsize < 4 else sums
