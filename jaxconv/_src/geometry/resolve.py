"""From the arguments of one call to a checked ``ConvSpec``; cached by value for eager calls."""

from __future__ import annotations

import dataclasses

from ..caching import cached_by_value
from . import padding as paddings
from .checks import (
    SPATIAL,
    Call,
    batched,
    group_count,
    known,
    layout_hint,
    per_axis,
    sizes,
    spatial_rank,
    warn_of_kernel,
)
from .checks.call import shown
from .checks.sizes import elements, sequence
from .padding import Border, PaddingError
from .spec import ConvSpec, Shape, effective_extent, transposed_extent


@dataclasses.dataclass(frozen=True)
class ResolvedConv:
    """Everything static about one call: the spec, the borders to materialize, the batch axis.

    ``spec`` describes the convolution of the input with its borders; ``spatial`` are the extents of
    the input without them.
    """

    spec: ConvSpec
    borders: tuple[Border | None, ...]
    spatial: Shape
    batched: bool

    @property
    def bordered(self) -> bool:
        return any(self.borders)


def _spec(
    call: Call, x_shape: Shape, kernel_shape: Shape, strides, padding, dilation, groups
) -> tuple[ConvSpec, tuple[Border | None, ...]]:
    """The spec of a forward convolution of a batched ``x_shape``, every relation checked."""
    rank = spatial_rank(call, len(kernel_shape))
    strides = per_axis(call, "strides", strides, rank)
    dilation = per_axis(call, "dilation", dilation, rank)
    groups = group_count(call, groups, kernel_shape[-1])
    spatial, kernel_spatial = tuple(x_shape[1:-1]), tuple(kernel_shape[:-2])
    try:
        resolved = paddings.resolve(padding, spatial, kernel_spatial, strides, dilation)
    except PaddingError as error:
        raise call.error(str(error)) from None
    _check_features(call, x_shape[-1], kernel_shape[-2], kernel_shape[-1], groups)
    _check_borders(call, spatial, resolved.borders)
    spec = ConvSpec(
        batch=x_shape[0],
        in_features=x_shape[-1],
        out_features=kernel_shape[-1],
        input_spatial=resolved.bordered(spatial),
        kernel_spatial=kernel_spatial,
        strides=strides,
        padding=resolved.pairs,
        dilation=dilation,
        groups=groups,
    )
    _check_fit(call, spec)
    _check_elements(call, spec)
    return _without_idle_steps(spec), resolved.borders


