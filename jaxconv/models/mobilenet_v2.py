"""MobileNetV2: depthwise convolutions between a 1×1 expansion and a 1×1 projection."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .._src.flax.semantics import positive
from ..nnx import Conv
from .activations import relu6
from .batch_norm import BatchNorm
from .conv_norm import ConvNorm, prefixed
from .inputs import check_images
from .inverted_residual import InvertedResidual, rounded

STEM, HEAD = 32, 1280
# Expansion, features, repeats, and strides of the first block: table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nnx.Module):
    """MobileNetV2: inverted residuals with linear bottlenecks.

    Args:
        classes: Number of logits.
        in_features: Number of channels of the images.
        width: Multiplier of every layer's features, rounded to multiples of 8; the paper's α.
        stages: Expansion, features (before ``width``), repeats and first strides of each stage.
        stem_strides: Strides of the stem; 1 suits small images.
        dropout: Dropout rate before the classifier, during training.
        momentum: Momentum of the running statistics of batch normalization.
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
    >>> network = nnx.eval_shape(lambda: MobileNetV2(rngs=nnx.Rngs(0)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    3504872

    Source: M. Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks" (2018).
    """

    def __init__(
        self,
        classes: int = 1000,
        *,
        in_features: int = 3,
        width: float = 1.0,
        stages: Sequence[tuple[int, int, int, int]] = STAGES,
        stem_strides: int = 2,
        dropout: float = 0.2,
        momentum: float = 0.9,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        conv: Callable[..., Any] = Conv,
        norm: Callable[..., Any] = BatchNorm,
        rngs: nnx.Rngs,
    ):
        positive("MobileNetV2", classes=classes, in_features=in_features)
        self.in_features = in_features
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        conv_norm = functools.partial(
            ConvNorm, conv, norm=norm, activation=relu6, momentum=momentum, **dtypes
        )
        features, head = rounded(STEM * width), rounded(HEAD * max(width, 1))
        layers: list[Any] = [conv_norm(in_features, features, 3, strides=stem_strides, padding=1)]
        for expansion, stage, repeats, strides in stages:
            for first in (True, *(False,) * (repeats - 1)):
                out, s = rounded(stage * width), strides if first else 1
                hidden = features * expansion
                layers.append(InvertedResidual(conv_norm, features, hidden, out, strides=s))
                features = out
        layers.append(conv_norm(features, head, 1))
        self.layers = nnx.List(layers)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.classify = nnx.Linear(head, classes, **dtypes)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images("MobileNetV2", x, self.in_features)
        for layer in self.layers:
            x = layer(x)
        return self.classify(self.dropout(x.mean((1, 2))))

    def torch_layers(self) -> Iterator[tuple[str, nnx.Module]]:
        """torchvision's name of each layer, and the layer."""
        for index, layer in enumerate(self.layers):
            if isinstance(layer, ConvNorm):
                yield from prefixed(f"features.{index}", layer.torch_layers())
                continue
            *activated, project = layer.layers
            for i, part in enumerate(activated):
                yield from prefixed(f"features.{index}.conv.{i}", part.torch_layers())
            i = len(activated)
            yield f"features.{index}.conv.{i}", project.conv
            yield f"features.{index}.conv.{i + 1}", project.norm
        yield "classifier.1", self.classify
