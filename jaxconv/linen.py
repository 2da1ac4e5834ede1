"""The convolutions as modules of ``flax.linen``.

``Conv`` and ``ConvTranspose`` are Flax's own modules, computed by jaxconv. The other modules take
Flax's keywords and every padding that ``jaxconv.conv`` takes.
"""

# Flax leaves the types of its own attributes and functions partly open:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, Unpack, overload

import jax
import jax.numpy as jnp
from flax import linen
from flax.linen import dtypes, linear
from jax import lax
from jax.nn.initializers import Initializer
from jax.typing import ArrayLike, DTypeLike

from ._src.flax import semantics
from ._src.geometry.padding import PaddingLike
from ._src.geometry.types import Activation, Ints
from ._src.keywords import checks_keywords

__all__ = [
    "CausalConv",
    "Conv",
    "ConvTranspose",
    "DepthwiseConv",
    "PointwiseConv",
    "SeparableConv",
]

Array = jax.Array
Module = TypeVar("Module", bound=type[linen.Module])


def _checks_keywords(module: Module) -> Module:
    """The class, with an error in words for keywords that its ``__init__`` does not have."""
    untyped: Any = module
    untyped.__init__ = checks_keywords(module.__name__)(untyped.__init__)
    return module


@_checks_keywords
class Conv(linen.Conv):
    """``flax.linen.Conv``, computed by jaxconv.

    Attributes, parameters, initial values, dtypes and errors are those of the installed Flax. Only
    the default of ``conv_general_dilated`` differs; it can be passed as in Flax.

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

    @linen.nowrap  # so that Flax's own method is entered, named and captured once
    def __call__(self, inputs: Array, *args: Any, **keywords: Any) -> Array:
        semantics.warn_of_images(self, inputs)
        return super().__call__(inputs, *args, **keywords)


@_checks_keywords
class ConvTranspose(linen.ConvTranspose):
    """``flax.linen.ConvTranspose``, computed by jaxconv.

    Attributes, parameters, initial values, dtypes and the meaning of ``padding`` are those of the
    installed Flax; for the adjoint of a convolution use ``jaxconv.conv_transpose``.

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
        semantics.warn_of_images(self, inputs)
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
    """What the modules below share: Flax's keywords, creating the parameters and casting them."""

    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: lax.PrecisionLike = None
    kernel_init: Initializer = linear.default_kernel_init
    bias_init: Initializer = linen.initializers.zeros_init()
    promote_dtype: Callable[..., Any] = dtypes.promote_dtype  # pyright: ignore[reportUnknownVariableType]
    preferred_element_type: DTypeLike | None = None

    def _make(self, features: int, **kernels: tuple[int, ...]) -> tuple[Array | None, ...]:
        """The parameters: the kernels, and the bias or None."""
        name = type(self).__name__
        semantics.parameters(name, kernels, self.use_bias, self.dtype, self.param_dtype)
        arrays = [
            self.param(name, self.kernel_init, shape, self.param_dtype)
            for name, shape in kernels.items()
        ]
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (features,), self.param_dtype)
        return (*arrays, bias)

    def _promoted(self, *arrays: ArrayLike | None) -> tuple[Any, ...]:
        return semantics.promoted(
            type(self).__name__, lambda: self.promote_dtype(*arrays, dtype=self.dtype)
        )


