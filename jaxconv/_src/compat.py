"""What differs between jax versions, and every private jax name with the reason for it."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator

import jax

# Under shard_map a pallas_call wants its results' varying axes, also in a lowering where operands
# have none any more; jax switches the check off within its own rules, and offers nothing public.
from jax._src.config import _check_vma as check_varying

# A permute over several axes counts devices in the mesh's order, whatever order they are named in.
# The public abstract mesh says it under shard_map, but not in the function of one partition.
from jax._src.core import get_axis_env

# Binding a primitive eagerly means compiling it alone. The public ways to do that go through
# jax.jit, which under jax.disable_jit calls the primitive's implementation again, without end.
from jax._src.dispatch import apply_primitive as apply_primitive

# Explicit mode states a result's sharding in its type; the lowered operation must say so too, and
# no public function annotates an MLIR value. Where no axis is explicit it does nothing.
from jax._src.interpreters.mlir import lower_with_sharding_in_types as annotate_sharding
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.sharding import AbstractDevice, AbstractMesh, NamedSharding, PartitionSpec

# For whom programs are lowered where no such device is, and none is named: Pallas's rules ask.
ANY = {
    "cuda": AbstractDevice("NVIDIA A100-SXM4-80GB", 108, "gpu"),
    "tpu": AbstractDevice("TPU v4", 1, "tpu"),
}


def add_taylor_rule(bilinear: Primitive) -> None:
    """Teaches ``jax.experimental.jet`` a bilinear primitive, where jax has it: experiments may go.

    The rule is jet's own for products: how it scales the terms of a series is known to it alone.
    """
    try:
        from jax.experimental.jet import _bilinear_taylor_rule, jet_rules
    except ImportError:
        return
    jet_rules[bilinear] = functools.partial(_bilinear_taylor_rule, bilinear)


def in_order_of_mesh(names: tuple[str, ...]) -> tuple[str, ...]:
    """These named axes as the mesh has them."""
    return tuple(sorted(names, key=get_axis_env().axis_names().index))


def varying_axes(x) -> frozenset:
    """The manual mesh axes along which the value of ``x`` differs (its shard_map type)."""
    return jax.typeof(x).manual_axis_type.varying


def without_mesh(aval):
    """``aval`` with no sharding and no varying axes: what a kernel on one device sees."""
    return ShapedArray(aval.shape, aval.dtype, weak_type=False)


def lower_on_shard(ctx, platform: str, lower, *operands):
    """Runs the lowering rule ``lower`` with every mesh type stripped, then types its result.

    A kernel that transposes inside its lowering would otherwise transpose the casts that
    ``shard_map`` typing inserts, and the transpose of a cast to varying is one more ``psum``:
    filter gradients come out multiplied by the number of devices.
    """
    stripped = ctx.replace(
        avals_in=[without_mesh(aval) for aval in ctx.avals_in],
        avals_out=[without_mesh(aval) for aval in ctx.avals_out],
    )
    one_device = jax.sharding.use_abstract_mesh(no_mesh(platform))
    with one_device, check_varying(False), _without_deprecation(platform):
        results = lower(stripped, *operands)
    return [
        annotate_sharding(ctx, result, aval)
        for result, aval in zip(results, ctx.avals_out, strict=True)
    ]


@contextlib.contextmanager
def _without_deprecation(platform: str) -> Iterator[None]:
    """jax 0.11 deprecates Pallas's lowering through Triton, but has no other default for CUDA."""
    if platform != "cuda":
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Pallas Triton backend", DeprecationWarning)
        yield


def no_mesh(platform: str) -> AbstractMesh:
    """A mesh of no axes, on the device that the program is for."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    needed = ANY.get(platform)
    if needed and (device.platform if device else jax.default_backend()) != needed.platform:
        device = needed
    return AbstractMesh((), (), abstract_device=device)


def why_plain(ctx) -> str | None:
    """Why the program being lowered may hold no custom call, or None."""
    if ctx.module_context.lowering_parameters.for_export:
        return "exported programs hold no custom calls"
    # A jit has num_devices; inside shard_map there are manual axes, of all or some of a mesh.
    axes = ctx.module_context.axis_context
    manual = getattr(axes, "manual_axes", None)
    if manual is not None and manual != frozenset(axes.mesh.axis_names):
        return "a jit over several devices partitions plain XLA alone"
    if manual is None and (getattr(axes, "num_devices", 1) or 1) > 1:
        return "a jit over several devices partitions plain XLA alone"
    return None


def mesh_to_cut_over(ctx) -> dict[str, int]:
    """The axes of the mesh where a jit over several devices is lowered, and not for export."""
    if ctx.module_context.lowering_parameters.for_export:
        return {}
    axes = ctx.module_context.axis_context
    if (getattr(axes, "num_devices", 1) or 1) == 1 or axes.device_assignment is None:
        return {}
    return dict(axes.abstract_mesh.shape) if axes.abstract_mesh is not None else {}


def lower_with_devices(primitive) -> None:
    """Has programs that hold ``primitive`` lowered for devices that are known.

    custom_partitioning within a lowering needs them, and jax asks for them ahead of time, by a
    registry that is not public.
    """
    from jax._src import dispatch

    dispatch.prim_requires_devices_during_lowering.add(primitive)


def lowering_rule(primitive, platform: str):
    """The rule that lowers ``primitive`` on ``platform``; jax can register one but not ask."""
    from jax._src.interpreters import mlir

    entry = mlir._platform_specific_lowerings[platform].get(primitive)
    return (entry or mlir._lowerings[primitive]).rule


def named_sharding(mesh, partitions) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*(entry or None for entry in partitions)))
