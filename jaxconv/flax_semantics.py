"""What the modules of both Flax APIs compute, as functions of arrays; Flax itself is not needed.

``module`` is any object with Flax's attributes: ``strides``, ``padding``, ``kernel_dilation``,
``precision``, ``preferred_element_type`` and what single functions name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

from .causal import causal_conv, causal_conv_init, causal_conv_step
from .checks import Call
from .functional import depthwise_conv, pointwise_conv, separable_conv
from .spec import Shape

Array = jax.Array


# --- arguments ------------------------------------------------------------------------------------


def positive(module: str, **sizes: Any) -> None:
    """Refuses a size that is not a positive int."""
    for name, size in sizes.items():
        if not _is_int(size) or size < 1:
            raise ValueError(f"{module}: {name} must be a positive int, but got {size!r}")


def kernel_extents(module: str, kernel_size: Any, most: int = 3) -> Shape:
    """``kernel_size`` as a tuple; as in Flax, an int is one axis."""
    extents = (kernel_size,) if _is_int(kernel_size) else kernel_size
    if not isinstance(extents, tuple | list) or not 1 <= len(extents) <= most:
        axes = "1 to 3 positive ints, one a spatial axis" if most > 1 else "of one spatial axis"
        raise ValueError(
            f"{module}: kernel_size must be {axes}, or an int for one axis, but got {kernel_size!r}"
        )
    positive(module, **{f"kernel_size[{axis}]": extent for axis, extent in enumerate(extents)})
    return tuple(extents)


def grouped_kernel(module: str, extents: Shape, in_features, out_features, groups) -> Shape:
    """``[*K, C/G, F]``, where ``groups`` divides both numbers of features."""
    positive(module, in_features=in_features, out_features=out_features, feature_group_count=groups)
    for name, features in (("in_features", in_features), ("out_features", out_features)):
        if features % groups:
            raise ValueError(
                f"{module}: {name} must be a multiple of feature_group_count, but {features} % "
                f"{groups} = {features % groups}"
            )
    return (*extents, in_features // groups, out_features)


def static(value: Any) -> Any:
    """Lists as tuples, which a module can hold as hashable static data."""
    return tuple(map(static, value)) if isinstance(value, tuple | list) else value


def masked(kernel: Array, mask: Any) -> Array:
    """``kernel * mask``, of one shape."""
    if mask is None:
        return kernel
    if mask.shape != kernel.shape:
        raise Call("ConvTranspose", kernel=kernel.shape).refuse(
            f"mask must have the kernel's shape, {kernel.shape}, but has {mask.shape}"
        )
    return kernel * mask


def _is_int(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


# --- what each module computes --------------------------------------------------------------------


def depthwise(module: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    return _over_examples(
        lambda x: depthwise_conv(x, kernel, bias, **_window(module), **_options(module)),
        x,
        kernel.ndim - 2,
    )


def separable(module: Any, x: Array, depthwise_kernel, pointwise_kernel, bias) -> Array:
    return _over_examples(
        lambda x: separable_conv(
            x, depthwise_kernel, pointwise_kernel, bias, **_window(module), **_options(module)
        ),
        x,
        depthwise_kernel.ndim - 2,
    )


def pointwise(module: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    """An int stride is one for all axes between batch and features; a tuple has one a spatial axis,
    so that it also tells how many leading axes are batch axes."""
    strides = module.strides
    if strides == 1:
        return pointwise_conv(x, kernel, bias, **_options(module))
    rank = len(strides) if isinstance(strides, tuple) else max(x.ndim - 2, 0)
    kernel = kernel.reshape(*(1,) * rank, *kernel.shape)
    return _over_examples(
        lambda x: pointwise_conv(x, kernel, bias, strides=strides, **_options(module)), x, rank
    )


def causal(module: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    return _over_examples(
        lambda x: causal_conv(
            x, kernel, bias, strides=module.strides, **_taps(module), **_options(module)
        ),
        x,
        1,
    )


def causal_init(module: Any, kernel: Array, batch_size: int, dtype: Any) -> Array:
    """Zeros in the dtype that the step computes in, as far as the module knows it."""
    dtype = next((d for d in (dtype, module.dtype) if d is not None), kernel.dtype)
    return causal_conv_init(kernel, batch_size, dtype=dtype, **_taps(module))


def causal_step(module: Any, state: Array, x: Array, kernel: Array, bias: Array | None):
    if module.strides not in (1, (1,)):
        raise ValueError(
            f"CausalConv.step: streaming needs strides=1, but the module has "
            f"strides={module.strides}; take every {module.strides}th output of an unstrided one"
        )
    return causal_conv_step(state, x, kernel, bias, **_taps(module), **_options(module))


def _over_examples(function: Callable[[Array], Array], x: Array, rank: int) -> Array:
    """``function`` of ``x [..., *S, C]``, its leading axes folded into one batch axis."""
    leading = x.shape[: max(x.ndim - rank - 1, 0)]
    if len(leading) == 1 or x.ndim <= rank:  # a batch already, or for the function to refuse
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
