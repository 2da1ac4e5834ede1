"""Convolutions over space or time that is cut over devices, for use inside ``jax.shard_map``.

A jit over several devices cuts convolutions by itself; this is for programs that say themselves
what runs where. Every device holds one shard of an axis, gets from its neighbours the entries that
its outputs read besides its own, and convolves. All of it can be differentiated to any order.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import lax

from ..geometry import checks, resolve
from ..geometry.padding import PaddingLike
from ..geometry.resolve import ResolvedConv
from ..geometry.spec import Operator
from ..primitives.call import add_bias, apply, options
from ..primitives.explicit_sharding import match_varying
from ..spmd import halo
from ..spmd.interior import Line, Local
from ..spmd.shard import forward_window, in_blocks, replaced, side

Array = jax.Array


def halo_exchange(
    x: Array, axis: int, axis_name: str, *, low: int = 0, high: int = 0, circular: bool = False
) -> Array:
    """One shard of an axis with the entries around it that other devices hold.

    With the shards of all ``P`` devices joined to ``z`` of ``P*n`` entries, device ``p`` gets

        z[p*n - low], …, z[(p+1)*n - 1 + high]

    where what lies outside of ``z`` is zero, or wraps around. Just these entries are sent, by one
    collective permute from each shard that holds some of them.

    Args:
        x: This device's shard, any shape and dtype.
        axis: The axis of ``x`` that is cut; negative counts from the end.
        axis_name: The mesh axis that it is cut over.
        low, high: Entries before and after, ints from 0 to ``P*n``; more than ``n`` come from
            several neighbours.
        circular: Whether the axis wraps around.

    Returns:
        As ``x``, with ``low + n + high`` entries on ``axis``.

    Raises:
        ValueError: There is no such axis, of ``x`` or of the mesh, or ``low`` or ``high`` is out of
            range.
        TypeError: ``x`` is not an array.

    >>> import jax, jax.numpy as jnp
    >>> from jax.sharding import PartitionSpec as P
    >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("w",))
    >>> exchange = lambda x: halo_exchange(x, 0, "w", low=2, circular=True)
    >>> jax.shard_map(exchange, mesh=mesh, in_specs=P("w"), out_specs=P("w"))(jnp.arange(4.0))
    Array([2., 3., 0., 1., 2., 3.], dtype=float32)

    Source: none; halo exchange is common practice for stencils.
    """
    x = checks.array("halo_exchange", "x", x)
    call = checks.Call("halo_exchange", x=x.shape)
    if not isinstance(axis, int) or not -x.ndim <= axis < x.ndim:
        raise call.error(f"axis must be one of x's {x.ndim} axes, but got {axis}")
    axis %= x.ndim
    shards = _shards(call, axis_name)
    for name, width in (("low", low), ("high", high)):
        checks.integer(call, name, width, minimum=0)
        if width > shards * x.shape[axis]:
            raise call.error(
                f"{name} must not be more than the {shards} shards of mesh axis {axis_name!r} "
                f"hold, {shards} * {x.shape[axis]} = {shards * x.shape[axis]}, but got {width}; "
                f"pad the whole array for a wider border"
            )
    return halo.extended(x, axis, axis_name, shards, low, high, circular)


def conv(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    axis_names: str | Sequence[str | tuple[str, ...] | None],
    strides: Any = 1,
    padding: PaddingLike = "SAME",
    dilation: Any = 1,
    groups: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    implementation: str | None = None,
) -> Array:
    """This device's part of ``jaxconv.conv`` of an array that is cut over space.

    Args:
        x: This device's shard of ``[N, *S, C]``.
        kernel, bias: As in ``jaxconv.conv``, whole.
        axis_names: For each spatial axis the mesh axis that it is cut over, or None; for one
            spatial axis the name alone will do.
        strides, dilation, groups, precision, preferred_element_type, implementation: As in
            ``jaxconv.conv``.
        padding: As in ``jaxconv.conv``, of the whole array; along an axis that is cut neither
            ``"REFLECT"`` nor ``"REPLICATE"``.

    Returns:
        This device's shard of the result, cut as ``x`` is.

    Raises:
        ValueError: As ``jaxconv.conv``; or there is no such mesh axis, or it is named twice, or the
            outputs do not divide by its size.
        TypeError: As ``jaxconv.conv``.

    >>> import functools, jax, jax.numpy as jnp, jaxconv
    >>> from jax.sharding import PartitionSpec as P
    >>> x, kernel = jnp.ones((2, 8, 6, 3)), jnp.ones((3, 3, 3, 4))
    >>> rows = P(None, "rows")
    >>> cut = functools.partial(jaxconv.sharding.conv, axis_names=("rows", None))
    >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("rows",))
    >>> y = jax.shard_map(cut, mesh=mesh, in_specs=(rows, P()), out_specs=rows)(x, kernel)
    >>> bool((y == jaxconv.conv(x, kernel)).all())
    True

    Source: N. Dryden et al., "Improving strong-scaling of CNN training by exploiting finer-grained
    parallelism" (2019).
    """
    return _conv(
        "sharding.conv",
        (x, kernel, bias),
        axis_names,
        (strides, padding, dilation, groups),
        (precision, preferred_element_type, implementation),
    )


def causal_conv(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    axis_name: str,
    strides: Any = 1,
    dilation: Any = 1,
    groups: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    implementation: str | None = None,
) -> Array:
    """This device's part of ``jaxconv.causal_conv`` of a sequence that is cut over time.

    Each device gets the ``(K-1)*dilation`` inputs before its own, and nothing from later ones.

    Args:
        x: This device's shard of ``[N, L, C]``.
        kernel, bias: As in ``jaxconv.causal_conv``, whole.
        axis_name: The mesh axis that time is cut over.
        strides, dilation, groups, precision, preferred_element_type, implementation: As in
            ``jaxconv.causal_conv``.

    Returns:
        This device's shard of the result.

    Raises:
        ValueError, TypeError: As ``jaxconv.causal_conv`` and ``conv`` of this module.

    >>> import functools, jax, jax.numpy as jnp, jaxconv
    >>> from jax.sharding import PartitionSpec as P
    >>> cut = functools.partial(jaxconv.sharding.causal_conv, axis_name="time")
    >>> mesh, time = jax.sharding.Mesh(jax.devices()[:1], ("time",)), P(None, "time")
    >>> mapped = jax.shard_map(cut, mesh=mesh, in_specs=(time, P()), out_specs=time)
    >>> mapped(jnp.arange(4.0).reshape(1, 4, 1), jnp.ones((2, 1, 1)))[0, :, 0]
    Array([0., 1., 3., 5.], dtype=float32)

    Source: A. van den Oord et al., "WaveNet: a generative model for raw audio" (2016).
    """
    call, (x, kernel), bias = checks.arrays(
        "sharding.causal_conv", axes=checks.CAUSAL_AXES, x=x, kernel=kernel, bias=bias
    )
    checks.causal_kernel(call, kernel.shape)
    return _conv(
        "sharding.causal_conv",
        (x, kernel, bias),
        axis_name,
        (strides, "CAUSAL", dilation, groups),
        (precision, preferred_element_type, implementation),
        axes=checks.CAUSAL_AXES,
    )


def _conv(
    function: str,
    arrays: Sequence,
    axis_names,
    placement: tuple,
    chosen: tuple,
    axes: Mapping[str, str] = checks.AXES,
) -> Array:
    x, kernel, bias = arrays
    call, (x, kernel), bias = checks.arrays(function, axes=axes, x=x, kernel=kernel, bias=bias)
    rank = checks.spatial_rank(call, kernel.ndim)
    checks.batched(call, "x", x.shape, rank)
    names = _names(call, axis_names, rank)
    x, kernel = match_varying(x, kernel)  # once: parts of the kernel's gradient are summed here
    unbatched = x.ndim == rank + 1
    x = x[None] if unbatched else x
    shards = [1 if name is None else _shards(call, name) for name in names]
    # An empty axis has nothing to exchange.
    names = [name if n else None for name, n in zip(names, x.shape[1:-1], strict=True)]
    spatial = (n * count for n, count in zip(x.shape[1:-1], shards, strict=True))
    whole = resolve.conv(call, (x.shape[0], *spatial, x.shape[-1]), kernel.shape, *placement)
    checks.bias(call, bias, whole.spec.out_features)
    cuts = {
        axis: (name, count)
        for axis, (name, count) in enumerate(zip(names, shards, strict=True))
        if name is not None
    }
    for axis, cut in cuts.items():
        _check_cut(call, whole, axis, *cut)
    applied = options(call, x.dtype, *chosen)
    convolve = functools.partial(_applied, whole, applied)
    lines = {axis: _line(whole, axis, cuts[axis][1]) for axis in cuts}
    way = _in_blocks if all(line.splits for line in lines.values()) else _in_windows
    y = add_bias(way(x, kernel, whole, lines, cuts, applied.dtype or x.dtype, convolve), bias)
    return y[0] if unbatched else y


def _in_blocks(x, kernel, whole: ResolvedConv, lines: Mapping[int, Line], cuts, dtype, convolve):
    """The shard convolved as it is, and the halos' part added at its borders."""
    sides = {
        axis: side(line, cuts[axis][0], cuts[axis][1], whole.borders[axis] is not None)
        for axis, line in lines.items()
    }
    return in_blocks(Operator.CONV, lines, sides, x, kernel, dtype, convolve)


