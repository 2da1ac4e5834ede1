"""What the image networks share: a normalised convolution, and the check of their images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .batch_norm import BatchNorm

Array = jax.Array
Activation = Callable[[Array], Array] | None


class ConvNorm(nnx.Module):
    """Convolution without bias, batch normalisation, activation.

    Args:
        conv, norm: The layers' classes, with the arguments of ``flax.nnx.Conv`` and
            ``flax.nnx.BatchNorm``.
        in_features, out_features, kernel: C, F and the square kernel's extent.
        activation: Applied last; None for none.
        momentum: Of the running statistics, as in ``flax.nnx.BatchNorm``.
        rngs, dtype, param_dtype: As in Flax, of both layers.
        **options: Further arguments of the convolution, such as ``strides``.
    """

    def __init__(
        self,
        conv: Callable[..., Any],
        in_features: int,
        out_features: int,
        kernel: int,
        *,
        norm: Callable[..., Any] = BatchNorm,
        activation: Activation = jax.nn.relu,
        momentum: float,
        dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        extents = (kernel, kernel)
        self.conv = conv(in_features, out_features, extents, use_bias=False, **options, **dtypes)
        self.norm = norm(out_features, momentum=momentum, **dtypes)
        self.activation = activation

    def __call__(self, x: Array) -> Array:
        x = self.norm(self.conv(x))
        return x if self.activation is None else self.activation(x)


def check_images(network: str, x: Array, in_features: int, least: int = 1) -> None:
    """Refuses what is no batch of images with these features, of at least this size."""
    shape = jnp.shape(x)
    if len(shape) != 4:
        raise ValueError(f"{network}: images must be [N, H, W, C], but got shape {shape}")
    if shape[-1] != in_features:
        raise ValueError(
            f"{network}: images must have C = in_features = {in_features}, but got C = {shape[-1]} "
            f"in [N, H, W, C] = {shape}; features come last"
        )
    if min(shape[1:3]) < least:
        raise ValueError(
            f"{network}: images must be at least {least}×{least} pixels, but got "
            f"{shape[1]}×{shape[2]} in [N, H, W, C] = {shape}"
        )
