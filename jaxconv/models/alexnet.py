"""AlexNet as published in 2012: five convolutions, three of them in two groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from .._src.flax.semantics import positive
from ..nnx import Conv
from .inputs import check_images

# Features, kernel size, strides, padding, groups, and whether 3×3 max pooling follows.
LAYERS = (
    (96, 11, 4, 0, 1, True),
    (256, 5, 1, 2, 2, True),
    (384, 3, 1, 1, 1, False),
    (384, 3, 1, 1, 2, False),
    (256, 3, 1, 1, 2, True),
)
NORMALISED_LAYERS = 2  # the first ones


class AlexNet(nnx.Module):
    """The two-group AlexNet of 2012, whose groups ran on two GPUs.

    torchvision's network of this name is a later variant with one group and other widths.

    Args:
        classes: Number of logits.
        in_features: Number of channels of the images.
        image_size: Height and width of the images, at least 67; the first dense layer depends on
            it. The paper says 224, but its layer sizes require 227.
        hidden: Width of the two dense layers.
        dropout: Dropout rate after each dense layer, during training.
        dtype, param_dtype: Types of the computation and of the parameters, as in Flax.
        conv: Class of the convolutions; ``flax.nnx.Conv`` for plain Flax.
        rngs: The ``params`` stream initializes the parameters, ``dropout`` draws the masks.

    Called with images ``[N, image_size, image_size, C]``, it returns logits ``[N, classes]``.

    Raises:
        ValueError: A size is not a positive int, ``image_size`` is too small, or the images have
            another size, or do not have four axes or ``in_features`` channels.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> network = nnx.eval_shape(lambda: AlexNet(rngs=nnx.Rngs(0)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    60965224

    Source: A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet classification with deep
    convolutional neural networks" (2012).
    """

    def __init__(
        self,
        classes: int = 1000,
        *,
        in_features: int = 3,
        image_size: int = 227,
        hidden: int = 4096,
        dropout: float = 0.5,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        conv: Callable[..., Any] = Conv,
        rngs: nnx.Rngs,
    ):
        positive("AlexNet", classes=classes, in_features=in_features, hidden=hidden)
        self.in_features, self.image_size = in_features, image_size
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        layers, features = [], in_features
        for out, k, strides, padding, groups, _ in LAYERS:
            options = {"strides": strides, "padding": padding, "feature_group_count": groups}
            layers.append(conv(features, out, (k, k), **options, **dtypes))
            features = out
        self.layers = nnx.List(layers)
        flat = features * _extent(image_size) ** 2
        widths = ((flat, hidden), (hidden, hidden))
        self.dense = nnx.List([nnx.Linear(*width, **dtypes) for width in widths])
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.classify = nnx.Linear(hidden, classes, **dtypes)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images("AlexNet", x, self.in_features)
        if x.shape[1:3] != (self.image_size, self.image_size):
            raise ValueError(
                f"AlexNet: images must be {self.image_size}×{self.image_size} pixels, but got "
                f"{x.shape[1]}×{x.shape[2]} in [N, H, W, C] = {x.shape}; create the network with "
                "another image_size"
            )
        for index, (layer, (*_, pools)) in enumerate(zip(self.layers, LAYERS, strict=True)):
            x = jax.nn.relu(layer(x))
            if index < NORMALISED_LAYERS:
                x = _normalize(x)
            if pools:
                x = nnx.max_pool(x, (3, 3), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        for dense in self.dense:
            x = self.dropout(jax.nn.relu(dense(x)))
        return self.classify(x)


def _normalize(x: jax.Array) -> jax.Array:
    """Section 3.3: ``x / (2 + 1e-4 * sum of squares of the 5 nearest features) ** 0.75``."""
    window = (1,) * (x.ndim - 1) + (5,)
    squares = jnp.square(x.astype(jnp.float32))
    summed = lax.reduce_window(squares, 0.0, lax.add, window, (1,) * x.ndim, "SAME")
    return x * ((2 + 1e-4 * summed) ** -0.75).astype(x.dtype)


def _extent(pixels: int) -> int:
    """Height and width of the last convolution's pooled output."""
    extent = pixels
    for _, k, strides, padding, _, pools in LAYERS:
        extent = (extent + 2 * padding - k) // strides + 1
        extent = (extent - 3) // 2 + 1 if pools else extent
    if extent < 1:
        raise ValueError(f"AlexNet: image_size must be at least 67, but got {pixels}")
    return extent
