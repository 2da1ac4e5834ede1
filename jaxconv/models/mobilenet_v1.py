"""MobileNetV1: a network of depthwise separable convolutions, or of dense ones for comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .._src.flax.semantics import positive
from ..nnx import Conv
from .batch_norm import BatchNorm
from .conv_norm import ConvNorm
from .inputs import check_images

STEM = 32
# Features and strides of each block: table 1 of the paper.
BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)


class MobileNetV1(nnx.Module):
    """MobileNetV1: a dense 3×3 stem, depthwise separable blocks, a mean and a linear classifier.

    A block is a depthwise 3×3 and a pointwise convolution, each with batch normalization and ReLU.
    It has ``K²·C + C·F`` weights instead of the ``K²·C·F`` of a dense convolution.

    Args:
        classes: Number of logits.
        in_features: Number of channels of the images.
        width: Multiplier of every layer's features; the paper's α.
        blocks: Features (before ``width``) and strides of each block.
        stem_strides: Strides of the stem; 1 suits small images.
        separable: False replaces each block's two convolutions by one dense 3×3 convolution.
        momentum: Momentum of the running statistics of batch normalization.
        dtype, param_dtype: Types of the computation and of the parameters, as in Flax.
        conv, norm: Classes of the layers; ``flax.nnx.Conv`` and ``flax.nnx.BatchNorm`` for plain
            Flax.
        rngs: The ``params`` stream initializes the parameters.

    Called with images ``[N, H, W, C]`` of any size, it returns logits ``[N, classes]``.

    Raises:
        ValueError: A size is not a positive int, or the images do not have four axes or
            ``in_features`` channels.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> network = nnx.eval_shape(lambda: MobileNetV1(10, in_features=1, rngs=nnx.Rngs(0)))
    >>> jax.eval_shape(lambda network, x: network(x), network, jnp.ones((2, 28, 28, 1))).shape
    (2, 10)

    Source: A. Howard et al., "MobileNets: efficient convolutional neural networks for mobile
    vision applications" (2017).
    """

    def __init__(
        self,
        classes: int = 1000,
        *,
        in_features: int = 3,
        width: float = 1.0,
        blocks: Sequence[tuple[int, int]] = BLOCKS,
        stem_strides: int = 2,
        separable: bool = True,
        momentum: float = 0.9,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        conv: Callable[..., Any] = Conv,
        norm: Callable[..., Any] = BatchNorm,
        rngs: nnx.Rngs,
    ):
        positive("MobileNetV1", classes=classes, in_features=in_features)
        self.in_features = in_features
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        options = {"norm": norm, "momentum": momentum, **dtypes}
        features = int(STEM * width)
        layers = [ConvNorm(conv, in_features, features, 3, strides=stem_strides, **options)]
        for block, strides in blocks:
            out = int(block * width)
            if separable:
                depthwise = {"feature_group_count": features, "strides": strides}
                layers.append(ConvNorm(conv, features, features, 3, **depthwise, **options))
                layers.append(ConvNorm(conv, features, out, 1, **options))
            else:
                layers.append(ConvNorm(conv, features, out, 3, strides=strides, **options))
            features = out
        self.layers = nnx.List(layers)
        self.classify = nnx.Linear(features, classes, **dtypes)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images("MobileNetV1", x, self.in_features)
        for layer in self.layers:
            x = layer(x)
        return self.classify(x.mean((1, 2)))
