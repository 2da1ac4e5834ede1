"""Lowering: dispatch picks a kernel for the platform, after autodiff and batching are done."""

from __future__ import annotations

import contextvars
import functools

import jax
import jax.numpy as jnp
from jax.interpreters import mlir

from . import compat, dispatch
from .primitives import PRIMITIVES
from .spec import ConvSpec, Operator

# Set while one of the family is lowered, so that the "lax" kernel gets lax's own convolution even
# where lax's convolutions are served by the family.
_family = contextvars.ContextVar("lowering the family", default=False)


def lowering_family() -> bool:
    return _family.get()


def _lower(operator: Operator, platform: str, ctx, a, b, *, spec, implementation, **params):
    plain = compat.why_plain(ctx)
    choice = dispatch.choose(operator, platform, spec, params["dtype"], implementation, plain)
    run = functools.partial(_run, operator, platform, choice, spec, params)
    token = _family.set(True)
    try:
        lower = mlir.lower_fun(run, multiple_results=False)
        return compat.lower_on_shard(ctx, platform, lower, a, b)
    finally:
        _family.reset(token)


def _run(
    operator: Operator, platform: str, choice: dispatch.Choice, spec: ConvSpec, params: dict, a, b
):
    """The function that is lowered: it sees arrays of one device and knows no mesh."""
    dtype = params["dtype"]
    if spec.empty:
        return jnp.zeros(spec.result_shape(operator), dtype)
    compute = getattr(dispatch.KERNELS[choice.kernel][platform], operator.value)
    options = {} if choice.blocks is None else {"blocks": choice.blocks}
    # A caller's stricter promotion rules are about the caller's code; operands here may be mixed.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return compute(a, b, spec, precision=params["precision"], dtype=dtype, **options)


def _register() -> None:
    for operator, primitive in PRIMITIVES.items():
        for platform in dispatch.PLATFORMS:
            rule = functools.partial(_lower, operator, platform)
            mlir.register_lowering(primitive, rule, platform=platform)


_register()
