"""The convolutions as modules of ``flax.linen``.

``Conv`` and ``ConvTranspose`` are Flax's own with another computation. The other modules take
Flax's keywords and the whole padding vocabulary of ``jaxconv.conv``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from flax.linen import dtypes, linear

from ._src.flax import semantics as semantics
from ._src.geometry.padding import PaddingLike

Array = jax.Array
Integers = int | Sequence[int]


class Conv(linen.Conv):
    """``flax.linen.Conv``, computed by the family.

    Attributes, parameters, initial values, dtypes and errors are Flax's, whichever version it is;
    only the default of ``conv_general_dilated`` differs, and may be given as there.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> y, variables = Conv(4, (3, 3), strides=2).init_with_output(
    ...     jax.random.key(0), jnp.ones((1, 8, 8, 3))
    ... )
    >>> y.shape, variables["params"]["kernel"].shape
    ((1, 4, 4, 4), (3, 3, 3, 4))

    Source: the documentation of ``flax.linen.Conv``.
    """

    conv_general_dilated: Any = semantics.convolution


class ConvTranspose(linen.ConvTranspose):
    """``flax.linen.ConvTranspose``, computed by the family.

    Attributes, parameters, initial values and dtypes are Flax's, and so is what ``padding`` means;
    for the adjoint of a convolution use ``jaxconv.conv_transpose``.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> layer = ConvTranspose(4, (4, 4), strides=(2, 2))
    >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 7, 7, 3)))
    >>> y.shape, variables["params"]["kernel"].shape
    ((1, 14, 14, 4), (4, 4, 3, 4))

    Source: the documentation of ``flax.linen.ConvTranspose``.
    """

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        extents = semantics.kernel_extents("ConvTranspose", self.kernel_size)
        features = (semantics.features("ConvTranspose", inputs), self.features)
        shape = (*extents, *(reversed(features) if self.transpose_kernel else features))
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        kernel = semantics.masked(kernel, self.mask)
        promoted: Any = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        return semantics.conv_transpose(self, *promoted)


class _Convolution(linen.Module, kw_only=True):
    """What the modules below share: Flax's keywords, how parameters are made and promoted."""

    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Callable = linear.default_kernel_init
    bias_init: Callable = linen.initializers.zeros_init()
    promote_dtype: Callable = dtypes.promote_dtype
    preferred_element_type: Any = None

    def _make(self, features: int, **kernels: tuple[int, ...]) -> tuple[Array | None, ...]:
        """The parameters: the kernels, and the bias or None."""
        arrays = [
            self.param(name, self.kernel_init, shape, self.param_dtype)
            for name, shape in kernels.items()
        ]
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (features,), self.param_dtype)
        return (*arrays, bias)

    def _promoted(self, *arrays: Array | None) -> tuple[Any, ...]:
        return self.promote_dtype(*arrays, dtype=self.dtype)


class DepthwiseConv(_Convolution):
    """Depthwise convolution: every in-feature has its own ``multiplier`` filters.

        y[n, o, f] = bias[f] + sum over t of  x[n, s*o + d*t - low, f // M] * kernel[t, 0, f]

    Parameters: ``kernel [*K, 1, C*M]``, ``bias [C*M]``; the same, with the same initial values, as
    of ``linen.Conv`` of the same name with ``feature_group_count=C``.

    Attributes:
        kernel_size: Kernel extents K, one a spatial axis; an int is one axis, as in Flax.
        multiplier: M, the filters of each in-feature.
        strides, padding: As in ``jaxconv.conv``.
        kernel_dilation: The ``dilation`` of ``jaxconv.conv``.
        use_bias, dtype, param_dtype, precision, kernel_init, bias_init, promote_dtype,
            preferred_element_type: As in Flax; keywords only.

    Called with ``x [..., *S, C]`` of any number of leading batch axes, it returns
    ``[..., *O, C*M]``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An array is neither floating nor complex after promotion.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> layer = DepthwiseConv((3, 3), multiplier=2, strides=2)
    >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 5)))
    >>> y.shape, variables["params"]["kernel"].shape
    ((1, 4, 4, 10), (3, 3, 1, 10))

    Source: F. Chollet, "Xception: deep learning with depthwise separable convolutions" (2017).
    """

    kernel_size: Integers
    multiplier: int = 1
    strides: Integers = 1
    padding: PaddingLike = "SAME"
    kernel_dilation: Integers = 1

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        semantics.positive("DepthwiseConv", multiplier=self.multiplier)
        extents = semantics.kernel_extents("DepthwiseConv", self.kernel_size)
        features = semantics.features("DepthwiseConv", inputs) * self.multiplier
        parameters = self._make(features, kernel=(*extents, 1, features))
        return semantics.depthwise(self, *self._promoted(inputs, *parameters))


