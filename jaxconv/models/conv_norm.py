"""A convolution with batch normalization and activation, which most image networks consist of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from flax import nnx

from .activations import relu
from .batch_norm import BatchNorm

Array = jax.Array
Activation = Callable[[Array], Array] | None


class ConvNorm(nnx.Module):
    """A convolution without bias, batch normalization and an activation.

    Args:
        conv, norm: Classes of the layers, with the arguments of ``flax.nnx.Conv`` and
            ``flax.nnx.BatchNorm``.
        in_features: Number of input channels.
        out_features: Number of output features.
        kernel_size: Height and width of the kernel.
        activation: Applied last; None for no activation. To pickle the module, pass a plain
            function of a Python module.
        momentum, epsilon: Of the normalization, as in ``flax.nnx.BatchNorm``.
        dtype, param_dtype: Types of the computation and of the parameters of both layers.
        rngs: The ``params`` stream initializes the parameters.
        **options: Further arguments of the convolution, such as ``strides``.
    """

    def __init__(
        self,
        conv: Callable[..., Any],
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        norm: Callable[..., Any] = BatchNorm,
        activation: Activation = relu,
        momentum: float,
        epsilon: float = 1e-5,
        dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        kernel = (kernel_size, kernel_size)
        self.conv = conv(in_features, out_features, kernel, use_bias=False, **options, **dtypes)
        self.norm = norm(out_features, momentum=momentum, epsilon=epsilon, **dtypes)
        self.activation = activation

    def __call__(self, x: Array) -> Array:
        x = self.norm(self.conv(x))
        return x if self.activation is None else self.activation(x)

    def torch_layers(self) -> Iterator[tuple[str, nnx.Module]]:
        """torchvision's name of each layer, and the layer."""
        yield from (("0", self.conv), ("1", self.norm))


def prefixed(prefix: str, layers: Iterable[tuple[str, nnx.Module]]):
    """The layers of a module with their names in the module that holds it as ``prefix``."""
    return ((f"{prefix}.{name}", layer) for name, layer in layers)
