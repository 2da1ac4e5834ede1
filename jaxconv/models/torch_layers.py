"""Convolutions of PyTorch that Flax's layers do not express."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes, linear

from .._src.functions.transpose import conv_transpose
from .._src.geometry.spec import Pairs, Shape
from ..nnx import Conv

Array = jax.Array


class PaddedConv(Conv):
    """A convolution whose input is first extended by ``numpy.pad``.

    Args:
        in_features, out_features, kernel_size: As in ``jaxconv.nnx.Conv``.
        border: Number of pixels to add before and after each spatial axis.
        mode: ``"wrap"``, ``"reflect"`` or ``"edge"``, as in ``numpy.pad``.
        **options: Further arguments of ``jaxconv.nnx.Conv`` except ``padding``.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = PaddedConv(3, 4, (5,), border=((1, 1),), mode="edge", rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((2, 8, 3))).shape
    (2, 6, 4)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Shape,
        *,
        border: Pairs,
        mode: str,
        **options: Any,
    ):
        super().__init__(in_features, out_features, kernel_size, padding="VALID", **options)
        self.border = border
        self.mode = mode

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        batch = ((0, 0),) * (inputs.ndim - len(self.border) - 1)
        padded = jnp.pad(inputs, (*batch, *self.border, (0, 0)), mode=self.mode)
        return super().__call__(padded, out_sharding)


class ConvTranspose(nnx.Module):
    """PyTorch's transposed convolution, ``jaxconv.conv_transpose``, as a module.

    Parameters: ``kernel [*K, F/G, C]``, ``bias [F]``.

    Args:
        in_features: C, the number of channels.
        out_features: F, the number of features.
        kernel_size: The kernel extents K, one per spatial axis.
        strides, padding, output_padding: As in ``jaxconv.conv_transpose``.
        kernel_dilation, feature_group_count: Its ``dilation`` and ``groups``.
        use_bias: Whether to add a bias.
        dtype, param_dtype: Types of the computation and of the parameters, as in Flax.
        rngs: Its ``params`` stream is used for the initial values.

    Call it with ``x [N, *S, C]`` or ``[*S, C]``; it returns ``[N, *O, F]`` or ``[*O, F]``.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = ConvTranspose(6, 4, (3, 3), strides=2, feature_group_count=2, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((1, 7, 7, 6))).shape
    (1, 14, 14, 4)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Shape,
        *,
        strides: int | Shape = 1,
        padding: Any = "SAME",
        output_padding: int | Shape = 0,
        kernel_dilation: int | Shape = 1,
        feature_group_count: int = 1,
        use_bias: bool = True,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.in_features = in_features
        self.out_features = out_features
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding
        self.output_padding = output_padding
        self.kernel_dilation = kernel_dilation
        self.feature_group_count = feature_group_count
        self.dtype = dtype
        shape = (*kernel_size, out_features // feature_group_count, in_features)
        initial = linear.default_kernel_init(rngs.params(), shape, param_dtype)
        self.kernel = nnx.Param(initial)
        bias = jnp.zeros((out_features,), param_dtype)
        self.bias = nnx.Param(bias) if use_bias else nnx.data(None)

    def __call__(self, inputs: Array) -> Array:
        bias = None if self.bias is None else self.bias[...]
        arrays = dtypes.promote_dtype((inputs, self.kernel[...], bias), dtype=self.dtype)
        return conv_transpose(
            *arrays,
            strides=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.kernel_dilation,
            groups=self.feature_group_count,
        )
