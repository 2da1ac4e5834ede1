"""Differences between jax versions, and every private name of jax with the reason for using it."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax

# The source line of an operation, which printed residuals and profiles show, is the innermost one
# that is not in an excluded file. The list of these is private; Flax adds its own in the same way.
from jax._src import source_info_util

# A jit of an evaluated program raises this if its result has NaN; only calls of a jitted function
# turn it into the public FloatingPointError.
from jax._src.api_util import InternalFloatingPointError as InternalFloatingPointError

# Inside shard_map, pallas_call requires its results to declare their varying axes. Our lowerings
# have removed these axes from the operands, so the check must be off; jax has no public switch.
from jax._src.config import _check_vma as check_vma

# lax.ppermute over several axes numbers the devices in the order of the mesh, not in the order in
# which the axes are named. The public abstract mesh tells the order inside shard_map, but not
# inside the function of one partition; the axis environment does in both.
from jax._src.core import get_axis_env

# An eager call of a primitive compiles it alone. The public way is jax.jit, but under
# jax.disable_jit that calls the primitive's implementation again, which recurses without end.
from jax._src.dispatch import apply_primitive as apply_primitive

# In explicit sharding mode a result's type states its sharding, and the lowered operation must
# state it too. No public function annotates an MLIR value. Without explicit axes this does nothing.
from jax._src.interpreters.mlir import lower_with_sharding_in_types as annotate_sharding
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.sharding import AbstractDevice, AbstractMesh, NamedSharding, PartitionSpec

# The default target when lowering for a platform that is not present: Pallas's rules need one.
DEFAULT_DEVICES = {
    "cuda": AbstractDevice("NVIDIA A100-SXM4-80GB", 108, "gpu"),
    "tpu": AbstractDevice("TPU v4", 1, "tpu"),
}


_PACKAGE = pathlib.Path(__file__).parents[1]
for _path in (_PACKAGE / "_src", _PACKAGE / "nnx.py", _PACKAGE / "linen.py"):
    source_info_util.register_exclusion(f"{_path}{os.sep if _path.is_dir() else ''}")


def add_taylor_rule(bilinear: Primitive) -> None:
    """Registers a bilinear primitive with ``jax.experimental.jet``, if this jax has it.

    The private rule is jet's own for products, the only place that knows how jet scales the terms
    of a series. Experimental modules may be removed, hence the import here.
    """
    try:
        from jax.experimental.jet import _bilinear_taylor_rule, jet_rules
    except ImportError:
        return
    jet_rules[bilinear] = functools.partial(_bilinear_taylor_rule, bilinear)


def add_taylor_rule_of(primitive: Primitive, definition: Callable[..., Any]) -> None:
    """Registers with ``jax.experimental.jet`` a primitive that equals ``definition``."""
    try:
        from jax.experimental.jet import jet, jet_rules
    except ImportError:
        return

    def rule(primals, series, **params):
        # The terms of the rule are those of jet itself: not scaled by factorials.
        return jet(functools.partial(definition, **params), primals, series, factorial_scaled=False)

    jet_rules[primitive] = rule


def add_nan_check(primitive: Primitive) -> None:
    """Makes the float checks of ``checkify`` look for NaN in the result of ``primitive``.

    checkify's table of rules is private, and it passes over primitives that have none.
    """
    from jax._src import checkify

    checkify.error_checks[primitive] = functools.partial(checkify.nan_error_check, primitive)


def in_mesh_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """These named axes in the order in which the mesh has them."""
    return tuple(sorted(names, key=get_axis_env().axis_names().index))


def varying_axes(x) -> frozenset:
    """The manual mesh axes along which the value of ``x`` differs (its shard_map type)."""
    return jax.typeof(x).manual_axis_type.varying


def _without_mesh(aval):
    """``aval`` without sharding and varying axes: the type of an array on one device."""
    return ShapedArray(aval.shape, aval.dtype, weak_type=False)


def lower_without_mesh(ctx, platform: str, lower, *operands):
    """Runs the lowering rule ``lower`` with all mesh types removed, then restores its result's.

    With mesh types, an implementation that transposes inside its lowering would also transpose the
    casts to varying that shard_map's types insert. The transpose of such a cast is a ``psum``, so
    filter gradients would be multiplied by the number of devices.
    """
    stripped = ctx.replace(
        avals_in=[_without_mesh(aval) for aval in ctx.avals_in],
        avals_out=[_without_mesh(aval) for aval in ctx.avals_out],
    )
    one_device = jax.sharding.use_abstract_mesh(no_mesh(platform))
    with one_device, check_vma(False), _without_deprecation(platform):
        results = lower(stripped, *operands)
    return [
        annotate_sharding(ctx, result, aval)
        for result, aval in zip(results, ctx.avals_out, strict=True)
    ]


@contextlib.contextmanager
def _without_deprecation(platform: str) -> Iterator[None]:
    """Hides jax 0.11's deprecation of Pallas's Triton backend, which is still CUDA's default."""
    if platform != "cuda":
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Pallas Triton backend", DeprecationWarning)
        yield


def no_mesh(platform: str) -> AbstractMesh:
    """A mesh without axes, on the device that the program is lowered for."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    default = DEFAULT_DEVICES.get(platform)
    if default and (device.platform if device else jax.default_backend()) != default.platform:
        device = default
    return AbstractMesh((), (), abstract_device=device)


def custom_calls_unsupported(ctx) -> str | None:
    """The reason why the program being lowered must not contain custom calls, or None."""
    if ctx.module_context.lowering_parameters.for_export:
        return "exported programs cannot contain custom calls"
    # The context of a jit has num_devices; that of a shard_map has manual_axes, which may be only
    # some of the mesh's axes.
    axes = ctx.module_context.axis_context
    manual = getattr(axes, "manual_axes", None)
    partitioned = (
        (getattr(axes, "num_devices", 1) or 1) > 1
        if manual is None
        else manual != frozenset(axes.mesh.axis_names)
    )
    return "XLA cannot partition a custom call over the devices of a jit" if partitioned else None


def mesh_to_partition_over(ctx) -> dict[str, int]:
    """The mesh axes, with their sizes, of a jit over several devices; empty for export."""
    if ctx.module_context.lowering_parameters.for_export:
        return {}
    axes = ctx.module_context.axis_context
    if (getattr(axes, "num_devices", 1) or 1) == 1 or axes.device_assignment is None:
        return {}
    return dict(axes.abstract_mesh.shape) if axes.abstract_mesh is not None else {}


def lower_with_devices(primitive: Primitive) -> None:
    """Makes jax determine the devices before it lowers a program that contains ``primitive``.

    custom_partitioning inside a lowering rule needs to know them. The registry of primitives that
    do so is not public.
    """
    from jax._src import dispatch

    dispatch.prim_requires_devices_during_lowering.add(primitive)


def lowering_rule(primitive: Primitive, platform: str):
    """The lowering rule of ``primitive`` on ``platform``.

    jax's public API can register a rule but not look one up, and ``install()`` must keep lax's own.
    """
    from jax._src.interpreters import mlir

    entry = mlir._platform_specific_lowerings[platform].get(primitive)
    return (entry or mlir._lowerings[primitive]).rule


def named_sharding(mesh, partitions) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*(entry or None for entry in partitions)))
