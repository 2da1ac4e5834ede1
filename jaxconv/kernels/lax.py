"""The three operators by ``lax.conv_general_dilated``: the definition, and every other's oracle.

The gradients are lax's own transposes of its convolution, so that they mean what lax means.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from ..spec import ConvSpec, Operator

LETTERS = {1: "W", 2: "HW", 3: "DHW"}


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    return _convolve(*_promoted(x, kernel), spec, precision, dtype)


def input_grad(g, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    g, kernel = _promoted(g, kernel)

    def forward(x):
        return _convolve(x, kernel, spec, precision, None)

    x = jax.ShapeDtypeStruct(spec.input_shape, g.dtype)
    return jax.linear_transpose(forward, x)(g)[0].astype(dtype or g.dtype)


def filter_grad(x, g, spec: ConvSpec, *, precision=None, dtype=None):
    x, g = _promoted(x, g)

    def forward(kernel):
        return _convolve(x, kernel, spec, precision, None)

    kernel = jax.ShapeDtypeStruct(spec.kernel_shape, x.dtype)
    return jax.linear_transpose(forward, kernel)(g)[0].astype(dtype or x.dtype)


def refusal(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    """lax computes every member of the family."""
    return None


def _promoted(a, b):
    """Both operands in their common dtype: lax's convolution takes no mixed ones."""
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return a.astype(dtype), b.astype(dtype)


def _convolve(x, kernel, spec: ConvSpec, precision, dtype):
    letters = LETTERS[spec.rank]
    y = lax.conv_general_dilated(
        x,
        kernel,
        window_strides=spec.strides,
        padding=spec.padding,
        rhs_dilation=spec.dilation,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=spec.groups,
        precision=precision,
        preferred_element_type=dtype,
    )
    return y if dtype is None else y.astype(dtype)
