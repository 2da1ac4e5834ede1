"""The inverted residual of the mobile networks, with squeeze-and-excitation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx

from .activations import relu, sigmoid
from .conv_norm import ConvNorm, prefixed

Array = jax.Array
Function = Callable[[Array], Array]


class SqueezeExcitation(nnx.Module):
    """Multiplies each feature by a gate, computed from the means of all features.

        y = x * gate(expand(activation(reduce(mean of x over all pixels))))

    Args:
        conv: Class of the two 1×1 convolutions, which have biases.
        features: Number of features of the input and output.
        squeezed: Number of features between the two convolutions.
        activation: Applied after the first convolution.
        gate: Applied after the second one.
        **options: Further arguments of the convolutions, such as ``dtype`` and ``rngs``.

    Source: J. Hu, L. Shen, G. Sun, "Squeeze-and-excitation networks" (2018).
    """

    def __init__(
        self,
        conv: Callable[..., Any],
        features: int,
        squeezed: int,
        *,
        activation: Function = relu,
        gate: Function = sigmoid,
        **options: Any,
    ):
        self.reduce = conv(features, squeezed, (1, 1), **options)
        self.expand = conv(squeezed, features, (1, 1), **options)
        self.activation = activation
        self.gate = gate

    def __call__(self, x: Array) -> Array:
        means = x.mean((1, 2), keepdims=True)
        return x * self.gate(self.expand(self.activation(self.reduce(means))))

    def torch_layers(self) -> Iterator[tuple[str, nnx.Module]]:
        """torchvision's name of each layer, and the layer."""
        yield from (("fc1", self.reduce), ("fc2", self.expand))


class InvertedResidual(nnx.Module):
    """1×1 expansion, depthwise convolution and linear 1×1 projection.

    The input is added if the shapes are equal. There is no expansion if ``hidden`` is
    ``in_features``.

    Args:
        conv_norm: Makes a ``ConvNorm`` from in_features, out_features, kernel_size and options.
        in_features: Number of input channels.
        hidden: Features of the depthwise convolution.
        out_features: Number of output features.
        kernel_size, strides: Of the depthwise convolution.
        squeeze: Applied after the depthwise convolution; None for nothing.
        drop: Applied to what is added to the input, during training; None for nothing.
    """

    def __init__(
        self,
        conv_norm: Callable[..., ConvNorm],
        in_features: int,
        hidden: int,
        out_features: int,
        kernel_size: int = 3,
        strides: int = 1,
        *,
        squeeze: SqueezeExcitation | None = None,
        drop: nnx.Dropout | None = None,
    ):
        depthwise = {"feature_group_count": hidden, "strides": strides}
        layers: list[Any] = [] if hidden == in_features else [conv_norm(in_features, hidden, 1)]
        layers.append(
            conv_norm(hidden, hidden, kernel_size, padding=(kernel_size - 1) // 2, **depthwise)
        )
        if squeeze is not None:
            layers.append(squeeze)
        layers.append(conv_norm(hidden, out_features, 1, activation=None))
        self.layers = nnx.List(layers)
        self.residual = strides == 1 and in_features == out_features
        self.drop = nnx.data(drop if self.residual else None)

    def __call__(self, x: Array) -> Array:
        y = x
        for layer in self.layers:
            y = layer(y)
        if not self.residual:
            return y
        return x + (y if self.drop is None else self.drop(y))

    def torch_layers(self) -> Iterator[tuple[str, nnx.Module]]:
        """The name of each layer in torchvision's EfficientNet and MobileNetV3, and the layer."""
        for index, layer in enumerate(self.layers):
            yield from prefixed(f"block.{index}", layer.torch_layers())


def rounded(features: float) -> int:
    """The nearest multiple of 8, but at least 90 % of ``features``, as in the authors' code.

    >>> rounded(18), rounded(20), rounded(11)
    (24, 24, 16)
    """
    nearest = max(8, int(features + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * features else nearest
