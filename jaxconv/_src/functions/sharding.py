"""Convolutions over sharded space or time, for use inside ``jax.shard_map``.

A jit over several devices partitions convolutions by itself; these functions are for programs that
state themselves what runs on which device. Each device holds one shard of an axis, receives from
its neighbors the entries that its outputs read besides its own, and convolves. All of them can be
differentiated to any order.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..geometry import checks, resolve
from ..geometry.padding import PaddingLike
from ..geometry.resolve import ResolvedConv
from ..geometry.spec import Operator
from ..geometry.types import ImplementationName, Ints
from ..keywords import checks_keywords
from ..primitives.call import Options, Window, add_bias, apply, options
from ..primitives.explicit_sharding import match_varying
from ..spmd.halo import with_halo
from ..spmd.shard_axis import AxisSharding, LocalGeometry, ShardAxis, with_local_geometry
from ..spmd.spatial_shard import compute_spatial_shard

Array = jax.Array


@checks_keywords("sharding.halo_exchange")
def halo_exchange(
    x: ArrayLike, axis: int, axis_name: str, *, low: int = 0, high: int = 0, circular: bool = False
) -> Array:
    """Extends this device's shard of an axis with entries of the neighboring shards.

    Let ``z`` be the concatenation of the shards of all ``P`` devices, with ``P*n`` entries. Device
    ``p`` gets

        z[p*n - low], …, z[(p+1)*n - 1 + high]

    where entries outside ``z`` are zero, or wrap around. Only these entries are sent, by one
    collective permute from each shard that holds some of them.

    Args:
        x: This device's shard, of any shape and dtype.
        axis: The sharded axis of ``x``; negative values count from the end.
        axis_name: The mesh axis over which it is sharded.
        low: Number of entries to add before the shard, from 0 to ``P*n``. More than ``n`` come
            from several neighbors.
        high: Number of entries to add after the shard, in the same range.
        circular: Whether the axis wraps around.

    Returns:
        An array like ``x``, with ``low + n + high`` entries on ``axis``.

    Raises:
        ValueError: If ``x`` or the mesh has no such axis, or ``low`` or ``high`` is out of range.
        TypeError: If ``x`` is not an array.

    >>> import jax, jax.numpy as jnp
    >>> from jax.sharding import PartitionSpec as P
    >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("w",))
    >>> exchange = lambda x: halo_exchange(x, 0, "w", low=2, circular=True)
    >>> jax.shard_map(exchange, mesh=mesh, in_specs=P("w"), out_specs=P("w"))(jnp.arange(4.0))
    Array([2., 3., 0., 1., 2., 3.], dtype=float32)

    Source: none; halo exchange is common practice for stencils.
    """
    shard = checks.array("halo_exchange", "x", x)
    call = checks.Call("halo_exchange", x=shard.shape)
    axis = _axis(call, axis, shard.ndim)
    shards, n = _shards(call, axis_name), shard.shape[axis]
    circular = checks.flag(call, "circular", circular)
    for name, width in (("low", low), ("high", high)):
        checks.integer(call, name, width, minimum=0)
        if width > shards * n:
            raise call.error(
                f"{name} must be at most the number of entries on mesh axis {axis_name!r}, "
                f"{shards} shards * {n} = {shards * n}, but got {width}; to extend the array "
                f"further, pad it before it is sharded"
            )
    return with_halo(shard, axis, axis_name, shards, low, high, circular)


@checks_keywords("sharding.conv")
def conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    axis_names: str | Sequence[str | tuple[str, ...] | None],
    strides: Ints = 1,
    padding: PaddingLike = "SAME",
    dilation: Ints = 1,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> Array:
    """``jaxconv.conv`` of an array whose spatial axes are sharded.

    Args:
        x: This device's shard of an array ``[N, *S, C]``.
        kernel, bias: As in ``jaxconv.conv``, not sharded.
        axis_names: For each spatial axis the mesh axis over which it is sharded, a tuple of mesh
            axes, or None. With one spatial axis, the name alone is accepted.
        strides, dilation, groups, precision, preferred_element_type, implementation: As in
            ``jaxconv.conv``.
        padding: As in ``jaxconv.conv``, for the whole array. ``"REFLECT"`` and ``"REPLICATE"`` are
            not supported on a sharded axis.

    Returns:
        This device's shard of the result, sharded like ``x``.

    Raises:
        ValueError: As ``jaxconv.conv``; or if a mesh axis does not exist or is named twice, or if
            its size does not divide the output extent.
        TypeError: As ``jaxconv.conv``.

    >>> import functools, jax, jax.numpy as jnp, jaxconv
    >>> from jax.sharding import PartitionSpec as P
    >>> x, kernel = jnp.ones((2, 8, 6, 3)), jnp.ones((3, 3, 3, 4))
    >>> rows = P(None, "rows")
    >>> conv = functools.partial(jaxconv.sharding.conv, axis_names=("rows", None))
    >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("rows",))
    >>> y = jax.shard_map(conv, mesh=mesh, in_specs=(rows, P()), out_specs=rows)(x, kernel)
    >>> bool((y == jaxconv.conv(x, kernel)).all())
    True

    Source: N. Dryden et al., "Improving strong-scaling of CNN training by exploiting finer-grained
    parallelism" (2019).
    """
    call, (x, kernel), bias = checks.arrays("sharding.conv", x=x, kernel=kernel, bias=bias)
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    window = Window(strides, padding, dilation, groups)
    return _conv(call, x, kernel, bias, axis_names, window, keywords)


@checks_keywords("sharding.causal_conv")
def causal_conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    axis_name: str,
    strides: Ints = 1,
    dilation: Ints = 1,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> Array:
    """``jaxconv.causal_conv`` of a sequence that is sharded over time.

    Each device receives the ``(K-1)*dilation`` inputs before its own, and none after.

    Args:
        x: This device's shard of an array ``[N, L, C]``.
        kernel, bias: As in ``jaxconv.causal_conv``, not sharded.
        axis_name: The mesh axis over which time is sharded.
        strides, dilation, groups, precision, preferred_element_type, implementation: As in
            ``jaxconv.causal_conv``.

    Returns:
        This device's shard of the result.

    Raises:
        ValueError, TypeError: As ``jaxconv.causal_conv`` and ``jaxconv.sharding.conv``.

    >>> import functools, jax, jax.numpy as jnp, jaxconv
    >>> from jax.sharding import PartitionSpec as P
    >>> conv = functools.partial(jaxconv.sharding.causal_conv, axis_name="time")
    >>> mesh, time = jax.sharding.Mesh(jax.devices()[:1], ("time",)), P(None, "time")
    >>> mapped = jax.shard_map(conv, mesh=mesh, in_specs=(time, P()), out_specs=time)
    >>> mapped(jnp.arange(4.0).reshape(1, 4, 1), jnp.ones((2, 1, 1)))[0, :, 0]
    Array([0., 1., 3., 5.], dtype=float32)

    Source: A. van den Oord et al., "WaveNet: a generative model for raw audio" (2016).
    """
    call, (x, kernel), bias = checks.arrays(
        "sharding.causal_conv", axes=checks.CAUSAL_AXES, x=x, kernel=kernel, bias=bias
    )
    checks.causal_kernel(call, kernel.shape)
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    window = Window(strides, "CAUSAL", dilation, groups)
    return _conv(call, x, kernel, bias, axis_name, window, keywords)


MeshAxes = str | tuple[str, ...]


def _conv(
    call: checks.Call,
    x: Array,
    kernel: Array,
    bias: Array | None,
    axis_names: str | Sequence[MeshAxes | None],
    window: Window,
    keywords: Options,
) -> Array:
    rank = checks.spatial_rank(call, kernel.ndim)
    checks.batched(call, "x", x.shape, rank)
    names = _names(call, axis_names, rank)
    if x.ndim == rank + 1:
        return _conv(call, x[None], kernel, bias, axis_names, window, keywords)[0]
    shards = [1 if name is None else _shards(call, name) for name in names]
    extents = (n * count for n, count in zip(x.shape[1:-1], shards, strict=True))
    resolved = resolve.conv(call, (x.shape[0], *extents, x.shape[-1]), kernel.shape, *window)
    checks.bias(call, bias, resolved.spec.out_features)
    shardings = {
        axis: AxisSharding(name, count, wrap=resolved.borders[axis] is not None)
        for axis, (name, count) in enumerate(zip(names, shards, strict=True))
        if name is not None and x.shape[axis + 1]  # an empty axis has nothing to exchange
    }
    for axis, sharding in shardings.items():
        _check_sharding(call, resolved, axis, sharding)
    x, kernel = match_varying(x, kernel)  # here, so that the kernel's gradient is summed once
    y: Array = compute_spatial_shard(
        Operator.CONV,
        {axis: _shard_axis(resolved, axis, sharding) for axis, sharding in shardings.items()},
        shardings,
        x,
        kernel,
        keywords.dtype or x.dtype,
        functools.partial(_convolve, resolved, keywords),
    )
    return add_bias(y, bias)


def _names(call: checks.Call, axis_names: Any, rank: int) -> tuple[MeshAxes | None, ...]:
    """The mesh axes of each spatial axis, checked."""
    names: Any = (axis_names,) if isinstance(axis_names, str) else axis_names
    mesh_axes = _mesh_axes(names)
    if mesh_axes is None or len(names) != rank:
        raise call.error(
            f"axis_names must have one entry per spatial axis ({rank}): a mesh axis, a tuple of "
            f"mesh axes, or None; but got {checks.shown(axis_names)}"
        )
    if len(set(mesh_axes)) < len(mesh_axes):
        raise call.error(
            f"axis_names must name each mesh axis at most once, but got "
            f"{checks.shown(axis_names)}; name another mesh axis, or None for a spatial axis that "
            f"is not sharded"
        )
    return tuple(names)


def _mesh_axes(names: Any) -> list[str] | None:
    """All mesh axes in a sequence of names, tuples of names and None; None if it is no such one."""
    sequence = checks.sequence(names)
    if sequence is None:
        return None
    each = [(name,) if isinstance(name, str) else name for name in sequence if name is not None]
    if not all(isinstance(axes, tuple) for axes in each):
        return None
    mesh_axes = [axis for axes in each for axis in axes]
    return mesh_axes if all(isinstance(axis, str) for axis in mesh_axes) else None


def _axis(call: checks.Call, axis: Any, rank: int) -> int:
    """The number of an axis of x, counted from the start."""
    number = checks.index(axis)
    if number is None or not -rank <= number < rank:
        raise call.error(
            f"axis must be an int from {-rank} to {rank - 1}, one of x's {rank} axes, "
            f"but got {checks.shown(axis)}"
        )
    return number % rank


def _shards(call: checks.Call, name: Any) -> int:
    try:
        return lax.axis_size(name)
    except Exception:  # NameError, or another one where the name is none
        raise call.error(
            f"there is no mesh axis {checks.shown(name)} here; call the function inside "
            f"jax.shard_map over a mesh that has this axis"
        ) from None


def _check_sharding(
    call: checks.Call, resolved: ResolvedConv, axis: int, sharding: AxisSharding
) -> None:
    border, outputs = resolved.borders[axis], resolved.spec.output_spatial[axis]
    name, shards, _ = sharding
    if border is not None and border.mode != "wrap":
        raise call.error(
            f'padding "REFLECT" and "REPLICATE" are not supported on a sharded axis, but spatial '
            f'axis {axis} is sharded over mesh axis {name!r}; use "CIRCULAR" or zero padding'
        )
    if outputs % shards:
        raise call.error(
            f"mesh axis {name!r} must divide the output extent of spatial axis {axis}, but there "
            f"are {outputs} outputs for {shards} devices; change the padding (for example to "
            f'"SAME") or the extent'
        )


def _shard_axis(resolved: ResolvedConv, axis: int, sharding: AxisSharding) -> ShardAxis:
    """One shard of an axis. The spec of a circular axis counts from the border's first entry, but
    the shards have no border."""
    shard = ShardAxis.of(Operator.CONV, resolved.spec, axis, sharding.shards)
    border = resolved.borders[axis]
    if border is None:
        return shard
    # Around a circular axis each of two shards has two neighbors, both of them the other shard.
    inputs, low = resolved.spatial[axis] // sharding.shards, shard.low + border.low
    return dataclasses.replace(shard, inputs=inputs, low=low, two_shards=False)


def _convolve(
    resolved: ResolvedConv,
    keywords: Options,
    geometry: Mapping[int, LocalGeometry],
    dtype: Any,
    x: Array,
    kernel: Array,
) -> Array:
    """The convolution of a part of the array, with this local geometry of the sharded axes."""
    local = dataclasses.replace(
        resolved,
        spec=with_local_geometry(resolved.spec, geometry),
        borders=tuple(None if i in geometry else b for i, b in enumerate(resolved.borders)),
        spatial=tuple(x.shape[1:-1]),
        batched=True,
    )
    return apply(Operator.CONV, x, kernel, local, dataclasses.replace(keywords, dtype=dtype))
