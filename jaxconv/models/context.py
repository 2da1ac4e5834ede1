"""The context network: dilated convolutions with a large receptive field at full resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .._src.flax.semantics import positive
from ..nnx import Conv
from .inputs import check_images

# Table 1 of the paper: the dilation of each 3×3 layer, and its features as a multiple of C.
DILATIONS = (1, 1, 2, 4, 8, 16, 1)
BASIC = (1, 1, 1, 1, 1, 1, 1)
LARGE = (2, 2, 4, 8, 16, 32, 32)


def identity_init(features: int, noise: float = 0.01) -> Callable[..., jax.Array]:
    """Initializes kernels to the identity on the features, by the paper's equations 4 and 5.

        k[center, a, b] = C / c_out  where  floor(a*C/c_in) == floor(b*C/c_out),  else 0

    plus normal noise of ``noise * C / c_out``.

    Args:
        features: C, the number of features of the network's input and output.
        noise: Relative standard deviation of the noise; 0 for none.

    Returns:
        A Flax ``kernel_init``: ``(key, shape [*K, c_in, c_out], dtype) -> kernel``.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
        *extents, c_in, c_out = shape
        groups = (jnp.arange(count) * features // count for count in (c_in, c_out))
        same = jnp.equal(*jnp.meshgrid(*groups, indexing="ij"))
        kernel = noise * jax.random.normal(key, tuple(shape), dtype)
        kernel = kernel.at[tuple(extent // 2 for extent in extents)].add(same.astype(dtype))
        return kernel * jnp.asarray(features / c_out, dtype)

    return init


class ContextNetwork(nnx.Module):
    """The context network: seven dilated 3×3 layers with ReLU and a 1×1 layer, at full resolution.

    With dilations 1, 1, 2, 4, 8, 16, 1 the receptive field is 67×67 pixels, instead of 15×15
    without dilation, for the same parameters and multiply-adds. The network starts as the identity
    on non-negative features.

    Args:
        features: C, the number of features of the input and output.
        large: Builds the paper's large network, whose layers have 2, 2, 4, 8, 16, 32 and 32 times
            C features; those of the basic one have C.
        dilations: Dilation of each 3×3 layer.
        noise: Relative standard deviation of the initial kernels' noise.
        dtype, param_dtype: Types of the computation and of the parameters, as in Flax.
        conv: Class of the convolutions; ``flax.nnx.Conv`` for plain Flax.
        rngs: The ``params`` stream initializes the parameters.

    Called with feature maps ``[N, H, W, C]`` of any size, it returns ones of the same shape.

    Raises:
        ValueError: ``features`` or the number of ``dilations`` is invalid, or the feature maps do
            not have four axes or ``features`` features.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> network = ContextNetwork(4, rngs=nnx.Rngs(0))
    >>> network(jnp.ones((1, 20, 30, 4))).shape
    (1, 20, 30, 4)

    Source: F. Yu and V. Koltun, "Multi-scale context aggregation by dilated convolutions" (2016).
    """

    def __init__(
        self,
        features: int,
        *,
        large: bool = False,
        dilations: Sequence[int] = DILATIONS,
        noise: float = 0.01,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        conv: Callable[..., Any] = Conv,
        rngs: nnx.Rngs,
    ):
        ratios = LARGE if large else BASIC
        positive("ContextNetwork", features=features)
        if len(dilations) != len(ratios):
            raise ValueError(
                f"ContextNetwork: dilations must have {len(ratios)} entries, one per layer, but "
                f"got {len(dilations)}: {tuple(dilations)}"
            )
        self.features = features
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        options = {"kernel_init": identity_init(features, noise), **dtypes}
        layers, last = [], features
        for dilation, ratio in zip(dilations, ratios, strict=True):
            layers.append(conv(last, ratio * features, (3, 3), kernel_dilation=dilation, **options))
            last = ratio * features
        self.layers = nnx.List(layers)
        self.output = conv(last, features, (1, 1), **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images("ContextNetwork", x, self.features)
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.output(x)
