"""The convolutions as modules of ``flax.nnx``.

``Conv`` and ``ConvTranspose`` are Flax's own with another computation. The other modules take
Flax's keywords and the whole padding vocabulary of ``jaxconv.conv``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes, linear

from ._src.flax import semantics as semantics
from ._src.geometry.padding import PaddingLike

Array = jax.Array
Integers = int | Sequence[int]
NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class Conv(nnx.Conv):
    """``flax.nnx.Conv``, computed by the family.

    Arguments, parameters, initial values, dtypes and errors are Flax's, whichever version it is;
    only the default of ``conv_general_dilated`` differs, and may be given as there.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = Conv(3, 4, (3, 3), strides=2, rngs=nnx.Rngs(0))
    >>> isinstance(layer, nnx.Conv), layer(jnp.ones((1, 8, 8, 3))).shape
    (True, (1, 4, 4, 4))

    Source: the documentation of ``flax.nnx.Conv``.
    """

    __init__ = functools.partialmethod(  # pyright: ignore[reportAssignmentType]
        nnx.Conv.__init__, conv_general_dilated=semantics.convolution
    )


class ConvTranspose(nnx.ConvTranspose):
    """``flax.nnx.ConvTranspose``, computed by the family.

    Arguments, parameters, initial values and dtypes are Flax's, and so is what ``padding`` means;
    for the adjoint of a convolution use ``jaxconv.conv_transpose``.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = ConvTranspose(3, 4, (4, 4), strides=2, rngs=nnx.Rngs(0))
    >>> isinstance(layer, nnx.ConvTranspose), layer(jnp.ones((1, 7, 7, 3))).shape
    (True, (1, 14, 14, 4))

    Source: the documentation of ``flax.nnx.ConvTranspose``.
    """

    def __call__(self, inputs: Array) -> Array:
        kernel = semantics.masked(self.kernel[...], self.mask)
        bias = None if self.bias is None else self.bias[...]
        promoted = self.promote_dtype((inputs, kernel, bias), dtype=self.dtype)
        return semantics.conv_transpose(self, *promoted)


class Options(TypedDict, total=False):
    """The keywords that every module below takes, with Flax's meaning."""

    use_bias: bool
    dtype: Any
    param_dtype: Any
    precision: Any
    kernel_init: Callable
    bias_init: Callable
    promote_dtype: Callable
    preferred_element_type: Any
    kernel_metadata: Mapping[str, Any]
    bias_metadata: Mapping[str, Any]


class _Convolution(nnx.Module):
    """What the modules below share: how parameters are made, and in which dtype they are used.

    ``kernels`` are the shapes of the kernels by name; ``features`` is F, the size of the bias.
    """

    bias: nnx.Param[Array] | None

    def __init__(
        self,
        rngs: nnx.Rngs,
        kernels: Mapping[str, Sequence[int]],
        features: int,
        *,
        use_bias: bool = True,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Any = None,
        kernel_init: Callable = linear.default_kernel_init,
        bias_init: Callable = linear.default_bias_init,
        promote_dtype: Callable = dtypes.promote_dtype,
        preferred_element_type: Any = None,
        kernel_metadata: Mapping[str, Any] = NO_METADATA,
        bias_metadata: Mapping[str, Any] = NO_METADATA,
    ):
        self.use_bias = use_bias
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.promote_dtype = promote_dtype
        self.preferred_element_type = preferred_element_type
        # As in Flax the initialisers are not kept: those of jax cannot be pickled.
        for name, shape in kernels.items():
            initial = kernel_init(rngs.params(), tuple(shape), param_dtype)
            setattr(self, name, nnx.Param(initial, **kernel_metadata))
        if use_bias:
            initial = bias_init(rngs.params(), (features,), param_dtype)
            self.bias = nnx.Param(initial, **bias_metadata)
        else:
            self.bias = nnx.data(None)

    def _promoted(self, *arrays: Any) -> tuple[Array, ...]:
        """The inputs, the kernels and the bias, in the dtype of the computation."""
        bias = None if self.bias is None else self.bias[...]
        return self.promote_dtype((*arrays, bias), dtype=self.dtype)


