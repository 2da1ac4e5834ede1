"""Lowering: dispatch picks a kernel for the platform, after autodiff and batching are done."""

from __future__ import annotations

import contextvars
import functools

import jax
import jax.numpy as jnp
from jax.interpreters import mlir

from .. import compat
from ..dispatch.choose import choose_implementation
from ..dispatch.registry import IMPLEMENTATIONS, PLATFORMS
from ..geometry.spec import Operator
from ..primitives.rules import PRIMITIVES
from . import partitioning

# Mosaic kernels cannot be partitioned by XLA; on TPU a jit over several devices gets plain XLA.
PARTITIONED = ("cpu", "cuda", "rocm")

# Set while one of the family is lowered, so that the "lax" kernel gets lax's own convolution even
# where lax's convolutions are served by the family.
_family = contextvars.ContextVar("lowering the family", default=False)


def lowering_family() -> bool:
    return _family.get()


def _lower(operator: Operator, platform: str, ctx, a, b, *, spec, implementation, **params):
    run = _function(operator, platform, ctx, spec, implementation, params)
    token = _family.set(True)
    try:
        lower = mlir.lower_fun(run, multiple_results=False)
        return compat.lower_on_shard(ctx, platform, lower, a, b)
    finally:
        _family.reset(token)


def _function(operator: Operator, platform: str, ctx, spec, implementation, params: dict):
    """What is lowered: one kernel; or where a jit spans several devices, one on every shard."""
    dtype, precision = params["dtype"], params["precision"]
    compute = functools.partial(_compute, operator, platform, implementation, precision)
    mesh = compat.mesh_to_cut_over(ctx) if platform in PARTITIONED and not spec.empty else {}
    if mesh:
        compute = functools.partial(compute, None)
        return partitioning.partitioned(operator, platform, spec, dtype, compute, mesh)
    return functools.partial(compute, compat.why_plain(ctx), spec, dtype)


def _compute(operator: Operator, platform, implementation, precision, plain, spec, dtype, a, b):
    """The function that is lowered: it sees arrays of one device and knows no mesh."""
    choice = choose_implementation(operator, platform, spec, dtype, implementation, plain)
    if spec.empty:
        return jnp.zeros(spec.result_shape(operator), dtype)
    compute = getattr(IMPLEMENTATIONS[choice.implementation][platform], operator.value)
    options = {} if choice.tile is None else {"tile": choice.tile}
    # A caller's stricter promotion rules are about the caller's code; operands here may be mixed.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        widest = max(a.dtype, b.dtype, jnp.dtype(dtype), key=lambda each: each.itemsize)
        a, b = (_promotable(operand, widest) for operand in (a, b))
        return compute(a, b, spec, precision=precision, dtype=dtype, **options)


def _promotable(operand, widest):
    """An operand of 8 bits as the widest dtype beside it, to which jax would not promote it."""
    narrow = operand.dtype.itemsize == 1 < widest.itemsize
    return operand.astype(widest) if narrow else operand


def _register() -> None:
    for operator, primitive in PRIMITIVES.items():
        compat.lower_with_devices(primitive)
        for platform in PLATFORMS:
            rule = functools.partial(_lower, operator, platform)
            mlir.register_lowering(primitive, rule, platform=platform)


_register()
