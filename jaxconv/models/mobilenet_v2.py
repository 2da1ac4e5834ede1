"""MobileNetV2: depthwise convolutions between an expansion and a projection, both 1×1."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .._src.flax.semantics import positive
from ..nnx import Conv
from .batch_norm import BatchNorm
from .blocks import ConvNorm, check_images

STEM, HEAD = 32, 1280
# Expansion, features, repeats, and strides of the first: table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nnx.Module):
    """Expand (1×1), depthwise 3×3, project (1×1, linear); added to its input where shapes agree."""

    def __init__(
        self,
        normed: Callable[..., ConvNorm],
        in_features: int,
        out_features: int,
        strides: int,
        expansion: int,
    ):
        hidden = in_features * expansion
        layers = [normed(in_features, hidden, 1)] if expansion > 1 else []
        deep = {"feature_group_count": hidden, "strides": strides, "padding": 1}
        layers.append(normed(hidden, hidden, 3, **deep))
        layers.append(normed(hidden, out_features, 1, activation=None))
        self.layers = nnx.List(layers)
        self.residual = strides == 1 and in_features == out_features

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for layer in self.layers:
            y = layer(y)
        return x + y if self.residual else y


class MobileNetV2(nnx.Module):
    """MobileNetV2: inverted residuals with linear bottlenecks.

    Args:
        classes: Number of logits.
        in_features: Features of the images.
        width: Multiplies every layer's features, rounded to multiples of 8; the paper's α.
        stages: Expansion, features before ``width``, repeats and first strides of each stage.
        stem_strides: Strides of the stem; 1 suits small images.
        dropout: Rate before the classifier, in training.
        momentum: Of the running statistics of batch normalisation.
        dtype, param_dtype: Of the computation and of the parameters, as in Flax.
        conv, norm: The layers' classes; ``flax.nnx.Conv`` and ``flax.nnx.BatchNorm`` for plain
            Flax.
        rngs: The stream ``params`` gives the initial values, ``dropout`` the masks.

    Called with images ``[N, H, W, C]`` of any size, it returns logits ``[N, classes]``.

    Raises:
        ValueError: A size is no positive int; the images do not have four axes or not
            ``in_features`` features.

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
        normed = functools.partial(
            ConvNorm, conv, norm=norm, activation=jax.nn.relu6, momentum=momentum, **dtypes
        )
        features, head = _rounded(STEM * width), _rounded(HEAD * max(width, 1))
        layers: list[Any] = [normed(in_features, features, 3, strides=stem_strides, padding=1)]
        for expansion, stage, repeats, strides in stages:
            for first in (True, *(False,) * (repeats - 1)):
                out, s = _rounded(stage * width), strides if first else 1
                layers.append(InvertedResidual(normed, features, out, s, expansion))
                features = out
        layers.append(normed(features, head, 1))
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
        for at, layer in enumerate(self.layers):
            if isinstance(layer, ConvNorm):
                yield from ((f"features.{at}.0", layer.conv), (f"features.{at}.1", layer.norm))
                continue
            *activated, project = layer.layers
            for i, part in enumerate(activated):
                name = f"features.{at}.conv.{i}"
                yield from ((f"{name}.0", part.conv), (f"{name}.1", part.norm))
            i = len(activated)
            yield f"features.{at}.conv.{i}", project.conv
            yield f"features.{at}.conv.{i + 1}", project.norm
        yield "classifier.1", self.classify


def _rounded(features: float) -> int:
    """The nearest multiple of 8 that loses no more than a tenth, as the paper's own code rounds."""
    nearest = max(8, int(features + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * features else nearest
