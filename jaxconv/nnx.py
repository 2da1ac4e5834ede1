"""The convolutions as modules of ``flax.nnx``.

``Conv`` and ``ConvTranspose`` are Flax's own modules, computed by jaxconv. The other modules take
Flax's keywords and every padding that ``jaxconv.conv`` takes.
"""

# Flax leaves the types of its own attributes and functions partly open:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes, linear
from flax.typing import PromoteDtypeFn
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
NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class _Signature:
    """``__signature__`` of a module's class: that of ``__init__``, with every option by name.

    ``inspect`` and editors would otherwise see the ``*args, **kwargs`` of Flax's metaclass.
    """

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        if instance is not None:  # an instance is called with arrays
            raise AttributeError("__signature__")
        _, *parameters = inspect.signature(owner.__init__).parameters.values()
        options = inspect.signature(_Convolution.__init__).parameters.values()
        keywords = [option for option in options if option.kind is option.KEYWORD_ONLY]
        expanded: list[inspect.Parameter] = []
        for parameter in parameters:
            expanded += keywords if parameter.annotation == "Unpack[Options]" else [parameter]
        return inspect.Signature(expanded)


def _flax_init(name: str, flax_class: type, **defaults: Any) -> Any:
    """The ``__init__`` of a class of Flax with other defaults, and errors that name the keyword."""
    init: Any = flax_class.__init__
    signature = inspect.signature(init)
    parameters = [
        each.replace(default=defaults.get(each.name, each.default))
        for each in signature.parameters.values()
    ]

    def __init__(self: Any, *args: Any, **keywords: Any) -> None:  # noqa: N807
        init(self, *args, **(defaults | keywords))
        given = signature.bind(self, *args, **keywords).arguments
        self.kernel_size_is_int = semantics.kernel_size_is_int(given["kernel_size"])

    __init__.__signature__ = signature.replace(parameters=parameters)
    return checks_keywords(name)(__init__)


class Conv(nnx.Conv):
    """``flax.nnx.Conv``, computed by jaxconv.

    Arguments, parameters, initial values, dtypes and errors are those of the installed Flax. Only
    the default of ``conv_general_dilated`` differs; it can be passed as in Flax.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = Conv(3, 4, (3, 3), strides=2, rngs=nnx.Rngs(0))
    >>> isinstance(layer, nnx.Conv), layer(jnp.ones((1, 8, 8, 3))).shape
    (True, (1, 4, 4, 4))

    Source: the documentation of ``flax.nnx.Conv``.
    """

    if not TYPE_CHECKING:  # type checkers see the signature of Flax's own
        __signature__ = _Signature()
        __init__ = _flax_init("Conv", nnx.Conv, conv_general_dilated=semantics.convolution)

        @functools.wraps(nnx.Conv.__call__)
        def __call__(self, inputs: Array, *args: Any, **keywords: Any) -> Array:
            semantics.warn_of_images(self, inputs)
            return super().__call__(inputs, *args, **keywords)


class ConvTranspose(nnx.ConvTranspose):
    """``flax.nnx.ConvTranspose``, computed by jaxconv.

    Arguments, parameters, initial values, dtypes and the meaning of ``padding`` are those of the
    installed Flax; for the adjoint of a convolution use ``jaxconv.conv_transpose``.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = ConvTranspose(3, 4, (4, 4), strides=2, rngs=nnx.Rngs(0))
    >>> isinstance(layer, nnx.ConvTranspose), layer(jnp.ones((1, 7, 7, 3))).shape
    (True, (1, 14, 14, 4))

    Source: the documentation of ``flax.nnx.ConvTranspose``.
    """

    if not TYPE_CHECKING:
        __signature__ = _Signature()
        __init__ = _flax_init("ConvTranspose", nnx.ConvTranspose)

    def __call__(self, inputs: Array) -> Array:
        layer: Any = self
        inputs = semantics.inputs("ConvTranspose", inputs)
        semantics.warn_of_images(layer, inputs)
        kernel = semantics.masked(layer.kernel[...], layer.mask)
        bias = None if layer.bias is None else layer.bias[...]
        promoted = layer.promote_dtype((inputs, kernel, bias), dtype=layer.dtype)
        return semantics.conv_transpose(layer, *promoted)


class Options(TypedDict, total=False):
    """The keywords that every module below takes, with the same meaning as in Flax.

    ``use_bias``: whether to add a bias. ``dtype``: the dtype of the computation, by default that of
    the inputs and parameters together. ``param_dtype``: the dtype of the parameters.
    ``kernel_init``, ``bias_init``: the initializers. ``precision``, ``preferred_element_type``: as
    in ``jaxconv.conv``. ``promote_dtype``: the function that casts inputs and parameters to one
    dtype. ``kernel_metadata``, ``bias_metadata``: metadata of the parameters.
    """

    use_bias: bool
    dtype: DTypeLike | None
    param_dtype: DTypeLike
    precision: lax.PrecisionLike
    kernel_init: Initializer
    bias_init: Initializer
    promote_dtype: PromoteDtypeFn
    preferred_element_type: DTypeLike | None
    kernel_metadata: Mapping[str, Any]
    bias_metadata: Mapping[str, Any]