class PointwiseConv(_Convolution):
    """Pointwise (1×1) convolution: one matrix product at every pixel.

        y[n, o, f] = bias[f] + sum over c of  x[n, s*o, c] * kernel[c, f]

    Parameters: ``kernel [C, F]``, ``bias [F]``; the same, with the same initial values, as of
    ``linen.Dense`` of the same name.

    Attributes:
        features: F.
        strides: 1 for ``x [..., C]`` of any rank; another int for all spatial axes of
            ``x [N, *S, C]``; or one int a spatial axis, and then any number of batch axes.
        use_bias, dtype, param_dtype, precision, kernel_init, bias_init, promote_dtype,
            preferred_element_type: As in Flax; keywords only.

    Called with ``x [..., *S, C]``, it returns ``[..., *O, F]``, ``O = ceil(S / strides)``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An array is neither floating nor complex after promotion.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> layer = PointwiseConv(3, strides=2)
    >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 5)))
    >>> y.shape, variables["params"]["kernel"].shape
    ((1, 4, 4, 3), (5, 3))

    Source: M. Lin, Q. Chen, S. Yan, "Network in network" (2014).
    """

    features: int
    strides: Integers = 1

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        semantics.positive("PointwiseConv", features=self.features)
        in_features = semantics.features("PointwiseConv", inputs)
        parameters = self._make(self.features, kernel=(in_features, self.features))
        return semantics.pointwise(self, *self._promoted(inputs, *parameters))


class SeparableConv(_Convolution):
    """Depthwise separable convolution: a filter a feature, then a matrix over the features.

        y = pointwise_conv(depthwise_conv(x, depthwise_kernel), pointwise_kernel, bias)

    Parameters: ``depthwise_kernel [*K, 1, C*M]``, ``pointwise_kernel [C*M, F]``, ``bias [F]``.

    Attributes:
        features: F.
        kernel_size: Kernel extents K, one a spatial axis; an int is one axis, as in Flax.
        multiplier: M, the depthwise filters of each in-feature.
        strides, padding: As in ``jaxconv.conv``, of the depthwise part.
        kernel_dilation: The ``dilation`` of ``jaxconv.conv``, of the depthwise part.
        use_bias, dtype, param_dtype, precision, kernel_init, bias_init, promote_dtype,
            preferred_element_type: As in Flax; keywords only. ``kernel_init`` makes both kernels.

    Called with ``x [..., *S, C]`` of any number of leading batch axes, it returns ``[..., *O, F]``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An array is neither floating nor complex after promotion.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> layer = SeparableConv(32, (3, 3), padding="VALID", use_bias=False)
    >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 20, 20, 8)))
    >>> y.shape, sum(leaf.size for leaf in jax.tree.leaves(variables))
    ((1, 18, 18, 32), 328)

    Source: A. Howard et al., "MobileNets: efficient convolutional neural networks for mobile
    vision applications" (2017).
    """

    features: int
    kernel_size: Integers
    multiplier: int = 1
    strides: Integers = 1
    padding: PaddingLike = "SAME"
    kernel_dilation: Integers = 1

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        semantics.positive("SeparableConv", features=self.features, multiplier=self.multiplier)
        extents = semantics.kernel_extents("SeparableConv", self.kernel_size)
        filters = semantics.features("SeparableConv", inputs) * self.multiplier
        parameters = self._make(
            self.features,
            depthwise_kernel=(*extents, 1, filters),
            pointwise_kernel=(filters, self.features),
        )
        return semantics.separable(self, *self._promoted(inputs, *parameters))


