"""EfficientNet-B0: inverted residuals with squeeze-and-excitation and SiLU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .._src.flax.semantics import positive
from ..nnx import Conv
from .activations import silu
from .batch_norm import BatchNorm
from .conv_norm import ConvNorm, prefixed
from .inputs import check_images
from .inverted_residual import InvertedResidual, SqueezeExcitation

STEM = 32
# Expansion, kernel size, strides of the first block, features and repeats: table 1 of the paper.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class EfficientNetB0(nnx.Module):
    """EfficientNet-B0: seven stages of inverted residuals, with 3×3 and 5×5 depthwise convolutions.

    Args:
        classes: Number of logits.
        in_features: Number of channels of the images.
        stages: Expansion, kernel size, first strides, features and repeats of each stage.
        stem_strides: Strides of the stem; 1 suits small images.
        dropout: Dropout rate before the classifier, during training.
        stochastic_depth: Probability that an image skips a block, during training; it grows
            linearly from 0 for the first block to almost this value for the last one.
        momentum, epsilon: Of batch normalization. torchvision's weights were trained with the
            default ``epsilon``; those of the authors with 1e-3.
        dtype, param_dtype: Types of the computation and of the parameters, as in Flax.
        conv, norm: Classes of the layers; ``flax.nnx.Conv`` and ``flax.nnx.BatchNorm`` for plain
            Flax.
        rngs: The ``params`` stream initializes the parameters, ``dropout`` draws the masks.

    Called with images ``[N, H, W, C]`` of any size, it returns logits ``[N, classes]``.

    Raises:
        ValueError: A size is not a positive int, or the images do not have four axes or
            ``in_features`` channels.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> network = nnx.eval_shape(lambda: EfficientNetB0(rngs=nnx.Rngs(0)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    5288548

    Source: M. Tan, Q. Le, "EfficientNet: rethinking model scaling for convolutional neural
    networks" (2019).
    """

    def __init__(
        self,
        classes: int = 1000,
        *,
        in_features: int = 3,
        stages: Sequence[tuple[int, int, int, int, int]] = STAGES,
        stem_strides: int = 2,
        dropout: float = 0.2,
        stochastic_depth: float = 0.2,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        conv: Callable[..., Any] = Conv,
        norm: Callable[..., Any] = BatchNorm,
        rngs: nnx.Rngs,
    ):
        positive("EfficientNetB0", classes=classes, in_features=in_features)
        self.in_features = in_features
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        options = {"norm": norm, "momentum": momentum, "epsilon": epsilon, **dtypes}
        conv_norm = functools.partial(ConvNorm, conv, activation=silu, **options)
        self.stem = conv_norm(in_features, STEM, 3, strides=stem_strides, padding=1)
        total, done, features, built = sum(repeats for *_, repeats in stages), 0, STEM, []
        for expansion, kernel_size, strides, out, repeats in stages:
            blocks = []
            for repeat in range(repeats):
                hidden = features * expansion
                squeeze = SqueezeExcitation(
                    conv, hidden, max(1, features // 4), activation=silu, **dtypes
                )
                # Stochastic depth: one mask per image.
                rate = stochastic_depth * (done + repeat) / total
                drop = nnx.Dropout(rate, broadcast_dims=(1, 2, 3), rngs=rngs)
                shape = (features, hidden, out, kernel_size, strides if repeat == 0 else 1)
                blocks.append(InvertedResidual(conv_norm, *shape, squeeze=squeeze, drop=drop))
                features = out
            built.append(nnx.List(blocks))
            done += repeats
        self.stages = nnx.List(built)
        self.head = conv_norm(features, 4 * features, 1)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.classify = nnx.Linear(4 * features, classes, **dtypes)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images("EfficientNetB0", x, self.in_features)
        x = self.stem(x)
        for blocks in self.stages:
            for block in blocks:
                x = block(x)
        return self.classify(self.dropout(self.head(x).mean((1, 2))))

    def torch_layers(self) -> Iterator[tuple[str, nnx.Module]]:
        """torchvision's name of each layer, and the layer."""
        yield from prefixed("features.0", self.stem.torch_layers())
        for index, blocks in enumerate(self.stages, 1):
            for i, block in enumerate(blocks):
                yield from prefixed(f"features.{index}.{i}", block.torch_layers())
        yield from prefixed(f"features.{len(self.stages) + 1}", self.head.torch_layers())
        yield "classifier.1", self.classify