class _Convolution(nnx.Module):
    """What the modules below share: creating the parameters and casting them for the computation.

    ``kernels`` are the shapes of the kernels by name; ``features`` is F, the size of the bias.
    """

    if not TYPE_CHECKING:
        __signature__ = _Signature()
    bias: nnx.Param[Array] | None

    def __init__(
        self,
        rngs: nnx.Rngs,
        kernels: Mapping[str, Sequence[int]],
        features: int,
        *,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: lax.PrecisionLike = None,
        kernel_init: Initializer = linear.default_kernel_init,
        bias_init: Initializer = linear.default_bias_init,
        promote_dtype: PromoteDtypeFn = dtypes.promote_dtype,
        preferred_element_type: DTypeLike | None = None,
        kernel_metadata: Mapping[str, Any] = NO_METADATA,
        bias_metadata: Mapping[str, Any] = NO_METADATA,
    ):
        semantics.parameters(type(self).__name__, kernels, use_bias, dtype, param_dtype)
        self.use_bias = use_bias
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.promote_dtype = promote_dtype
        self.preferred_element_type = preferred_element_type
        # Like Flax, do not keep the initializers: those of jax cannot be pickled.
        for name, shape in kernels.items():
            initial = kernel_init(rngs.params(), tuple(shape), param_dtype)
            setattr(self, name, nnx.Param(initial, **kernel_metadata))
        if use_bias:
            initial = bias_init(rngs.params(), (features,), param_dtype)
            self.bias = nnx.Param(initial, **bias_metadata)
        else:
            self.bias = nnx.data(None)

    def _promoted(self, *arrays: Any) -> tuple[Any, ...]:
        """The inputs, the kernels and the bias or None, in the dtype of the computation."""
        bias = None if self.bias is None else self.bias[...]
        name = type(self).__name__
        checked = [a if a is None else semantics.inputs(name, a) for a in arrays]
        return semantics.promoted(
            name, lambda: self.promote_dtype((*checked, bias), dtype=self.dtype)
        )