class DepthwiseConv(_Convolution):
    """Depthwise convolution: every in-feature has its own ``multiplier`` filters.

        y[n, o, f] = bias[f] + sum over t of  x[n, s*o + d*t - low, f // M] * kernel[t, 0, f]

    Parameters: ``kernel [*K, 1, C*M]``, ``bias [C*M]``; the same, with the same initial values, as
    of ``nnx.Conv`` with ``feature_group_count=in_features``.

    Args:
        in_features: C.
        kernel_size: Kernel extents K, one a spatial axis; an int is one axis, as in Flax.
        multiplier: M, the filters of each in-feature.
        strides, padding: As in ``jaxconv.conv``.
        kernel_dilation: The ``dilation`` of ``jaxconv.conv``.
        rngs: The stream ``params`` gives the initial values.
        **options: ``Options``, with Flax's meaning and defaults.

    Called with ``x [..., *S, C]`` of any number of leading batch axes, it returns
    ``[..., *O, C*M]``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An array is neither floating nor complex after promotion.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = DepthwiseConv(5, (3, 3), multiplier=2, strides=2, rngs=nnx.Rngs(0))
    >>> layer.kernel.shape, layer(jnp.ones((1, 8, 8, 5))).shape
    ((3, 3, 1, 10), (1, 4, 4, 10))

    Source: F. Chollet, "Xception: deep learning with depthwise separable convolutions" (2017).
    """

    kernel: nnx.Param[Array]

    def __init__(
        self,
        in_features: int,
        kernel_size: Integers,
        multiplier: int = 1,
        strides: Integers = 1,
        *,
        padding: PaddingLike = "SAME",
        kernel_dilation: Integers = 1,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        semantics.positive("DepthwiseConv", in_features=in_features, multiplier=multiplier)
        self.in_features = in_features
        self.out_features = in_features * multiplier
        self.kernel_size = semantics.kernel_extents("DepthwiseConv", kernel_size)
        self.multiplier = multiplier
        self.strides = semantics.static(strides)
        self.padding = semantics.static(padding)
        self.kernel_dilation = semantics.static(kernel_dilation)
        kernels = {"kernel": (*self.kernel_size, 1, self.out_features)}
        super().__init__(rngs, kernels, self.out_features, **options)

    def __call__(self, inputs: Array) -> Array:
        return semantics.depthwise(self, *self._promoted(inputs, self.kernel[...]))


class PointwiseConv(_Convolution):
    """Pointwise (1×1) convolution: one matrix product at every pixel.

        y[n, o, f] = bias[f] + sum over c of  x[n, s*o, c] * kernel[c, f]

    Parameters: ``kernel [C, F]``, ``bias [F]``; the same, with the same initial values, as of
    ``nnx.Linear``.

    Args:
        in_features: C.
        out_features: F.
        strides: 1 for ``x [..., C]`` of any rank; another int for all spatial axes of
            ``x [N, *S, C]``; or one int a spatial axis, and then any number of batch axes.
        rngs: The stream ``params`` gives the initial values.
        **options: ``Options``, with Flax's meaning and defaults.

    Called with ``x [..., *S, C]``, it returns ``[..., *O, F]``, ``O = ceil(S / strides)``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An array is neither floating nor complex after promotion.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = PointwiseConv(5, 3, strides=2, rngs=nnx.Rngs(0))
    >>> layer.kernel.shape, layer(jnp.ones((1, 8, 8, 5))).shape
    ((5, 3), (1, 4, 4, 3))

    Source: M. Lin, Q. Chen, S. Yan, "Network in network" (2014).
    """

    kernel: nnx.Param[Array]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        strides: Integers = 1,
        *,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        semantics.positive("PointwiseConv", in_features=in_features, out_features=out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.strides = semantics.static(strides)
        super().__init__(rngs, {"kernel": (in_features, out_features)}, out_features, **options)

    def __call__(self, inputs: Array) -> Array:
        return semantics.pointwise(self, *self._promoted(inputs, self.kernel[...]))


class SeparableConv(_Convolution):
    """Depthwise separable convolution: a filter a feature, then a matrix over the features.

        y = pointwise_conv(depthwise_conv(x, depthwise_kernel), pointwise_kernel, bias)

    Parameters: ``depthwise_kernel [*K, 1, C*M]``, ``pointwise_kernel [C*M, F]``, ``bias [F]``.

    Args:
        in_features: C.
        out_features: F.
        kernel_size: Kernel extents K, one a spatial axis; an int is one axis, as in Flax.
        multiplier: M, the depthwise filters of each in-feature.
        strides, padding: As in ``jaxconv.conv``, of the depthwise part.
        kernel_dilation: The ``dilation`` of ``jaxconv.conv``, of the depthwise part.
        rngs: The stream ``params`` gives the initial values.
        **options: ``Options``, with Flax's meaning and defaults; ``kernel_init`` makes both
            kernels.

    Called with ``x [..., *S, C]`` of any number of leading batch axes, it returns ``[..., *O, F]``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An array is neither floating nor complex after promotion.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = SeparableConv(8, 32, (3, 3), padding="VALID", use_bias=False, rngs=nnx.Rngs(0))
    >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer)))
    328
    >>> layer(jnp.ones((1, 20, 20, 8))).shape
    (1, 18, 18, 32)

    Source: A. Howard et al., "MobileNets: efficient convolutional neural networks for mobile
    vision applications" (2017).
    """

    depthwise_kernel: nnx.Param[Array]
    pointwise_kernel: nnx.Param[Array]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Integers,
        multiplier: int = 1,
        strides: Integers = 1,
        *,
        padding: PaddingLike = "SAME",
        kernel_dilation: Integers = 1,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        semantics.positive(
            "SeparableConv",
            in_features=in_features,
            out_features=out_features,
            multiplier=multiplier,
        )
        self.in_features = in_features
        self.out_features = out_features
        self.kernel_size = semantics.kernel_extents("SeparableConv", kernel_size)
        self.multiplier = multiplier
        self.strides = semantics.static(strides)
        self.padding = semantics.static(padding)
        self.kernel_dilation = semantics.static(kernel_dilation)
        features = in_features * multiplier
        kernels = {
            "depthwise_kernel": (*self.kernel_size, 1, features),
            "pointwise_kernel": (features, out_features),
        }
        super().__init__(rngs, kernels, out_features, **options)

    def __call__(self, inputs: Array) -> Array:
        kernels = self.depthwise_kernel[...], self.pointwise_kernel[...]
        return semantics.separable(self, *self._promoted(inputs, *kernels))


class CausalConv(_Convolution):
    """Causal convolution in time, whole or as a stream.

        y[n, i, f] = bias[f] + sum over t, c of  x[n, s*i - d*(K-1-t), c] * kernel[t, c, f]

    Parameters: ``kernel [K, C/G, F]``, ``bias [F]``; the same, with the same initial values, as of
    ``nnx.Conv``.

    Args:
        in_features: C.
        out_features: F.
        kernel_size: K, an int or a sequence of one.
        strides: Steps between neighbouring outputs; a stream needs 1.
        kernel_dilation: The ``dilation`` of ``jaxconv.causal_conv``.
        feature_group_count: G, the number of groups; C of them make the convolution depthwise.
        rngs: The stream ``params`` gives the initial values.
        **options: ``Options``, with Flax's meaning and defaults.

    Called with ``x [..., L, C]`` of any number of leading batch axes, it returns
    ``[..., ceil(L/strides), F]``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An array is neither floating nor complex after promotion.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = CausalConv(3, 4, 2, rngs=nnx.Rngs(0))
    >>> x = jax.random.normal(jax.random.key(0), (1, 5, 3))
    >>> state = layer.init_state(batch_size=1)
    >>> first, state = layer.step(state, x[:, :2])
    >>> rest, state = layer.step(state, x[:, 2:])
    >>> bool(jnp.allclose(jnp.concatenate([first, rest], axis=1), layer(x), atol=1e-6))
    True

    Source: A. van den Oord et al., "WaveNet: a generative model for raw audio" (2016).
    """

    kernel: nnx.Param[Array]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Integers,
        strides: Integers = 1,
        *,
        kernel_dilation: Integers = 1,
        feature_group_count: int = 1,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        self.in_features = in_features
        self.out_features = out_features
        self.kernel_size = semantics.kernel_extents("CausalConv", kernel_size, most=1)
        self.strides = semantics.static(strides)
        self.kernel_dilation = semantics.static(kernel_dilation)
        self.feature_group_count = feature_group_count
        shape = semantics.grouped_kernel(
            "CausalConv", self.kernel_size, in_features, out_features, feature_group_count
        )
        super().__init__(rngs, {"kernel": shape}, out_features, **options)

    def __call__(self, inputs: Array) -> Array:
        return semantics.causal(self, *self._promoted(inputs, self.kernel[...]))

    def init_state(self, batch_size: int, dtype: Any = None) -> Array:
        """The state before the first input: zeros ``[N, (K-1)*dilation, C]``.

        ``dtype`` is that of the computation, by default the module's or the kernel's.
        """
        return semantics.causal_init(self, self.kernel[...], batch_size, dtype)

    def step(self, state: Array, inputs: Array) -> tuple[Array, Array]:
        """The outputs ``[N, L, F]`` for the next inputs ``[N, L, C]``, and the state after them."""
        return semantics.causal_step(self, *self._promoted(state, inputs, self.kernel[...]))
