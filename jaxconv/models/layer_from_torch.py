"""Converting single PyTorch layers, with their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from .._src.geometry.spec import Pairs
from ..nnx import Conv
from .batch_norm import BatchNorm
from .from_torch import as_array, entries_of
from .torch_layers import ConvTranspose, PaddedConv

Layer = Conv | ConvTranspose | nnx.Linear | nnx.BatchNorm | nnx.LayerNorm | nnx.GroupNorm

# By PyTorch's name, that of ``numpy.pad``.
PADDING_MODES = {"circular": "wrap", "reflect": "reflect", "replicate": "edge"}
DTYPES = ("bfloat16", "float16", "float32", "float64")


def layer_from_torch(layer: Any) -> Layer:
    """Converts a PyTorch layer: the same layer for channels-last inputs, with the same weights.

    - ``Conv1d``, ``Conv2d`` and ``Conv3d`` become ``jaxconv.nnx.Conv``, with every stride,
      padding, padding mode, dilation and number of groups.
    - ``ConvTranspose1d``, ``ConvTranspose2d`` and ``ConvTranspose3d`` become a module that calls
      ``jaxconv.conv_transpose``.
    - ``Linear``, ``LayerNorm`` and ``GroupNorm`` become Flax's layers of these names.
    - ``BatchNorm1d``, ``BatchNorm2d`` and ``BatchNorm3d`` become a ``flax.nnx.BatchNorm``, in
      training or evaluation mode like the original. In training, PyTorch updates the running
      variance with ``n / (n - 1)`` times the variance of the batch, Flax with the variance itself.

    Where the PyTorch layer takes ``[N, C, *S]``, the result takes ``[N, *S, C]``. ``Linear`` and
    ``LayerNorm`` act on the last axis in both. The parameters have the original's dtype, except
    that float64 becomes float32 unless ``jax_enable_x64`` is set. ``jaxconv`` does not import
    PyTorch::

        conv = layer_from_torch(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1))
        y = conv(x)  # x [N, H, W, 3]

    Args:
        layer: A layer of ``torch.nn`` from the list above, or of a subclass with the same
            ``forward``; also one with parametrizations, whose current weights are used.

    Returns:
        A module of ``flax.nnx``.

    Raises:
        TypeError: The layer is not supported.
        ValueError: An option of the layer is not supported: a dtype that is not floating, forward
            hooks, batch normalization without running statistics or with ``momentum=None``, or
            layer normalization over several axes.

    >>> layer_from_torch("Conv2d")
    Traceback (most recent call last):
    ...
    TypeError: layer_from_torch: layer must be a layer of torch.nn, one of BatchNorm1d, BatchNorm2d,
    BatchNorm3d, Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d,
    GroupNorm, LayerNorm, Linear, but got str

    Source: the documentation of ``torch.nn``.
    """
    make = LAYERS.get(_torch_name(layer))
    if make is None:
        raise TypeError(
            f"layer_from_torch: layer must be a layer of torch.nn, one of {', '.join(LAYERS)}, but "
            f"got {type(layer).__name__}"
        )
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise _error(layer, "has forward hooks, which cannot be converted; remove them first")
    options = {"param_dtype": _dtype(layer), "rngs": nnx.Rngs(0)}
    converted = make(layer, options)
    for name, place in entries_of(converted).items():
        if place.variable is not None:
            place.put(as_array(getattr(layer, name)))
    return converted


def _torch_name(layer: Any) -> str:
    """The class of ``torch.nn`` whose computation the layer inherits unchanged, or ``""``."""
    for base in type(layer).__mro__:
        if base.__module__.startswith("torch.nn.modules."):
            computation = ("forward", "_conv_forward")
            same = (getattr(type(layer), n, None) is getattr(base, n, None) for n in computation)
            return base.__name__ if all(same) else ""
    return ""


def _error(layer: Any, problem: str) -> ValueError:
    return ValueError(f"layer_from_torch: {type(layer).__name__} {problem}")


def _dtype(layer: Any) -> np.dtype:
    if layer.weight is None:
        return np.dtype(np.float32)
    name = str(layer.weight.dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise _error(layer, f"must have a dtype of {', '.join(DTYPES)}, but its weight is {name}")
    return jnp.asarray(np.zeros((), jnp.dtype(name))).dtype  # float32 for float64 without x64


# --- the layers -----------------------------------------------------------------------------------


def _conv(layer: Any, options: dict[str, Any]) -> Conv:
    sizes = (layer.in_channels, layer.out_channels, layer.kernel_size)
    options = {**_window(layer), **options}
    if layer.padding_mode == "zeros":
        return Conv(*sizes, padding=_pairs(layer), **options)
    if layer.padding_mode not in PADDING_MODES:
        modes = ", ".join(("zeros", *PADDING_MODES))
        raise _error(layer, f"must have padding_mode {modes}, but it is {layer.padding_mode}")
    mode = PADDING_MODES[layer.padding_mode]
    return PaddedConv(*sizes, border=_pairs(layer), mode=mode, **options)


def _conv_transpose(layer: Any, options: dict[str, Any]) -> ConvTranspose:
    sizes = (layer.in_channels, layer.out_channels, layer.kernel_size)
    padding = {"padding": _pairs(layer), "output_padding": layer.output_padding}
    return ConvTranspose(*sizes, **padding, **_window(layer), **options)


def _window(layer: Any) -> dict[str, Any]:
    return {
        "strides": layer.stride,
        "kernel_dilation": layer.dilation,
        "feature_group_count": layer.groups,
        "use_bias": layer.bias is not None,
    }


def _pairs(layer: Any) -> Pairs:
    """The padding before and after each axis; an odd pixel of ``"same"`` is added after."""
    match layer.padding:
        case "valid":
            return ((0, 0),) * len(layer.kernel_size)
        case "same":
            axes = zip(layer.kernel_size, layer.dilation, strict=True)
            totals = [d * (k - 1) for k, d in axes]
            return tuple((total // 2, total - total // 2) for total in totals)
        case widths:
            return tuple((width, width) for width in widths)


def _linear(layer: Any, options: dict[str, Any]) -> nnx.Linear:
    use_bias = layer.bias is not None
    return nnx.Linear(layer.in_features, layer.out_features, use_bias=use_bias, **options)


def _batch_norm(layer: Any, options: dict[str, Any]) -> nnx.BatchNorm:
    if layer.running_mean is None:
        raise _error(
            layer, "must have running statistics, but track_running_stats or the statistics are off"
        )
    if layer.momentum is None:
        raise _error(
            layer,
            "must have a number as momentum, but it is None (a cumulative average), which Flax "
            "does not have; set layer.momentum first",
        )
    momentum = {"momentum": 1 - layer.momentum, "use_running_average": not layer.training}
    return BatchNorm(layer.num_features, **momentum, **_affine(layer), **options)


def _layer_norm(layer: Any, options: dict[str, Any]) -> nnx.LayerNorm:
    if len(layer.normalized_shape) != 1:
        raise _error(
            layer,
            f"must normalize over one axis, but normalized_shape is {layer.normalized_shape}",
        )
    return nnx.LayerNorm(*layer.normalized_shape, **_affine(layer), **options)


def _group_norm(layer: Any, options: dict[str, Any]) -> nnx.GroupNorm:
    return nnx.GroupNorm(layer.num_channels, layer.num_groups, **_affine(layer), **options)


def _affine(layer: Any) -> dict[str, Any]:
    return {
        "epsilon": layer.eps,
        "use_scale": layer.weight is not None,
        "use_bias": layer.bias is not None,
    }


Make = Callable[[Any, dict[str, Any]], Layer]
LAYERS: dict[str, Make] = {
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"), _batch_norm),
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), _conv),
    **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), _conv_transpose),
    "GroupNorm": _group_norm,
    "LayerNorm": _layer_norm,
    "Linear": _linear,
}