def _in_windows(x, kernel, whole: ResolvedConv, lines: Mapping[int, Line], cuts, dtype, convolve):
    """What this device's outputs read, joined to one array, convolved."""
    locals = {}
    for axis, (name, count) in cuts.items():
        window = forward_window(lines[axis], count)
        wrap = whole.borders[axis] is not None
        x = halo.window(x, axis + 1, name, window.starts, window.size, wrap)
        locals[axis] = window.local
    return convolve(locals, dtype, x, kernel)


def _line(whole: ResolvedConv, axis: int, parts: int) -> Line:
    """One device's part of an axis; the spec counts from the border's first entry."""
    line, border = Line.of(Operator.CONV, whole.spec, axis, parts), whole.borders[axis]
    if border is None:
        return line
    inputs, low = whole.spatial[axis] // parts, line.low + border.low
    return dataclasses.replace(line, inputs=inputs, low=low, pair=False)  # two neighbours


def _names(call: checks.Call, axis_names: Any, rank: int) -> tuple:
    names = (axis_names,) if isinstance(axis_names, str) else axis_names
    entry = f"one entry a spatial axis, {rank}, a mesh axis, a tuple of them or None"
    if not isinstance(names, Sequence) or len(names) != rank:
        raise call.error(f"axis_names must have {entry}, but got {names!r}")
    each = [(name,) if isinstance(name, str) else name for name in names if name is not None]
    if not all(isinstance(axes, tuple) and all(isinstance(a, str) for a in axes) for axes in each):
        raise call.error(f"axis_names must have {entry}, but got {names!r}")
    cut = [axis for axes in each for axis in axes]
    if len(set(cut)) < len(cut):
        raise call.error(
            f"a mesh axis cuts one spatial axis, but axis_names has one twice: {names!r}; name "
            f"another axis of the mesh, or None for an axis that is whole"
        )
    return tuple(names)


