"""What the modules of both Flax APIs compute, as functions of arrays, without importing Flax.

``module`` is any object with Flax's attributes: ``strides``, ``padding``, ``kernel_dilation``,
``precision``, ``preferred_element_type`` and others that single functions use.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..functions.causal import causal_conv, causal_conv_init, causal_conv_step
from ..functions.depthwise import depthwise_conv
from ..functions.pointwise import pointwise_conv
from ..functions.separable import separable_conv
from ..geometry import checks
from ..geometry.checks import AXES, Call
from ..geometry.padding import PaddingError, axis_entries
from ..geometry.spec import Pairs, Shape, effective_extent
from ..interop.conv_general_dilated import conv_general_dilated

Array = jax.Array
_TRANSPOSE_AXES = {**AXES, "kernel": "*K C F"}
_TRANSPOSED_KERNEL_AXES = {**AXES, "kernel": "*K F C"}


# --- arguments ------------------------------------------------------------------------------------


def positive(module: str, **sizes: Any) -> tuple[int, ...]:
    """The sizes as ints; raises an error if one is not a positive int."""
    return tuple(checks.integer(Call(module), name, size) for name, size in sizes.items())


def inputs(module: str, x: Any) -> Any:
    """``x`` if it is an array; as in Flax, other things are converted to one."""
    if isinstance(x, jax.Array | np.ndarray):
        return x
    try:
        return jnp.asarray(x)
    except Exception as error:  # depends on what it is
        raise TypeError(
            f"{module}: x must be an array (jax.Array or numpy.ndarray), but got "
            f"{type(x).__qualname__}, which cannot be converted: {error}"
        ) from None


def features(module: str, x: Any) -> int:
    """C of ``x [..., C]``."""
    shape = inputs(module, x).shape
    if not shape:
        raise ValueError(f"{module}: x must be [..., *S, C], but it is a scalar")
    positive(module, **{"the number of channels, x's last extent,": shape[-1]})
    return shape[-1]


def promoted(module: str, promote: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
    """The arrays that Flax's ``promote_dtype`` returns; its errors do not say where they arose."""
    try:
        return promote()
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{module}: inputs and parameters cannot be promoted to one dtype; pass dtype=, or "
            f"cast the inputs. {error}"
        ) from error


def kernel_size_is_int(kernel_size: Any) -> bool:
    """Whether a module convolves one axis because of an int, which may be meant for all of them."""
    return checks.index(kernel_size) is not None


def warn_of_images(module: Any, x: Any) -> None:
    """Warns if a module with an int as ``kernel_size`` gets what looks like images."""
    size: Any = module.kernel_size
    extent = checks.index(size)
    if extent is None and getattr(module, "kernel_size_is_int", False):
        (extent,) = size
    if extent is not None:
        checks.warn_of_images(type(module).__name__, tuple(np.shape(x)), extent)


def parameters(
    module: str, kernels: Mapping[str, Sequence[int]], use_bias: Any, dtype: Any, param_dtype: Any
) -> None:
    """Checks what decides the parameters of a module."""
    call = Call(module)
    checks.flag(call, "use_bias", use_bias)
    for name, value in (("dtype", dtype), ("param_dtype", param_dtype)):
        if value is not None:
            checks.inexact(call, name, value)
    for name, shape in kernels.items():
        checks.elements(call, name, tuple(shape), "check the sizes of the module")


def kernel_extents(module: str, kernel_size: Any, max_rank: int = 3) -> Shape:
    """``kernel_size`` as a tuple; as in Flax, an int is for one axis."""
    entries = checks.sequence(kernel_size)
    extents = (kernel_size,) if entries is None else entries
    if not 1 <= len(extents) <= max_rank:
        axes = f"1 to {max_rank} spatial axes" if max_rank > 1 else "one axis"
        raise ValueError(
            f"{module}: kernel_size must be an int or a sequence of ints for {axes}, but got "
            f"{checks.shown(kernel_size)}"
        )
    positive(module, **{f"kernel_size[{axis}]": extent for axis, extent in enumerate(extents)})
    return tuple(map(operator.index, extents))


