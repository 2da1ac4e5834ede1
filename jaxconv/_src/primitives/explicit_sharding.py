"""What meshes add to the types of arrays: varying axes under ``shard_map``, explicit shardings."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import lax

from .. import compat
from ..geometry.spec import ConvSpec, Operator


def match_varying(*arrays: jax.Array) -> Sequence[jax.Array]:
    """Casts all arrays to vary over the same manual mesh axes, so that their types agree."""
    axes = [compat.varying_axes(array) for array in arrays]
    if all(own == axes[0] for own in axes):
        return arrays
    every = frozenset().union(*axes)
    return [_varying_over(array, every - own) for array, own in zip(arrays, axes, strict=True)]


def _varying_over(x, axes):
    return lax.pcast(x, tuple(axes), to="varying") if axes else x


def is_explicit(aval) -> bool:
    """Whether an array of this type is on a mesh whose shardings are part of types."""
    mesh = aval.sharding.mesh
    return not mesh.empty and jax.sharding.AxisType.Explicit in mesh.axis_types


def result_sharding(operator: Operator, a, b, spec: ConvSpec, out_sharding):
    """The sharding in the result's type: the requested one, or the one implied by the operands.

    The implied sharding needs no communication except the sum of a filter gradient over devices:
    batch and spatial axes keep the activation's sharding and features the kernel's; depthwise
    features, which are not summed over, may keep the activation's too. Anything else is ambiguous
    and raises an error.
    """
    if out_sharding is not None:
        return out_sharding
    mesh = a.sharding.mesh if b.sharding.mesh.empty else b.sharding.mesh
    rank = len(spec.result_shape(operator))
    if mesh.empty or (_unsharded(a) and _unsharded(b)):
        return compat.named_sharding(mesh, (None,) * rank)
    partitions = _result_partitions(operator, _partitions(a), _partitions(b), spec)
    _check(operator, a, b, mesh, partitions, spec.result_shape(operator))
    return compat.named_sharding(mesh, partitions)


def _result_partitions(operator: Operator, a: tuple, b: tuple, spec: ConvSpec) -> tuple | None:
    """Examples keep their sharding: each is a convolution of its own."""
    lead = len(spec.leading)
    partitions = _RULES[operator](a[lead:], b[lead:], spec)
    examples = (x or y for x, y in zip(a[:lead], b[:lead], strict=True))
    return None if partitions is None else (*examples, *partitions)


def _partitions(aval) -> tuple:
    spec = tuple(aval.sharding.spec)
    return spec + (None,) * (aval.ndim - len(spec))


def _unsharded(aval) -> bool:
    return not any(_partitions(aval))


def _conv(x, kernel, spec):
    summed = kernel[:-1] if spec.depthwise else (x[-1], *kernel[:-1])
    features = kernel[-1] or (x[-1] if spec.depthwise else None)
    return None if any(summed) else (*x[:-1], features)


def _input_grad(g, kernel, spec):
    summed = kernel[:-2] if spec.depthwise else (g[-1], kernel[-1], *kernel[:-2])
    features = (kernel[-1] or g[-1]) if spec.depthwise else kernel[-2]
    return None if any(summed) else (*g[:-1], features)


def _filter_grad(x, g, spec):
    features = (x[-1] or g[-1]) if spec.depthwise else g[-1]
    inner = None if spec.depthwise or spec.groups > 1 else x[-1]
    return (*(None,) * spec.rank, inner, features)


_RULES = {
    Operator.CONV: _conv,
    Operator.INPUT_GRAD: _input_grad,
    Operator.FILTER_GRAD: _filter_grad,
}


def _check(operator: Operator, a, b, mesh, partitions, shape) -> None:
    types = (
        f"{jax.typeof(a)} and {jax.typeof(b)}" if not hasattr(a, "str_short") else f"{a} and {b}"
    )
    if partitions is None:
        raise ValueError(
            f"{operator.value}: an axis that is summed over is sharded, so the sharding of the "
            f"result is ambiguous; reshard the operands first. Got {types}"
        )
    used = [axis for entry in partitions if entry for axis in _axes(entry)]
    if len(used) != len(set(used)):
        raise ValueError(
            f"{operator.value}: the same mesh axis would shard two axes of the result, "
            f"{partitions}; reshard an operand first. Got {types}"
        )
    for size, entry in zip(shape, partitions, strict=True):
        parts = 1
        for axis in _axes(entry):
            parts *= mesh.shape[axis]
        if size % parts:
            raise ValueError(
                f"{operator.value}: an axis of size {size} of the result cannot be split into "
                f"{parts} equal shards over {entry}; reshard the operands first. Got {types}"
            )


def _axes(entry) -> tuple:
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)