@_checks_keywords
class DepthwiseConv(_Convolution):
    """Depthwise convolution: one bank of ``multiplier`` filters per channel.

        y[n, o, f] = bias[f] + sum over t of  x[n, s*o + d*t - low, f // M] * kernel[t, 0, f]

    Parameters: ``kernel [*K, 1, C*M]``, ``bias [C*M]``. They are those of a ``linen.Conv`` of the
    same name with ``feature_group_count=C``, with the same initial values.

    Attributes:
        kernel_size: The kernel extents K, one per spatial axis; an int means one axis, as in Flax.
        multiplier: M, the number of filters per channel.
        strides, padding: As in ``jaxconv.conv``.
        kernel_dilation: The ``dilation`` of ``jaxconv.conv``.
        use_bias, dtype, param_dtype, precision, kernel_init, bias_init, promote_dtype,
            preferred_element_type: As in Flax; keywords only.

    Call it with ``x [..., *S, C]``, with any number of leading batch axes; it returns
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

    kernel_size: Ints
    multiplier: int = 1
    strides: Ints = 1
    padding: PaddingLike = "SAME"
    kernel_dilation: Ints = 1

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        inputs = semantics.inputs("DepthwiseConv", inputs)
        (multiplier,) = semantics.positive("DepthwiseConv", multiplier=self.multiplier)
        semantics.warn_of_images(self, inputs)
        extents = semantics.kernel_extents("DepthwiseConv", self.kernel_size)
        features = semantics.features("DepthwiseConv", inputs) * multiplier
        parameters = self._make(features, kernel=(*extents, 1, features))
        return semantics.depthwise(self, *self._promoted(inputs, *parameters))


@_checks_keywords
class PointwiseConv(_Convolution):
    """Pointwise (1×1) convolution: one matrix product at every pixel.

        y[n, o, f] = bias[f] + sum over c of  x[n, s*o, c] * kernel[c, f]

    Parameters: ``kernel [C, F]``, ``bias [F]``. They are those of a ``linen.Dense`` of the same
    name, with the same initial values.

    Attributes:
        features: F, the number of features.
        strides: 1 for ``x [..., C]`` of any rank; another int for all spatial axes of
            ``x [N, *S, C]``; or one int per spatial axis, with any number of batch axes.
        use_bias, dtype, param_dtype, precision, kernel_init, bias_init, promote_dtype,
            preferred_element_type: As in Flax; keywords only.

    Call it with ``x [..., *S, C]``; it returns ``[..., *O, F]`` with ``O = ceil(S / strides)``.

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
    strides: Ints = 1

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        inputs = semantics.inputs("PointwiseConv", inputs)
        (features,) = semantics.positive("PointwiseConv", features=self.features)
        in_features = semantics.features("PointwiseConv", inputs)
        parameters = self._make(features, kernel=(in_features, features))
        return semantics.pointwise(self, *self._promoted(inputs, *parameters))