def _shards(call: checks.Call, name: str) -> int:
    try:
        return lax.axis_size(name)
    except NameError:
        raise call.error(
            f"there is no mesh axis {name!r} here; call it inside jax.shard_map over a mesh that "
            f"has this axis"
        ) from None


def _check_cut(call: checks.Call, whole: ResolvedConv, axis: int, name: str, shards: int) -> None:
    border, outputs = whole.borders[axis], whole.spec.output_spatial[axis]
    if border is not None and border.mode != "wrap":
        raise call.error(
            f'spatial axis {axis} is cut over mesh axis {name!r}, and padding "REFLECT" and '
            f'"REPLICATE" are for axes that are not; use "CIRCULAR" or zeros'
        )
    if outputs % shards:
        raise call.error(
            f"the outputs must divide over mesh axis {name!r}, but on spatial axis {axis} there "
            f"are {outputs} for {shards} devices; change the padding, such as to "
            f'"SAME", or the extent'
        )


def _applied(whole: ResolvedConv, chosen, locals: Mapping[int, Local], dtype, x, kernel) -> Array:
    """The convolution of a part of the array, with those extents of the axes that are cut."""
    local = dataclasses.replace(
        whole,
        spec=replaced(whole.spec, locals),
        borders=tuple(None if i in locals else b for i, b in enumerate(whole.borders)),
        spatial=tuple(x.shape[1:-1]),
        batched=True,
    )
    return apply(Operator.CONV, x, kernel, local, dataclasses.replace(chosen, dtype=dtype))
