"""Lowering of jaxconv's primitives: dispatch chooses an implementation for the platform.

This happens after differentiation and batching, so their rules never see the choice.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import mlir

from .. import compat
from ..dispatch.choose import Choice, choose_implementation
from ..dispatch.registry import IMPLEMENTATIONS, PLATFORMS, computes_examples_as_groups
from ..geometry.spec import ConvSpec, Operator
from ..kernels.cpu import native
from ..kernels.cpu import segments as native_segments
from ..kernels.xla.epilogue import apply_epilogue
from ..primitives.batching import examples_as_groups
from ..primitives.fused import decomposed, fused_conv_p
from ..primitives.packed import packed_conv_p, unpacked
from ..primitives.rules import PRIMITIVES
from ..primitives.segments import definition, segments_p
from . import partitioning

# XLA cannot partition Mosaic kernels, so a jit over several TPUs gets plain XLA.
PARTITIONED_PLATFORMS = ("cpu", "cuda", "rocm")

_lowering_primitive = contextvars.ContextVar("lowering one of jaxconv's primitives", default=False)


def is_lowering_primitive() -> bool:
    """Whether one of jaxconv's primitives is being lowered.

    The "lax" implementation must then get lax's own convolution, even after ``install()``.
    """
    return _lowering_primitive.get()


def _lower(operator: Operator, platform: str, ctx, a, b, *, spec, implementation, **params):
    in_groups = isinstance(spec.examples, int) and computes_examples_as_groups(platform)
    computed = spec.examples_as_groups if in_groups else spec
    run = _function(operator, platform, ctx, computed, implementation, params)
    if in_groups:
        run = examples_as_groups(run, spec)
    return _lower_function(run, platform, ctx, a, b)


def _lower_function(run: Callable[..., Any], platform: str, ctx, *operands):
    token = _lowering_primitive.set(True)
    try:
        lower = mlir.lower_fun(run, multiple_results=False)
        return compat.lower_without_mesh(ctx, platform, lower, *operands)
    finally:
        _lowering_primitive.reset(token)


def _lower_fused(platform: str, ctx, *operands, **params):
    """In one pass if the implementation has one; otherwise the epilogue follows in plain XLA."""
    if params["spec"].empty or compat.custom_calls_unsupported(ctx) is not None:
        # The convolution inside is lowered, partitioned and exported by its own rule.
        lower = mlir.lower_fun(functools.partial(decomposed, **params), multiple_results=False)
        return lower(ctx, *operands)
    run = functools.partial(_compute_fused, platform, **params)
    return _lower_function(run, platform, ctx, *operands)


def _lower_segments(platform: str, ctx, x, kernel, ids, *bias, implementation, **params):
    """On the CPU engine if it may and can compute this; otherwise in plain XLA."""
    native = (
        platform == "cpu"
        and implementation is None
        and not params["spec"].empty
        and compat.custom_calls_unsupported(ctx) is None
        and native_segments.unsupported_reason(
            params["spec"], params["dtype"], ctx.avals_in[2].dtype
        )
        is None
    )
    if native:
        run = functools.partial(_native_segments, **params)
        return _lower_function(run, platform, ctx, x, kernel, ids, *bias)
    run = functools.partial(definition, implementation=implementation, **params)
    return mlir.lower_fun(run, multiple_results=False)(ctx, x, kernel, ids, *bias)


def _native_segments(*arrays, **params):
    with _own_promotion(), _named(segments_p, params["spec"]):
        return native_segments.depthwise(*arrays, **params)


def _compute_fused(
    platform: str, x, kernel, *operands, spec, epilogue, dtype, precision, implementation
):
    """A fused convolution on arrays of one device, without a mesh."""
    choice = choose_implementation(Operator.CONV, platform, spec, dtype, implementation)
    module, options = _module_and_options(choice, platform, precision, dtype)
    with _own_promotion(), _named(fused_conv_p, spec):
        x, kernel = _promotable_pair(x, kernel, dtype)
        if hasattr(module, "fused_conv"):
            return module.fused_conv(x, kernel, operands, spec, epilogue, **options)
        return apply_epilogue(module.conv(x, kernel, spec, **options), epilogue, operands)


def _lower_packed(platform: str, ctx, *operands, **params):
    """On the CPU engine with the packed kernel; elsewhere as the fused convolution."""
    spec, dtype = params["spec"], params["dtype"]
    if not spec.empty and platform == "cpu" and compat.custom_calls_unsupported(ctx) is None:
        choice = choose_implementation(Operator.CONV, platform, spec, dtype, packed=True)
        if choice.implementation == "native":
            run = functools.partial(_compute_packed, **params)
            return _lower_function(run, platform, ctx, *operands)
    lower = mlir.lower_fun(functools.partial(unpacked, **params), multiple_results=False)
    return lower(ctx, *operands)


def _compute_packed(x, kernel, *operands, spec, epilogue, scaled, dtype, precision):
    """A convolution of a packed kernel on one device; ``kernel`` itself is not read."""
    *operands, packed = operands
    if scaled:
        named = zip(epilogue.operands, operands, strict=True)
        operands = [array for name, array in named if name != "scale"]
        epilogue = epilogue.replace(scale=False)
    with _own_promotion(), _named(packed_conv_p, spec):
        return native.fused_conv(x, packed, operands, spec, epilogue, dtype=dtype, packed=True)


def _function(operator: Operator, platform: str, ctx, spec, implementation, params: dict):
    """The function to lower; if a jit spans several devices, it partitions itself over them."""
    dtype, precision = params["dtype"], params["precision"]
    compute = functools.partial(_compute, operator, platform, implementation, precision)
    partitions = platform in PARTITIONED_PLATFORMS and not spec.empty
    mesh = compat.mesh_to_partition_over(ctx) if partitions else {}
    if mesh:
        compute = functools.partial(compute, None)
        return partitioning.partitioned(operator, platform, spec, dtype, compute, mesh)
    run = functools.partial(compute, compat.custom_calls_unsupported(ctx), spec.one_example, dtype)
    return run if spec.examples is None else _of_examples(run, spec.examples)


def _of_examples(run: Callable[..., Any], examples):
    """``run`` for arrays of examples.

    A symbolic number of them, in an exported program, is a loop: one convolution of XLA's would
    need as many groups, and their number must be known.
    """
    if isinstance(examples, int):
        return jax.vmap(functools.partial(run, examples=examples))
    return lambda a, b: jax.lax.map(lambda pair: run(*pair), (a, b))


def _compute(
    operator: Operator,
    platform,
    implementation,
    precision,
    plain_xla_reason,
    spec,
    dtype,
    a,
    b,
    *,
    examples=None,
):
    """The operator on arrays of one device, without a mesh; of one of ``examples``, if any."""
    every = spec.replace(examples=examples)
    choice = choose_implementation(
        operator, platform, every, dtype, implementation, plain_xla_reason
    )
    if spec.empty:
        return jnp.zeros(spec.result_shape(operator), dtype)
    module, options = _module_and_options(choice, platform, precision, dtype)
    with _own_promotion(), _named(PRIMITIVES[operator], spec):
        a, b = _promotable_pair(a, b, dtype)
        return getattr(module, operator.value)(a, b, spec, **options)


def _module_and_options(choice: Choice, platform: str, precision, dtype):
    """The module of the chosen implementation, and the keywords of its functions."""
    options = {"precision": precision, "dtype": dtype}
    options |= {} if choice.tile is None else {"tile": choice.tile}
    return IMPLEMENTATIONS[choice.implementation][platform], options


def _named(primitive: Primitive, spec: ConvSpec) -> contextlib.AbstractContextManager:
    """Names the operations of an implementation, as in ``jaxconv.conv[depthwise 3x3]``."""
    return jax.named_scope(f"jaxconv.{primitive.name}[{spec.label}]")


@contextlib.contextmanager
def _own_promotion():
    """Lets dtypes and ranks differ: the caller's promotion rules are for the caller's code."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _promotable_pair(a, b, dtype):
    widest = max(a.dtype, b.dtype, jnp.dtype(dtype), key=lambda each: each.itemsize)
    return _promotable(a, widest), _promotable(b, widest)


def _promotable(operand, widest):
    """An 8-bit operand as the widest dtype beside it, because jax does not promote 8-bit floats."""
    narrow = operand.dtype.itemsize == 1 < widest.itemsize
    return operand.astype(widest) if narrow else operand


def _register() -> None:
    rules = {
        primitive: functools.partial(_lower, operator) for operator, primitive in PRIMITIVES.items()
    }
    rules |= {
        fused_conv_p: _lower_fused,
        packed_conv_p: _lower_packed,
        segments_p: _lower_segments,
    }
    for primitive, rule in rules.items():
        compat.lower_with_devices(primitive)
        for platform in PLATFORMS:
            mlir.register_lowering(primitive, functools.partial(rule, platform), platform=platform)


_register()