@_checks_keywords
class SeparableConv(_Convolution):
    """Depthwise separable convolution: filter each channel in space, then mix the channels.

        y = pointwise_conv(depthwise_conv(x, depthwise_kernel), pointwise_kernel, bias)

    Parameters: ``depthwise_kernel [*K, 1, C*M]``, ``pointwise_kernel [C*M, F]``, ``bias [F]``.

    Attributes:
        features: F, the number of features.
        kernel_size: The kernel extents K, one per spatial axis; an int means one axis, as in Flax.
        multiplier: M, the number of depthwise filters per channel.
        strides, padding: As in ``jaxconv.conv``, for the depthwise part.
        kernel_dilation: The ``dilation`` of ``jaxconv.conv``, for the depthwise part.
        use_bias, dtype, param_dtype, precision, kernel_init, bias_init, promote_dtype,
            preferred_element_type: As in Flax; keywords only. ``kernel_init`` initializes both
            kernels.

    Call it with ``x [..., *S, C]``, with any number of leading batch axes; it returns
    ``[..., *O, F]``.

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
    kernel_size: Ints
    multiplier: int = 1
    strides: Ints = 1
    padding: PaddingLike = "SAME"
    kernel_dilation: Ints = 1

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        inputs = semantics.inputs("SeparableConv", inputs)
        features, multiplier = semantics.positive(
            "SeparableConv", features=self.features, multiplier=self.multiplier
        )
        semantics.warn_of_images(self, inputs)
        extents = semantics.kernel_extents("SeparableConv", self.kernel_size)
        filters = semantics.features("SeparableConv", inputs) * multiplier
        parameters = self._make(
            features,
            depthwise_kernel=(*extents, 1, filters),
            pointwise_kernel=(filters, features),
        )
        return semantics.separable(self, *self._promoted(inputs, *parameters))


@_checks_keywords
class CausalConv(_Convolution):
    """Causal convolution in time, of whole sequences or of a stream.

        y[n, i, f] = bias[f] + sum over t, c of  x[n, s*i - d*(K-1-t), c] * kernel[t, c, f]

    Parameters: ``kernel [K, C/G, F]``, ``bias [F]``. They are those of a ``linen.Conv`` of the same
    name, with the same initial values.

    Attributes:
        features: F, the number of features.
        kernel_size: K, an int or a sequence of one int.
        strides: Distance between neighboring outputs in steps; ``step`` needs 1.
        kernel_dilation: The ``dilation`` of ``jaxconv.causal_conv``.
        feature_group_count: G, the number of groups; with ``G = C`` the convolution is depthwise.
        activation: Applied to the outputs, in the same pass: as in ``jaxconv.fused_conv``.
        use_bias, dtype, param_dtype, precision, kernel_init, bias_init, promote_dtype,
            preferred_element_type: As in Flax; keywords only.

    Call it with ``x [..., L, C]``, with any number of leading batch axes; it returns
    ``[..., ceil(L/strides), F]``. It also takes ``segment_ids``, ``initial_state``,
    ``return_final_state`` and ``lengths``, as ``jaxconv.causal_conv`` does. For a stream,
    ``apply`` the methods ``init_state`` and ``step``.

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
    kernel_size: Ints
    strides: Ints = 1
    kernel_dilation: Ints = 1
    feature_group_count: int = 1
    activation: Activation = None

    @linen.compact
    def _parameters(self, inputs: Array) -> tuple[Array | None, ...]:
        shape = semantics.grouped_kernel(
            "CausalConv",
            semantics.kernel_extents("CausalConv", self.kernel_size, max_rank=1),
            semantics.features("CausalConv", inputs),
            self.features,
            self.feature_group_count,
        )
        return self._make(self.features, kernel=shape)

    @overload
    def __call__(
        self,
        inputs: Array,
        *,
        return_final_state: Literal[False] = False,
        **beside: Unpack[semantics.Beside],
    ) -> Array: ...
    @overload
    def __call__(
        self,
        inputs: Array,
        *,
        return_final_state: Literal[True],
        **beside: Unpack[semantics.Beside],
    ) -> tuple[Array, Array]: ...
    def __call__(
        self,
        inputs: Array,
        *,
        segment_ids: ArrayLike | None = None,
        initial_state: ArrayLike | None = None,
        return_final_state: bool = False,
        lengths: ArrayLike | None = None,
    ) -> Array | tuple[Array, Array]:
        parameters = self._parameters(inputs)
        inputs = semantics.inputs("CausalConv", inputs)
        x, kernel, bias, state = self._promoted(inputs, *parameters, initial_state)
        return semantics.causal(
            self,
            x,
            kernel,
            bias,
            initial_state=state,
            segment_ids=segment_ids,
            lengths=lengths,
            return_final_state=return_final_state,
        )

    def init_state(self, batch_size: int, dtype: DTypeLike | None = None) -> Array:
        """The state before the first input: zeros of shape ``[N, (K-1)*dilation, C]``.

        ``dtype`` is the dtype of the computation: by default the module's, or else the kernel's.
        """
        kernel = linen.meta.unbox(self.get_variable("params", "kernel"))
        if kernel is None:
            raise ValueError(
                "CausalConv.init_state: the number of channels of the state is that of the kernel, "
                "but the module has no parameters yet; initialize it with its first inputs first"
            )
        return semantics.causal_init(self, kernel, batch_size, dtype)

    def step(self, state: Array, inputs: Array) -> tuple[Array, Array]:
        """The outputs ``[N, L, F]`` for the next inputs ``[N, L, C]``, and the state after them."""
        parameters = self._parameters(inputs)
        return semantics.causal_step(self, *self._promoted(state, inputs, *parameters))
