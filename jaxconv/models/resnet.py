"""ResNet-50: bottlenecks of a 3×3 convolution between two 1×1 convolutions."""

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
from .conv_norm import ConvNorm, prefixed
from .inputs import check_images

EXPANSION = 4
DEPTHS = (3, 4, 6, 3)
POOL_PADDING: Any = ((1, 1), (1, 1))  # Flax accepts pairs, but its annotation does not


class Bottleneck(nnx.Module):
    """1×1 reduction, 3×3 convolution and 1×1 expansion, added to the input or its 1×1 projection.

    Args:
        conv_norm: Makes a ``ConvNorm`` from in_features, out_features, kernel_size and options.
        in_features: Number of input channels.
        features: Features of the 3×3 convolution; the block returns ``4 * features``.
        strides: Strides of the 3×3 convolution and of the projection.
    """

    def __init__(
        self, conv_norm: Callable[..., ConvNorm], in_features: int, features: int, strides: int
    ):
        out = EXPANSION * features
        self.reduce = conv_norm(in_features, features, 1)
        self.convolve = conv_norm(features, features, 3, strides=strides, padding=1)
        self.restore = conv_norm(features, out, 1, activation=None)
        projects = strides > 1 or in_features != out
        self.project = nnx.data(
            conv_norm(in_features, out, 1, strides=strides, activation=None) if projects else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.restore(self.convolve(self.reduce(x)))
        return jax.nn.relu(y + (x if self.project is None else self.project(x)))


class ResNet50(nnx.Module):
    """ResNet-50, with the strides in the 3×3 convolutions as in torchvision ("version 1.5").

    Args:
        classes: Number of logits.
        in_features: Number of channels of the images.
        width: Features of the stem and of the first stage's 3×3 convolutions; they double with
            each stage.
        depths: Number of blocks of each stage.
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
    >>> network = nnx.eval_shape(lambda: ResNet50(rngs=nnx.Rngs(0)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    25557032

    Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition" (2016).
    """

    def __init__(
        self,
        classes: int = 1000,
        *,
        in_features: int = 3,
        width: int = 64,
        depths: Sequence[int] = DEPTHS,
        momentum: float = 0.9,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        conv: Callable[..., Any] = Conv,
        norm: Callable[..., Any] = BatchNorm,
        rngs: nnx.Rngs,
    ):
        positive("ResNet50", classes=classes, in_features=in_features, width=width)
        self.in_features = in_features
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        conv_norm = functools.partial(ConvNorm, conv, norm=norm, momentum=momentum, **dtypes)
        self.stem = conv_norm(in_features, width, 7, strides=2, padding=3)
        stages, features = [], width
        for stage, depth in enumerate(depths):
            blocks = []
            for block in range(depth):
                strides = 2 if block == 0 and stage > 0 else 1
                blocks.append(Bottleneck(conv_norm, features, width << stage, strides))
                features = EXPANSION * (width << stage)
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.classify = nnx.Linear(features, classes, **dtypes)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images("ResNet50", x, self.in_features)
        x = nnx.max_pool(self.stem(x), (3, 3), strides=(2, 2), padding=POOL_PADDING)
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.classify(x.mean((1, 2)))

    def torch_layers(self) -> Iterator[tuple[str, nnx.Module]]:
        """torchvision's name of each layer, and the layer."""
        yield from (("conv1", self.stem.conv), ("bn1", self.stem.norm))
        for index, stage in enumerate(self.stages, 1):
            for i, block in enumerate(stage):
                name = f"layer{index}.{i}"
                for j, part in enumerate((block.reduce, block.convolve, block.restore), 1):
                    yield from ((f"{name}.conv{j}", part.conv), (f"{name}.bn{j}", part.norm))
                if block.project is not None:
                    yield from prefixed(f"{name}.downsample", block.project.torch_layers())
        yield "fc", self.classify