class DepthwiseConv(_Convolution):
    """Depthwise convolution: one bank of ``multiplier`` filters per channel.

        y[n, o, f] = bias[f] + sum over t of  x[n, s*o + d*t - low, f // M] * kernel[t, 0, f]

    Parameters: ``kernel [*K, 1, C*M]``, ``bias [C*M]``. They are those of ``nnx.Conv`` with
    ``feature_group_count=in_features``, with the same initial values.

    Args:
        in_features: C, the number of channels.
        kernel_size: The kernel extents K, one per spatial axis; an int means one axis, as in Flax.
        multiplier: M, the number of filters per channel.
        strides, padding: As in ``jaxconv.conv``.
        kernel_dilation: The ``dilation`` of ``jaxconv.conv``.
        rngs: Its ``params`` stream is used for the initial values.
        **options: The keywords of ``Options``, with Flax's meaning and defaults.

    Call it with ``x [..., *S, C]``, with any number of leading batch axes; it returns
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

    @checks_keywords("DepthwiseConv", Options.__annotations__)
    def __init__(
        self,
        in_features: int,
        kernel_size: Ints,
        multiplier: int = 1,
        strides: Ints = 1,
        *,
        padding: PaddingLike = "SAME",
        kernel_dilation: Ints = 1,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        in_features, multiplier = semantics.positive(
            "DepthwiseConv", in_features=in_features, multiplier=multiplier
        )
        self.in_features = in_features
        self.out_features = in_features * multiplier
        self.kernel_size = semantics.kernel_extents("DepthwiseConv", kernel_size)
        self.kernel_size_is_int = semantics.kernel_size_is_int(kernel_size)
        self.multiplier = multiplier
        self.strides = semantics.static(strides)
        self.padding = semantics.static(padding)
        self.kernel_dilation = semantics.static(kernel_dilation)
        kernels = {"kernel": (*self.kernel_size, 1, self.out_features)}
        super().__init__(rngs, kernels, self.out_features, **options)

    def __call__(self, inputs: Array) -> Array:
        semantics.warn_of_images(self, inputs)
        return semantics.depthwise(self, *self._promoted(inputs, self.kernel[...]))


class PointwiseConv(_Convolution):
    """Pointwise (1×1) convolution: one matrix product at every pixel.

        y[n, o, f] = bias[f] + sum over c of  x[n, s*o, c] * kernel[c, f]

    Parameters: ``kernel [C, F]``, ``bias [F]``. They are those of ``nnx.Linear``, with the same
    initial values.

    Args:
        in_features: C, the number of channels.
        out_features: F, the number of features.
        strides: 1 for ``x [..., C]`` of any rank; another int for all spatial axes of
            ``x [N, *S, C]``; or one int per spatial axis, with any number of batch axes.
        rngs: Its ``params`` stream is used for the initial values.
        **options: The keywords of ``Options``, with Flax's meaning and defaults.

    Call it with ``x [..., *S, C]``; it returns ``[..., *O, F]`` with ``O = ceil(S / strides)``.

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

    @checks_keywords("PointwiseConv", Options.__annotations__)
    def __init__(
        self,
        in_features: int,
        out_features: int,
        strides: Ints = 1,
        *,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        in_features, out_features = semantics.positive(
            "PointwiseConv", in_features=in_features, out_features=out_features
        )
        self.in_features = in_features
        self.out_features = out_features
        self.strides = semantics.static(strides)
        super().__init__(rngs, {"kernel": (in_features, out_features)}, out_features, **options)

    def __call__(self, inputs: Array) -> Array:
        return semantics.pointwise(self, *self._promoted(inputs, self.kernel[...]))


class SeparableConv(_Convolution):
    """Depthwise separable convolution: filter each channel in space, then mix the channels.

        y = pointwise_conv(depthwise_conv(x, depthwise_kernel), pointwise_kernel, bias)

    Parameters: ``depthwise_kernel [*K, 1, C*M]``, ``pointwise_kernel [C*M, F]``, ``bias [F]``.

    Args:
        in_features: C, the number of channels.
        out_features: F, the number of features.
        kernel_size: The kernel extents K, one per spatial axis; an int means one axis, as in Flax.
        multiplier: M, the number of depthwise filters per channel.
        strides, padding: As in ``jaxconv.conv``, for the depthwise part.
        kernel_dilation: The ``dilation`` of ``jaxconv.conv``, for the depthwise part.
        rngs: Its ``params`` stream is used for the initial values.
        **options: The keywords of ``Options``, with Flax's meaning and defaults; ``kernel_init``
            initializes both kernels.

    Call it with ``x [..., *S, C]``, with any number of leading batch axes; it returns
    ``[..., *O, F]``.

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

    @checks_keywords("SeparableConv", Options.__annotations__)
    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Ints,
        multiplier: int = 1,
        strides: Ints = 1,
        *,
        padding: PaddingLike = "SAME",
        kernel_dilation: Ints = 1,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        in_features, out_features, multiplier = semantics.positive(
            "SeparableConv",
            in_features=in_features,
            out_features=out_features,
            multiplier=multiplier,
        )
        self.in_features = in_features
        self.out_features = out_features
        self.kernel_size = semantics.kernel_extents("SeparableConv", kernel_size)
        self.kernel_size_is_int = semantics.kernel_size_is_int(kernel_size)
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
        semantics.warn_of_images(self, inputs)
        kernels = self.depthwise_kernel[...], self.pointwise_kernel[...]
        return semantics.separable(self, *self._promoted(inputs, *kernels))


class CausalConv(_Convolution):
    """Causal convolution in time, of whole sequences or of a stream.

        y[n, i, f] = bias[f] + sum over t, c of  x[n, s*i - d*(K-1-t), c] * kernel[t, c, f]

    Parameters: ``kernel [K, C/G, F]``, ``bias [F]``. They are those of ``nnx.Conv``, with the same
    initial values.

    Args:
        in_features: C, the number of channels.
        out_features: F, the number of features.
        kernel_size: K, an int or a sequence of one int.
        strides: Distance between neighboring outputs in steps; ``step`` needs 1.
        kernel_dilation: The ``dilation`` of ``jaxconv.causal_conv``.
        feature_group_count: G, the number of groups; with ``G = C`` the convolution is depthwise.
        activation: Applied to the outputs, in the same pass: as in ``jaxconv.fused_conv``.
        rngs: Its ``params`` stream is used for the initial values.
        **options: The keywords of ``Options``, with Flax's meaning and defaults.

    Call it with ``x [..., L, C]``, with any number of leading batch axes; it returns
    ``[..., ceil(L/strides), F]``. It also takes ``segment_ids``, ``initial_state``,
    ``return_final_state`` and ``lengths``, as ``jaxconv.causal_conv`` does. For a stream use
    ``init_state`` and ``step``.

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

    @checks_keywords("CausalConv", Options.__annotations__)
    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Ints,
        strides: Ints = 1,
        *,
        kernel_dilation: Ints = 1,
        feature_group_count: int = 1,
        activation: Activation = None,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        in_features, out_features, feature_group_count = semantics.positive(
            "CausalConv",
            in_features=in_features,
            out_features=out_features,
            feature_group_count=feature_group_count,
        )
        self.in_features = in_features
        self.out_features = out_features
        self.kernel_size = semantics.kernel_extents("CausalConv", kernel_size, max_rank=1)
        self.strides = semantics.static(strides)
        self.kernel_dilation = semantics.static(kernel_dilation)
        self.feature_group_count = feature_group_count
        self.activation = activation
        shape = semantics.grouped_kernel(
            "CausalConv", self.kernel_size, in_features, out_features, feature_group_count
        )
        super().__init__(rngs, {"kernel": shape}, out_features, **options)

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
        x, kernel, state, bias = self._promoted(inputs, self.kernel[...], initial_state)
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
        return semantics.causal_init(self, self.kernel[...], batch_size, dtype)

    def step(self, state: Array, inputs: Array) -> tuple[Array, Array]:
        """The outputs ``[N, L, F]`` for the next inputs ``[N, L, C]``, and the state after them."""
        return semantics.causal_step(self, *self._promoted(state, inputs, self.kernel[...]))
