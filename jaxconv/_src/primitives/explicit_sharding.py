"""The types that meshes add to arrays: varying axes under ``shard_map``, and explicit shardings."""

from __future__ import annotations

import jax
from jax import lax

from .. import compat
from ..geometry.spec import ConvSpec, Operator


def match_varying(a, b):
    """Casts the operand that varies over fewer manual mesh axes, so that both types agree."""
    over_a, over_b = compat.varying_axes(a), compat.varying_axes(b)
    if over_a == over_b:
        return a, b
    return _cast(a, over_b - over_a), _cast(b, over_a - over_b)


def _cast(x, axes):
    return lax.pcast(x, tuple(axes), to="varying") if axes else x


def result_sharding(operator: Operator, a, b, spec: ConvSpec, out_sharding):
    """The sharding in the result's type: the one asked for, or the one that follows.

    What follows is what needs no communication but the reduction of a filter gradient: batch and
    spatial axes keep the activation's partition, features the kernel's; depthwise features, which
    are never summed over, the activation's as well. Anything else is ambiguous and refused.
    """
    if out_sharding is not None:
        return out_sharding
    mesh = a.sharding.mesh if b.sharding.mesh.empty else b.sharding.mesh
    rank = len(spec.result_shape(operator))
    if mesh.empty or (_unsharded(a) and _unsharded(b)):
        return compat.named_sharding(mesh, (None,) * rank)
    partitions = _RULES[operator](_partitions(a), _partitions(b), spec)
    _check(operator, a, b, mesh, partitions, spec.result_shape(operator))
    return compat.named_sharding(mesh, partitions)


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
    given = (
        f"{jax.typeof(a)} and {jax.typeof(b)}" if not hasattr(a, "str_short") else f"{a} and {b}"
    )
    if partitions is None:
        raise ValueError(
            f"{operator.value}: an axis that is summed over is sharded, so the result's sharding "
            f"is ambiguous; reshard the operands first. Got {given}"
        )
    used = [axis for entry in partitions if entry for axis in _axes(entry)]
    if len(used) != len(set(used)):
        raise ValueError(
            f"{operator.value}: one mesh axis would shard two axes of the result, {partitions}; "
            f"reshard an operand first. Got {given}"
        )
    for size, entry in zip(shape, partitions, strict=True):
        parts = 1
        for axis in _axes(entry):
            parts *= mesh.shape[axis]
        if size % parts:
            raise ValueError(
                f"{operator.value}: the result's extent {size} does not divide into {parts} shards "
                f"over {entry}; reshard the operands first. Got {given}"
            )


def _axes(entry) -> tuple:
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)
