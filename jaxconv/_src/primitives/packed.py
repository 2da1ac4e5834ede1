"""A fused convolution whose kernel is also given as the CPU engine reads it.

    packed(x, k, s, b, r, p) = fused(x, k, s, b, r)

``p`` holds the bytes that ``native.pack_kernel`` makes of the kernel, multiplied by the scale if
``scaled``, so that the engine neither packs the kernel nor scales the result in each call. All else
reads the other operands: the primitive is defined as the fused convolution, and so are its
derivatives, and its lowering for other platforms, for several devices and for export.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad

from .. import compat
from ..geometry.epilogue import Epilogue
from ..geometry.spec import ConvSpec, Operator
from . import explicit_sharding, rules
from .fused import bind_fused, jvp_in, operand_shapes, transpose_of

Array = jax.Array

packed_conv_p = Primitive("packed_conv")


def bind_packed(
    x: Array,
    kernel: Array,
    operands: Sequence[Array],
    packed: Array,
    spec: ConvSpec,
    epilogue: Epilogue,
    *,
    scaled: bool,
    dtype: Any,
    precision: Any = None,
) -> Array:
    """The fused convolution of ``kernel``, which ``packed`` also holds for the engine.

    ``scaled`` is whether the packed kernel is multiplied by the scale. Other arguments are those of
    ``bind_fused``.
    """
    arrays = explicit_sharding.match_varying(x, kernel, *operands, packed)
    params = {"scaled": scaled, "dtype": jnp.dtype(dtype), "precision": precision}
    return packed_conv_p.bind(*arrays, spec=spec, epilogue=epilogue, **params)


def unpacked(*arrays: Array, spec: ConvSpec, epilogue: Epilogue, **params: Any) -> Array:
    """The definition: the fused convolution of all operands but the packed kernel."""
    x, kernel, *operands, _ = arrays
    params.pop("scaled", None)
    return bind_fused(x, kernel, operands, spec, epilogue, **params)


def _abstract_eval(x, kernel, *rest, spec, epilogue, scaled, **params):
    *operands, packed = rest
    got = tuple(tuple(operand.shape) for operand in operands)
    expected = operand_shapes(spec, epilogue)
    if got != expected or packed.dtype != jnp.uint8 or packed.ndim != 1:
        raise ValueError(
            f"{packed_conv_p.name}: the operands of {epilogue} after {spec} have shapes "
            f"{expected} and the packed kernel is a vector of bytes, but got {got} and {packed}"
        )
    return rules.abstract_eval(
        Operator.CONV,
        packed_conv_p.name,
        x,
        kernel,
        spec=spec,
        out_sharding=None,
        implementation=None,
        **params,
    )


def _jvp(primals, tangents, **params):
    # The bytes have no tangent.
    moved = {
        at: tangent for at, tangent in enumerate(tangents[:-1]) if not isinstance(tangent, ad.Zero)
    }
    return jvp_in(functools.partial(unpacked, **params), primals, moved)


def _transpose(cotangent, *operands, **params):
    definition = functools.partial(unpacked, **params)
    return transpose_of(definition, cotangent, operands)


packed_conv_p.def_impl(functools.partial(compat.apply_primitive, packed_conv_p))
packed_conv_p.def_abstract_eval(_abstract_eval)
ad.primitive_jvps[packed_conv_p] = _jvp
ad.primitive_transposes[packed_conv_p] = _transpose
compat.add_taylor_rule_of(packed_conv_p, unpacked)
compat.add_nan_check(packed_conv_p)
