"""ConvNeXt-T: depthwise 7×7 convolutions instead of a transformer's attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .._src.flax.semantics import positive
from ..nnx import Conv
from .inputs import check_images

DEPTHS = (3, 3, 9, 3)
WIDTHS = (96, 192, 384, 768)
PATCH = 4
EPSILON = 1e-6


class ConvNeXtBlock(nnx.Module):
    """A residual block: depthwise 7×7 convolution, layer normalization, two dense layers, a scale.

    Args:
        features: Features of the input and output; the first dense layer has four times as many.
        drop: Probability that an image skips the block, during training.
        layer_scale: Initial value of the scale of each feature.
        dtype, param_dtype, conv, rngs: As in ``ConvNeXtT``.
    """

    def __init__(
        self,
        features: int,
        *,
        drop: float = 0.0,
        layer_scale: float = 1e-6,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        conv: Callable[..., Any] = Conv,
        rngs: nnx.Rngs,
    ):
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.convolve = conv(features, features, (7, 7), feature_group_count=features, **dtypes)
        self.norm = nnx.LayerNorm(features, epsilon=EPSILON, **dtypes)
        self.expand = nnx.Linear(features, 4 * features, **dtypes)
        self.project = nnx.Linear(4 * features, features, **dtypes)
        self.scale = nnx.Param(jnp.full((features,), layer_scale, param_dtype))
        # Stochastic depth: one mask per image.
        self.drop = nnx.Dropout(drop, broadcast_dims=(1, 2, 3), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.expand(self.norm(self.convolve(x)))
        y = self.project(jax.nn.gelu(y, approximate=False))
        return x + self.drop(y * self.scale[...].astype(y.dtype)[None, None, None])


class ConvNeXtT(nnx.Module):
    """ConvNeXt-T: four stages of blocks, each after a strided convolution.

    Args:
        classes: Number of logits.
        in_features: Number of channels of the images.
        widths, depths: Number of features and of blocks of each stage.
        stochastic_depth: Probability that the last block is skipped, during training; it grows
            linearly from 0 for the first block.
        layer_scale: Initial value of each block's scale.
        dtype, param_dtype: Types of the computation and of the parameters, as in Flax.
        conv: Class of the convolutions; ``flax.nnx.Conv`` for plain Flax.
        rngs: The ``params`` stream initializes the parameters, ``dropout`` draws the masks.

    Called with images ``[N, H, W, C]`` of at least 32×32 pixels, it returns ``[N, classes]``.

    Raises:
        ValueError: A size is not a positive int, or the images do not have four axes or
            ``in_features`` channels, or are too small.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> network = nnx.eval_shape(lambda: ConvNeXtT(rngs=nnx.Rngs(0)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    28589128

    Source: Z. Liu et al., "A ConvNet for the 2020s" (2022).
    """

    def __init__(
        self,
        classes: int = 1000,
        *,
        in_features: int = 3,
        widths: Sequence[int] = WIDTHS,
        depths: Sequence[int] = DEPTHS,
        stochastic_depth: float = 0.1,
        layer_scale: float = 1e-6,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        conv: Callable[..., Any] = Conv,
        rngs: nnx.Rngs,
    ):
        positive("ConvNeXtT", classes=classes, in_features=in_features)
        self.in_features = in_features
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        options = {"layer_scale": layer_scale, "conv": conv, **dtypes}
        last = max(1, sum(depths) - 1)
        entries, norms, stages, features, done = [], [], [], in_features, 0
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            k = PATCH if stage == 0 else 2
            entries.append(conv(features, width, (k, k), strides=k, padding="VALID", **dtypes))
            # The stem is normalized after its convolution, the other entries before theirs.
            norms.append(
                nnx.LayerNorm(width if stage == 0 else features, epsilon=EPSILON, **dtypes)
            )
            drops = [stochastic_depth * (done + block) / last for block in range(depth)]
            stages.append(nnx.List([ConvNeXtBlock(width, drop=p, **options) for p in drops]))
            features, done = width, done + depth
        self.entries, self.norms = nnx.List(entries), nnx.List(norms)
        self.stages = nnx.List(stages)
        self.norm = nnx.LayerNorm(features, epsilon=EPSILON, **dtypes)
        self.classify = nnx.Linear(features, classes, **dtypes)

    def __call__(self, x: jax.Array) -> jax.Array:
        min_size = PATCH << (len(self.stages) - 1)
        check_images("ConvNeXtT", x, self.in_features, min_size)
        stages = zip(self.entries, self.norms, self.stages, strict=True)
        for stage, (enter, norm, blocks) in enumerate(stages):
            x = norm(enter(x)) if stage == 0 else enter(norm(x))
            for block in blocks:
                x = block(x)
        return self.classify(self.norm(x.mean((1, 2))))

    def torch_layers(self) -> Iterator[tuple[str, nnx.Module]]:
        """torchvision's name of each layer, and the layer."""
        stages = zip(self.entries, self.norms, self.stages, strict=True)
        for stage, (enter, norm, blocks) in enumerate(stages):
            parts = (enter, norm) if stage == 0 else (norm, enter)
            for i, part in enumerate(parts):
                yield f"features.{2 * stage}.{i}", part
            for i, block in enumerate(blocks):
                name = f"features.{2 * stage + 1}.{i}"
                yield f"{name}.block.0", block.convolve
                yield f"{name}.block.2", block.norm
                yield f"{name}.block.3", block.expand
                yield f"{name}.block.5", block.project
                yield name, block
        yield from (("classifier.0", self.norm), ("classifier.2", self.classify))