class CausalConv(_Convolution):
    """Causal convolution in time, whole or as a stream.

        y[n, i, f] = bias[f] + sum over t, c of  x[n, s*i - d*(K-1-t), c] * kernel[t, c, f]

    Parameters: ``kernel [K, C/G, F]``, ``bias [F]``; the same, with the same initial values, as of
    ``linen.Conv`` of the same name.

    Attributes:
        features: F.
        kernel_size: K, an int or a sequence of one.
        strides: Steps between neighbouring outputs; a stream needs 1.
        kernel_dilation: The ``dilation`` of ``jaxconv.causal_conv``.
        feature_group_count: G, the number of groups; C of them make the convolution depthwise.
        use_bias, dtype, param_dtype, precision, kernel_init, bias_init, promote_dtype,
            preferred_element_type: As in Flax; keywords only.

    Called with ``x [..., L, C]`` of any number of leading batch axes, it returns
    ``[..., ceil(L/strides), F]``. For a stream, ``apply`` the methods ``init_state`` and ``step``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An array is neither floating nor complex after promotion.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> layer = CausalConv(4, 2)
    >>> x = jax.random.normal(jax.random.key(0), (1, 5, 3))
    >>> whole, variables = layer.init_with_output(jax.random.key(1), x)
    >>> state = layer.apply(variables, 1, method="init_state")
    >>> first, state = layer.apply(variables, state, x[:, :2], method="step")
    >>> rest, state = layer.apply(variables, state, x[:, 2:], method="step")
    >>> bool(jnp.allclose(jnp.concatenate([first, rest], axis=1), whole, atol=1e-6))
    True

    Source: A. van den Oord et al., "WaveNet: a generative model for raw audio" (2016).
    """

    features: int
    kernel_size: Integers
    strides: Integers = 1
    kernel_dilation: Integers = 1
    feature_group_count: int = 1

    @linen.compact
    def _parameters(self, inputs: Array) -> tuple[Array | None, ...]:
        shape = semantics.grouped_kernel(
            "CausalConv",
            semantics.kernel_extents("CausalConv", self.kernel_size, most=1),
            semantics.features("CausalConv", inputs),
            self.features,
            self.feature_group_count,
        )
        return self._make(self.features, kernel=shape)

    def __call__(self, inputs: Array) -> Array:
        parameters = self._parameters(inputs)
        return semantics.causal(self, *self._promoted(inputs, *parameters))

    def init_state(self, batch_size: int, dtype: Any = None) -> Array:
        """The state before the first input: zeros ``[N, (K-1)*dilation, C]``.

        ``dtype`` is that of the computation, by default the module's or the kernel's.
        """
        kernel = linen.meta.unbox(self.get_variable("params", "kernel"))
        if kernel is None:
            raise ValueError(
                "CausalConv.init_state: the state has as many features as the parameters read, but "
                "there are none yet; initialise the module with its first inputs, then apply"
            )
        return semantics.causal_init(self, kernel, batch_size, dtype)

    def step(self, state: Array, inputs: Array) -> tuple[Array, Array]:
        """The outputs ``[N, L, F]`` for the next inputs ``[N, L, C]``, and the state after them."""
        parameters = self._parameters(inputs)
        return semantics.causal_step(self, *self._promoted(state, inputs, *parameters))