def grouped_kernel(
    module: str, extents: Shape, in_features: int, out_features: int, groups: int
) -> Shape:
    """``[*K, C/G, F]``, if ``groups`` divides both C and F."""
    in_features, out_features, groups = positive(
        module, in_features=in_features, out_features=out_features, feature_group_count=groups
    )
    for name, features in (("in_features", in_features), ("out_features", out_features)):
        if features % groups:
            raise ValueError(
                f"{module}: {name} must be a multiple of feature_group_count, but {features} % "
                f"{groups} = {features % groups}"
            )
    return (*extents, in_features // groups, out_features)


def static(value: Any) -> Any:
    """``value`` with lists and arrays as tuples, so that a module can hold it as static data."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return tuple(map(static, value)) if isinstance(value, tuple | list) else value


def masked(kernel: Array, mask: Any) -> Array:
    """``kernel * mask``, which must have the same shape."""
    if mask is None:
        return kernel
    if mask.shape != kernel.shape:
        raise Call("ConvTranspose", kernel=kernel.shape).error(
            f"mask must have the kernel's shape, {kernel.shape}, but has {mask.shape}"
        )
    return kernel * mask


# --- Flax's convolution ---------------------------------------------------------------------------


def convolution(
    lhs: Array,
    rhs: Array,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    **options: Any,
) -> Array:
    """``conv_general_dilated`` as Flax's ``Conv`` calls it; errors are in terms of ``Conv``."""
    call = Call("Conv", x=lhs.shape, kernel=rhs.shape)
    rank = rhs.ndim - 2
    if lhs.ndim != rhs.ndim:
        raise call.error(f"x must be [..., *S, C] with {rank} spatial axes, as many as the kernel")
    _check_features(call, lhs.shape[-1], rhs.shape[-2], options.get("feature_group_count", 1))
    per_axis = {
        "strides": window_strides,
        "input_dilation": lhs_dilation,
        "kernel_dilation": rhs_dilation,
    }
    for name, value in per_axis.items():
        _per_axis(call, name, value, rank)
    if isinstance(padding, str) and padding.upper() not in ("SAME", "SAME_LOWER", "VALID"):
        raise call.error(
            f'padding must be "SAME", "SAME_LOWER", "VALID", "CIRCULAR", "CAUSAL", "REFLECT", an '
            f"int or (low, high) pairs, as in Flax's convolution, but got {padding!r}"
        )
    return conv_general_dilated(
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, **options
    )


def _check_features(call: Call, features: int, group_in: int, groups: int = 1) -> None:
    expected = group_in * groups
    if checks.known(features, expected) and features != expected:
        raise call.error(
            f"x must have C = {expected} channels, as the kernel, but has {features}"
            f"{checks.layout_hint(call, groups)}"
        )


# --- Flax's transposed convolution ----------------------------------------------------------------


def conv_transpose(module: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    """Flax's transposed convolution of ``x [..., *S, C]``; not the adjoint of its ``Conv``.

    It is a convolution at stride 1 of the input with ``s-1`` zeros between its pixels. The kernel
    is ``[*K, C, F]``, or a flipped ``[*K, F, C]`` with ``module.transpose_kernel``. Explicit
    padding applies to the dilated input, and ``"VALID"`` returns ``s*n`` pixels even if ``k < s``.
    """
    axes = _TRANSPOSED_KERNEL_AXES if module.transpose_kernel else _TRANSPOSE_AXES
    call = Call("ConvTranspose", axes, x=x.shape, kernel=kernel.shape)
    rank = kernel.ndim - 2
    if x.ndim <= rank:
        raise call.error(f"x must be [..., *S, C] with {rank} spatial axes, but has {x.ndim} axes")
    if module.transpose_kernel:
        kernel = jnp.flip(kernel, range(rank)).swapaxes(-1, -2)
    _check_features(call, x.shape[-1], kernel.shape[-2])
    y = _over_examples(lambda x: _transposed(call, module, x, kernel), x, rank)
    return y if bias is None else y + jnp.expand_dims(bias, range(y.ndim - 1))


def _transposed(call: Call, module: Any, x: Array, kernel: Array) -> Array:
    """The transposed convolution of ``x [N, *S, C]`` and an unflipped ``kernel [*K, C, F]``."""
    rank = kernel.ndim - 2
    strides = _per_axis(call, "strides", module.strides, rank)
    dilation = _per_axis(call, "kernel_dilation", module.kernel_dilation, rank)
    reaches = [effective_extent(k, d) - 1 for k, d in zip(kernel.shape, dilation, strict=False)]
    try:
        entries = axis_entries(module.padding, rank)
    except PaddingError as error:
        raise call.error(str(error)) from None
    axes = zip(entries, x.shape[1:], strides, reaches, strict=False)
    wraps, pairs = zip(*(_axis(call, module, *axis) for axis in axes), strict=True)
    if any(map(any, wraps)):
        x = jnp.pad(x, [(0, 0), *wraps, (0, 0)], mode="wrap")
    images = (0, rank + 1, *range(1, rank + 1))
    return conv_general_dilated(
        x,
        kernel,
        (1,) * rank,
        pairs,
        lhs_dilation=strides,
        rhs_dilation=dilation,
        dimension_numbers=lax.ConvDimensionNumbers(images, (rank + 1, rank, *range(rank)), images),
        **_options(module),
    )


def _per_axis(call: Call, name: str, value: Any, rank: int) -> Shape:
    """One positive int per axis; None means 1, as in Flax."""
    return checks.per_axis(call, name, 1 if value is None else value, rank)


def _axis(call: Call, module: Any, entry: Any, n: int, s: int, reach: int) -> Pairs:
    """How many pixels to repeat at each end of one axis, and the padding of the dilated axis."""
    match entry:
        case "SAME" | "VALID":
            return (0, 0), _named(entry, s, reach)
        case "CIRCULAR":
            return _circular(n, s, reach, module.transpose_kernel)
        case str():
            raise call.error(
                f'padding must be "SAME", "VALID", "CIRCULAR", an int or (low, high) pairs, as '
                f"in Flax's transposed convolution, but got {entry!r}"
            )
        case _:
            return (0, 0), entry


def _named(name: str, s: int, reach: int) -> tuple[int, int]:
    """``"SAME"`` or ``"VALID"`` padding of one axis as in ``lax.conv_transpose``.

    ``reach`` is ``d*(k-1)``.

    >>> _named("SAME", 2, 3), _named("VALID", 2, 0)
    ((2, 2), (0, 1))
    """
    if name == "VALID":
        return reach, s - 1 + max(reach + 1 - s, 0)
    total = reach + s - 1
    low = reach if s > reach else -(-total // 2)
    return low, total - low


def _circular(n: int, s: int, reach: int, transposed: bool) -> Pairs:
    """``"CIRCULAR"`` padding of one axis: the pixels to repeat, and the padding.

    ``"VALID"`` returns ``max(d*(k-1) + 1 - s, 0)`` pixels more than the period ``n*s``. Flax wraps
    them around, half at each end; an odd one at the end, or at the beginning if the kernel is
    transposed. So output ``o`` reads the periodic input from ``o - low`` on.
    """
    if n == 0:
        return (0, 0), (0, 0)
    low = reach - (max(reach + 1 - s, 0) + transposed) // 2
    last = n * s - 1 + reach - low  # the last dilated position that the last output reads
    before, after = -(-low // s), last // s - (n - 1)
    return (before, after), (low - before * s, last - (n - 1 + after) * s)


# --- what each module computes --------------------------------------------------------------------


def depthwise(module: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    return _over_examples(
        lambda x: depthwise_conv(x, kernel, bias, **_window(module), **_options(module)),
        x,
        kernel.ndim - 2,
    )


def separable(
    module: Any, x: Array, depthwise_kernel: Array, pointwise_kernel: Array, bias: Array | None
) -> Array:
    return _over_examples(
        lambda x: separable_conv(
            x, depthwise_kernel, pointwise_kernel, bias, **_window(module), **_options(module)
        ),
        x,
        depthwise_kernel.ndim - 2,
    )


def pointwise(module: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    """An int stride is for all axes between the batch and the channels.

    A tuple has one stride per spatial axis, and so determines how many leading axes are batch axes.
    """
    strides = module.strides
    if checks.index(strides) == 1:
        return pointwise_conv(x, kernel, bias, **_options(module))
    entries = checks.sequence(strides)
    rank = max(x.ndim - 2, 0) if entries is None else len(entries)
    kernel = kernel.reshape(*(1,) * rank, *kernel.shape)
    return _over_examples(
        lambda x: pointwise_conv(x, kernel, bias, strides=strides, **_options(module)), x, rank
    )


class Beside(TypedDict, total=False):
    """The arrays that a causal module takes beside its inputs, for type checkers."""

    segment_ids: ArrayLike | None
    initial_state: ArrayLike | None
    lengths: ArrayLike | None


def causal(
    module: Any,
    x: Array,
    kernel: Array,
    bias: Array | None,
    *,
    return_final_state: bool,
    **beside: ArrayLike | None,
) -> Any:
    """``causal_conv`` of ``x [..., L, C]``; what is beside it has the same leading axes."""
    leading = x.shape[:-2]
    given = {name: value for name, value in beside.items() if value is not None}
    if len(leading) > 1:
        given = {name: _one_batch(name, value, leading) for name, value in given.items()}
        x = x.reshape(math.prod(leading), *x.shape[-2:])
    results = causal_conv(
        x,
        kernel,
        bias,
        strides=module.strides,
        activation=module.activation,
        return_final_state=return_final_state,
        **given,
        **_taps(module),
        **_options(module),
    )
    if len(leading) <= 1:
        return results
    return jax.tree.map(lambda y: y.reshape(*leading, *y.shape[1:]), results)


def _one_batch(name: str, value: Any, leading: Shape) -> Array:
    """``value [..., *rest]`` as ``[N, *rest]``."""
    array = checks.array("CausalConv", name, value)
    if array.shape[: len(leading)] != leading:
        raise ValueError(
            f"CausalConv: {name} must have the leading axes of the inputs, {leading}, but its "
            f"shape is {array.shape}"
        )
    return array.reshape(math.prod(leading), *array.shape[len(leading) :])


def causal_init(module: Any, kernel: Array, batch_size: int, dtype: DTypeLike | None) -> Array:
    """Zeros of the dtype given here, else of the module's, else of the kernel's."""
    dtype = next((d for d in (dtype, module.dtype) if d is not None), kernel.dtype)
    return causal_conv_init(kernel, batch_size, dtype=dtype, **_taps(module))


def causal_step(
    module: Any, state: Array, x: Array, kernel: Array, bias: Array | None
) -> tuple[Array, Array]:
    if checks.per_axis(Call("CausalConv.step"), "strides", module.strides, 1) != (1,):
        raise ValueError(
            f"CausalConv.step: streaming needs strides=1, but the module has "
            f"strides={module.strides}; call the module itself with initial_state and "
            "return_final_state=True, on a multiple of strides steps at a time"
        )
    return causal_conv_step(
        state, x, kernel, bias, activation=module.activation, **_taps(module), **_options(module)
    )


def _over_examples(function: Callable[[Array], Array], x: Array, rank: int) -> Array:
    """``function`` of ``x [..., *S, C]`` with its leading axes folded into one batch axis."""
    leading = x.shape[: max(x.ndim - rank - 1, 0)]
    if len(leading) == 1 or x.ndim <= rank:  # already one batch axis, or an error of the function
        return function(x)
    y = function(x.reshape(math.prod(leading), *x.shape[len(leading) :]))
    return y.reshape(*leading, *y.shape[1:])


def _window(module: Any) -> dict[str, Any]:
    return {
        "strides": module.strides,
        "padding": module.padding,
        "dilation": module.kernel_dilation,
    }


def _taps(module: Any) -> dict[str, Any]:
    return {"dilation": module.kernel_dilation, "groups": module.feature_group_count}


def _options(module: Any) -> dict[str, Any]:
    return {
        "precision": module.precision,
        "preferred_element_type": module.preferred_element_type,
    }
