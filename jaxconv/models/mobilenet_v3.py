"""MobileNetV3: inverted residuals with squeeze-and-excitation and hard-swish, large and small."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from .._src.flax.semantics import positive
from ..nnx import Conv
from .activations import hard_sigmoid, hard_swish, relu
from .batch_norm import BatchNorm
from .conv_norm import ConvNorm, prefixed
from .inputs import check_images
from .inverted_residual import InvertedResidual, SqueezeExcitation, rounded

STEM = 16
EPSILON = 1e-3  # torchvision's; also that of the authors' code


class Block(NamedTuple):
    """One row of the paper's tables; ``hidden`` and ``features`` are before ``width``."""

    kernel_size: int
    hidden: int
    features: int
    squeeze: bool
    activation: Callable[[jax.Array], jax.Array]
    strides: int


# Tables 1 and 2 of the paper.
LARGE = (
    Block(3, 16, 16, False, relu, 1),
    Block(3, 64, 24, False, relu, 2),
    Block(3, 72, 24, False, relu, 1),
    Block(5, 72, 40, True, relu, 2),
    Block(5, 120, 40, True, relu, 1),
    Block(5, 120, 40, True, relu, 1),
    Block(3, 240, 80, False, hard_swish, 2),
    Block(3, 200, 80, False, hard_swish, 1),
    Block(3, 184, 80, False, hard_swish, 1),
    Block(3, 184, 80, False, hard_swish, 1),
    Block(3, 480, 112, True, hard_swish, 1),
    Block(3, 672, 112, True, hard_swish, 1),
    Block(5, 672, 160, True, hard_swish, 2),
    Block(5, 960, 160, True, hard_swish, 1),
    Block(5, 960, 160, True, hard_swish, 1),
)
SMALL = (
    Block(3, 16, 16, True, relu, 2),
    Block(3, 72, 24, False, relu, 2),
    Block(3, 88, 24, False, relu, 1),
    Block(5, 96, 40, True, hard_swish, 2),
    Block(5, 240, 40, True, hard_swish, 1),
    Block(5, 240, 40, True, hard_swish, 1),
    Block(5, 120, 48, True, hard_swish, 1),
    Block(5, 144, 48, True, hard_swish, 1),
    Block(5, 288, 96, True, hard_swish, 2),
    Block(5, 576, 96, True, hard_swish, 1),
    Block(5, 576, 96, True, hard_swish, 1),
)


class MobileNetV3(nnx.Module):
    """The network of both sizes, which differ in the class attributes ``BLOCKS`` and ``HEAD``."""

    BLOCKS: ClassVar[tuple[Block, ...]]
    HEAD: ClassVar[int]  # features of the first layer of the classifier

    def __init__(
        self,
        classes: int = 1000,
        *,
        in_features: int = 3,
        width: float = 1.0,
        blocks: Sequence[Block] | None = None,
        stem_strides: int = 2,
        dropout: float = 0.2,
        momentum: float = 0.99,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        conv: Callable[..., Any] = Conv,
        norm: Callable[..., Any] = BatchNorm,
        rngs: nnx.Rngs,
    ):
        positive(type(self).__name__, classes=classes, in_features=in_features)
        self.in_features = in_features
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        conv_norm = functools.partial(
            ConvNorm, conv, norm=norm, momentum=momentum, epsilon=EPSILON, **dtypes
        )
        outer = functools.partial(conv_norm, activation=hard_swish)
        features = rounded(STEM * width)
        layers: list[Any] = [outer(in_features, features, 3, strides=stem_strides, padding=1)]
        for block in self.BLOCKS if blocks is None else blocks:
            hidden, out = rounded(block.hidden * width), rounded(block.features * width)
            inner = functools.partial(conv_norm, activation=block.activation)
            squeeze = None
            if block.squeeze:
                gate = {"gate": hard_sigmoid, **dtypes}
                squeeze = SqueezeExcitation(conv, hidden, rounded(hidden // 4), **gate)
            shape = (features, hidden, out, block.kernel_size, block.strides)
            layers.append(InvertedResidual(inner, *shape, squeeze=squeeze))
            features = out
        layers.append(outer(features, 6 * features, 1))
        self.layers = nnx.List(layers)
        head = rounded(self.HEAD * width)
        self.hidden = nnx.Linear(6 * features, head, **dtypes)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.classify = nnx.Linear(head, classes, **dtypes)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(type(self).__name__, x, self.in_features)
        for layer in self.layers:
            x = layer(x)
        x = hard_swish(self.hidden(x.mean((1, 2))))
        return self.classify(self.dropout(x))

    def torch_layers(self) -> Iterator[tuple[str, nnx.Module]]:
        """torchvision's name of each layer, and the layer."""
        for index, layer in enumerate(self.layers):
            yield from prefixed(f"features.{index}", layer.torch_layers())
        yield from (("classifier.0", self.hidden), ("classifier.3", self.classify))


class MobileNetV3Large(MobileNetV3):
    """MobileNetV3-Large: 15 inverted residuals with 3×3 and 5×5 depthwise convolutions.

    Args:
        classes: Number of logits.
        in_features: Number of channels of the images.
        width: Multiplier of every layer's features, rounded to multiples of 8; the paper's α.
        blocks: Kernel size, hidden features and features (before ``width``), whether it has
            squeeze-and-excitation, activation and strides of each block; by default the paper's.
        stem_strides: Strides of the stem; 1 suits small images.
        dropout: Dropout rate before the last layer, during training.
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
    >>> network = nnx.eval_shape(lambda: MobileNetV3Large(rngs=nnx.Rngs(0)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    5483032

    Source: A. Howard et al., "Searching for MobileNetV3" (2019), table 1.
    """

    BLOCKS = LARGE
    HEAD = 1280


class MobileNetV3Small(MobileNetV3):
    """MobileNetV3-Small: 11 inverted residuals. The arguments are those of ``MobileNetV3Large``.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> network = nnx.eval_shape(lambda: MobileNetV3Small(rngs=nnx.Rngs(0)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    2542856

    Source: A. Howard et al., "Searching for MobileNetV3" (2019), table 2.
    """

    BLOCKS = SMALL
    HEAD = 1024