def _check_features(call: Call, in_features, group_in, out_features, groups: int) -> None:
    if not known(in_features, group_in) or in_features == group_in * groups:
        return
    hint = layout_hint(call, groups)
    if "G" not in call.last_axes("kernel")[0]:  # a function without groups
        raise call.error(
            f"x's channels must equal the kernel's, but {in_features} != {group_in}{hint}"
        )
    if hint:
        fix = hint.removeprefix("; ")
    elif (
        group_in
        and in_features
        and in_features % group_in == 0
        and out_features % (in_features // group_in) == 0
    ):
        fix = f"groups={in_features // group_in} would make them equal"
    elif groups and in_features % groups == 0:
        fix = f"a kernel for groups={groups} has C/G = {in_features // groups}"
    else:
        fix = "kernels are laid out as [*K, C/G, F] and arrays are channels-last"
    raise call.error(
        f"x's channels must equal the kernel's C/G * groups, but {in_features} != "
        f"{group_in} * {groups} = {group_in * groups}; {fix}"
    )


def _check_borders(call: Call, spatial: Shape, borders: tuple[Border | None, ...]) -> None:
    for axis, (n, border) in enumerate(zip(spatial, borders, strict=True)):
        if border is None or not known(n) or n == 0:
            continue
        limit = {"wrap": n, "reflect": n - 1}.get(border.mode)
        if limit is not None and border.high > limit:
            name = {"wrap": "CIRCULAR", "reflect": "REFLECT"}[border.mode]
            raise call.error(
                f'padding "{name}" of spatial axis {axis} needs {border.high} pixels, but an '
                f"extent of {n} provides at most {limit}; use a smaller kernel or dilation"
            )


def _check_fit(call: Call, spec: ConvSpec) -> None:
    axes = zip(spec.input_spatial, spec.padded_spatial, spec.effective_kernel, strict=True)
    for axis, (n, padded, extent) in enumerate(axes):
        if not known(n, padded, extent) or n == 0 or spec.kernel_spatial[axis] == 0:
            continue
        if padded < extent:
            low, high = spec.padding[axis]
            raise call.error(
                f"the kernel must fit into the padded input, but on spatial axis {axis} it spans "
                f"d*(k-1) + 1 = {extent} pixels and the input has {n} + {low} + {high} = {padded}; "
                f"use a smaller kernel or dilation, or more padding{layout_hint(call, spec.groups)}"
            )


def _check_elements(call: Call, spec: ConvSpec) -> None:
    elements(call, "the input", spec.input_shape)
    elements(call, "the padded input", (spec.batch, *spec.padded_spatial, spec.in_features))
    elements(call, "the kernel", spec.kernel_shape)
    elements(call, "the output", spec.output_shape)


def _without_idle_steps(spec: ConvSpec) -> ConvSpec:
    """The same convolution with strides of at most the padded input, and no dilation of one tap.

    A longer stride has a single output too, but plain XLA would pad the input to a multiple of it.
    """
    axes = list(
        zip(spec.padded_spatial, spec.kernel_spatial, spec.strides, spec.dilation, strict=True)
    )
    strides = tuple(padded if known(padded) and 0 < padded < s else s for padded, _, s, _ in axes)
    dilation = tuple(1 if known(k) and k == 1 else d for _, k, _, d in axes)
    if (strides, dilation) == (spec.strides, spec.dilation):
        return spec
    return spec.replace(strides=strides, dilation=dilation)


@cached_by_value
def conv(call: Call, x_shape, kernel_shape, strides, padding, dilation, groups) -> ResolvedConv:
    """``conv``, and every function that is one convolution."""
    shape = batched(call, "x", x_shape, spatial_rank(call, len(kernel_shape)))
    spec, borders = _spec(call, shape, kernel_shape, strides, padding, dilation, groups)
    if "kernel" in dict(call[1:]):
        warn_of_kernel(call)  # once for each kind of call, because the result is cached
    return ResolvedConv(spec, borders, tuple(shape[1:-1]), len(x_shape) == len(shape))


@cached_by_value
def input_grad(
    call: Call, g_shape, kernel_shape, input_spatial, strides, padding, dilation, groups
) -> ResolvedConv:
    """``conv_input_grad``: the convolution whose output ``g`` is the cotangent of."""
    rank = spatial_rank(call, len(kernel_shape))
    shape = batched(call, "g", g_shape, rank)
    spatial = sizes(call, "input_spatial", input_spatial, rank)
    count = group_count(call, groups, kernel_shape[-1])
    x_shape = (shape[0], *spatial, kernel_shape[-2] * count)
    spec, borders = _spec(call, x_shape, kernel_shape, strides, padding, dilation, groups)
    hint = "" if shape[-1] == kernel_shape[-1] else layout_hint(call, count, x="g")
    _check_cotangent(call, shape, spec, hint)
    warn_of_kernel(call)
    return ResolvedConv(spec, borders, spatial, len(g_shape) == len(shape))


@cached_by_value
def filter_grad(
    call: Call, x_shape, g_shape, kernel_spatial, strides, padding, dilation, groups
) -> ResolvedConv:
    """``conv_filter_grad``: the convolution whose output ``g`` is the cotangent of."""
    entries = sequence(kernel_spatial)
    rank = 1 if entries is None else len(entries)
    if rank not in SPATIAL:
        raise call.error(
            f"kernel_spatial must have 1 to 3 extents, but got {shown(kernel_spatial)}"
        )
    extents = sizes(call, "kernel_spatial", kernel_spatial, rank)
    x_batched = batched(call, "x", x_shape, rank)
    g_batched = batched(call, "g", g_shape, rank)
    if len(x_shape) != len(g_shape):
        raise call.error("x and g must both have a batch axis, or neither may have one")
    count = group_count(call, groups, g_shape[-1])
    if known(x_shape[-1]) and x_shape[-1] % count:
        raise call.error(
            f"the number of channels must be a multiple of groups, but C % groups = {x_shape[-1]} "
            f"% {count} = {x_shape[-1] % count}"
        )
    kernel_shape = (*extents, x_shape[-1] // count, g_shape[-1])
    spec, borders = _spec(call, x_batched, kernel_shape, strides, padding, dilation, groups)
    _check_cotangent(call, g_batched, spec)
    return ResolvedConv(spec, borders, tuple(x_batched[1:-1]), len(x_shape) == len(x_batched))


def _check_cotangent(call: Call, g_shape: Shape, spec: ConvSpec, hint: str = "") -> None:
    pairs = zip(g_shape, spec.output_shape, strict=True)
    if any(known(got, wanted) and got != wanted for got, wanted in pairs):
        raise call.error(
            f"g must have the shape of the convolution's output, [N, *O, F] = {spec.output_shape}, "
            f"but got {tuple(g_shape)}; pass the strides, padding, dilation and groups of that "
            f"convolution{hint}"
        )


@cached_by_value
def transpose(
    call: Call, x_shape, kernel_shape, strides, padding, output_padding, dilation, groups
) -> ResolvedConv:
    """``conv_transpose``: the convolution whose adjoint it is.

    That convolution reads what the transposed one returns. Its high padding is reduced by the
    output padding, so that its output has exactly the extent of ``x`` even when
    ``stride <= output_padding < dilation``.
    """
    rank = spatial_rank(call, len(kernel_shape))
    shape = batched(call, "x", x_shape, rank)
    if known(shape[-1], kernel_shape[-1]) and shape[-1] != kernel_shape[-1]:
        raise call.error(
            f"x's channels must equal the kernel's last axis, but {shape[-1]} != "
            f"{kernel_shape[-1]}; the kernel has the forward convolution's layout, [*K, F/G, C]"
            f"{layout_hint(call)}"
        )
    strides = per_axis(call, "strides", strides, rank)
    dilation = per_axis(call, "dilation", dilation, rank)
    extra = per_axis(call, "output_padding", output_padding, rank, minimum=0)
    count = group_count(call, groups, kernel_shape[-1])
    try:
        entries = paddings.axis_entries(padding, rank)
    except PaddingError as error:
        raise call.error(str(error)) from None
    axes = zip(shape[1:-1], kernel_shape, strides, entries, dilation, extra, strict=False)
    resolved = [_transpose_axis(call, axis, *sizes) for axis, sizes in enumerate(axes)]
    spatial = tuple(extent for extent, _ in resolved)
    spec = ConvSpec(
        batch=shape[0],
        in_features=kernel_shape[-2] * count,
        out_features=shape[-1],
        input_spatial=spatial,
        kernel_spatial=tuple(kernel_shape[:-2]),
        strides=strides,
        padding=tuple(pair for _, pair in resolved),
        dilation=dilation,
        groups=count,
    )
    _check_elements(call, spec)
    spec = _without_idle_steps(spec)
    return ResolvedConv(spec, (None,) * rank, spatial, len(x_shape) == len(shape))


def _transpose_axis(call: Call, axis: int, n, k, s, entry, d, extra):
    """The output extent of one axis, and the padding of the forward convolution."""
    if isinstance(entry, str) and entry in paddings.BORDERS:
        raise call.error(
            f'padding "{entry}" is not supported, because its adjoint adds the border back onto '
            f"the input; use conv_input_grad, which does that, or zero padding"
        )
    if extra >= max(s, d):
        raise call.error(
            f"output_padding must be less than the stride or the dilation, but on spatial axis "
            f"{axis} it is {extra}, with stride {s} and dilation {d}"
        )
    if entry in ("SAME", "SAME_LOWER"):
        if extra:
            raise call.error(
                f'padding "{entry}" fixes the output extent at n*s and allows no output_padding, '
                f"but got {extra} on spatial axis {axis}; give the padding as (low, high) pairs"
            )
        extent = 0 if known(k) and k == 0 else n * s
        forward = paddings.resolve((entry,), (extent,), (k,), (s,), (d,))
        return extent, forward.pairs[0]
    low, high = paddings.resolve((entry,), (n,), (k,), (s,), (d,)).pairs[0]
    extent = transposed_extent(n, k, s, (low, high), d, extra)
    if known(extent, n, k) and n and k and extent < 1:
        raise call.error(
            f"padding leaves no output on spatial axis {axis}: (n-1)*s + d*(k-1) + 1 - low - high "
            f"+ output_padding = {(n - 1) * s} + {effective_extent(k, d)} - {low} - {high} + "
            f"{extra} = {extent}; use less padding"
        )
    return extent, (low, high - extra)
