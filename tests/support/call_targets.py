"""A valid call of every public function and module, which ``argument_fuzz`` then spoils."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np

import jaxconv
import jaxconv.linen
import jaxconv.nnx
from jaxconv import ConvSpec, filters, sharding


class Target(NamedTuple):
    """``function(**arguments)`` is valid; an error must have one of ``words`` in its text.

    ``compared``: whether the implementation decides nothing but how the result is computed.
    ``foreign``: a function of another library whose errors it may also raise.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    words: tuple[str, ...]
    compared: bool = True
    foreign: Callable[..., Any] | None = None
    passed_on: tuple[str, ...] = ()  # the arguments for which ``foreign`` counts; empty: all


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


X1, K1 = ones(1, 9, 4), ones(3, 4, 6)
X2, K2, D2 = ones(1, 5, 5, 4), ones(3, 3, 4, 4), ones(3, 3, 1, 4)
X3, K3 = ones(1, 3, 4, 5, 2), ones(2, 2, 2, 2, 3)
FLAT, BIAS = ones(4, 6), ones(4)
WINDOW = {"strides": 1, "padding": "SAME", "dilation": 1}
OPTIONS = {"precision": None, "preferred_element_type": None, "implementation": None}


def function(name: str, *, also: tuple[str, ...] = (), **arguments: Any) -> Target:
    return Target(getattr(jaxconv, name), arguments, (name, *also))


def convolution(name: str, groups: bool = True, **arguments: Any) -> Target:
    window = WINDOW | ({"groups": 1} if groups else {})
    return function(name, **arguments, **window, **OPTIONS)


def causal(name: str, **arguments: Any) -> Target:
    return function(name, x=X1, kernel=K1, dilation=1, groups=1, **arguments, **OPTIONS)


FUNCTIONS = {
    "conv 1-D": convolution("conv", x=X1, kernel=K1, bias=None),
    "conv 2-D": convolution("conv", x=X2, kernel=K2, bias=BIAS),
    "conv 3-D": convolution("conv", x=X3, kernel=K3, bias=None),
    "depthwise_conv": convolution("depthwise_conv", False, x=X2, kernel=D2, bias=BIAS),
    "pointwise_conv": function(
        "pointwise_conv", x=X2, kernel=K2[:1, :1], bias=None, strides=1, **OPTIONS
    ),
    "flat pointwise_conv": function(
        "pointwise_conv", x=X2, kernel=FLAT, bias=None, strides=1, **OPTIONS
    ),
    "separable_conv": convolution(
        "separable_conv", False, x=X2, depthwise_kernel=D2, pointwise_kernel=FLAT, bias=None
    ),
    "conv_transpose": convolution("conv_transpose", x=X2, kernel=K2, bias=BIAS, output_padding=0),
    "conv_input_grad": convolution("conv_input_grad", g=X2, kernel=K2, input_spatial=(5, 5)),
    "conv_filter_grad": convolution("conv_filter_grad", x=X2, g=X2, kernel_spatial=(3, 3)),
    "causal_conv": causal(
        "causal_conv",
        bias=None,
        strides=1,
        activation=None,
        segment_ids=None,
        initial_state=None,
        lengths=None,
        return_final_state=False,
    ),
    "causal_conv after a state": function(
        "causal_conv",
        x=X1,
        kernel=K1,
        initial_state=ones(1, 2, 4),
        return_final_state=True,
        segment_ids=np.zeros((1, 9), np.int32),
        lengths=np.array([3]),
    ),
    "long_conv": function(
        "long_conv", x=X1, kernel=K1, bias=None, causal=True, groups=1, **OPTIONS
    ),
    "causal_conv_init": function(
        "causal_conv_init", kernel=K1, batch_size=2, dilation=1, groups=1, dtype=None
    ),
    "causal_conv_step": causal("causal_conv_step", state=ones(1, 2, 4), bias=None),
    "fused_conv": convolution(
        "fused_conv",
        x=X2,
        kernel=K2,
        bias=BIAS,
        scale=BIAS,
        residual=X2,
        activation="relu",
        negative_slope=0.1,
    ),
    "unfold": function("unfold", x=X2, kernel_spatial=(3, 2), **WINDOW),
    "fold": function("fold", patches=ones(1, 5, 5, 3, 2, 4), input_spatial=(5, 5), **WINDOW),
    "pixel_shuffle": function("pixel_shuffle", x=X2, factor=2),
    "pixel_unshuffle": function("pixel_unshuffle", x=X3, factor=(3, 2, 1)),
    "channel_shuffle": function("channel_shuffle", x=X2, groups=2),
    "weight_norm": function("weight_norm", kernel=K2, scale=BIAS, epsilon=1e-12),
    "weight_standardization": function("weight_standardization", kernel=K2, epsilon=1e-10),
    "spectral_norm": function("spectral_norm", kernel=K2, u=BIAS, iterations=1, epsilon=1e-12),
    "separate": function("separate", kernel=K2, rank=1, groups=1),
    "partial_conv": convolution("partial_conv", x=X2, kernel=K2, bias=BIAS, mask=ones(1, 5, 5, 1)),
    "gated_conv": convolution(
        "gated_conv",
        x=X2,
        kernel=K2,
        gate_kernel=K2,
        bias=BIAS,
        gate_bias=BIAS,
        activation="relu",
    ),
    "dynamic_conv": convolution("dynamic_conv", x=X2, kernel=K2[None], bias=BIAS),
    "blur_pool": function("blur_pool", x=X2, size=3, strides=2, padding="REFLECT"),
    "conv_general_dilated": Target(
        jaxconv.conv_general_dilated,
        {
            "lhs": X2,
            "rhs": K2,
            "window_strides": (1, 1),
            "padding": "SAME",
            "lhs_dilation": None,
            "rhs_dilation": None,
            "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
            "feature_group_count": 1,
            "batch_group_count": 1,
            "precision": None,
            "preferred_element_type": None,
        },
        ("conv_general_dilated",),
        foreign=jax.lax.conv_general_dilated,
    ),
}


# --- filters and sharding -------------------------------------------------------------------------


def in_shard_map(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of arrays that are not sharded, called where there is a mesh axis ``time``."""

    def call(**arguments: Any) -> Any:
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("time",))
        everywhere = jax.sharding.PartitionSpec()
        mapped = jax.shard_map(
            lambda _: function(**arguments),
            mesh=mesh,
            in_specs=everywhere,
            out_specs=everywhere,
            check_vma=False,
        )
        return mapped(jnp.zeros(1))

    return call


NAMESPACES = {
    "filters.sobel": Target(filters.sobel, {"dtype": None}, ("filters.sobel",)),
    "filters.scharr": Target(filters.scharr, {"dtype": jnp.float32}, ("filters.scharr",)),
    "filters.laplacian": Target(
        filters.laplacian, {"diagonal": True, "dtype": jnp.float32}, ("filters.laplacian",)
    ),
    "filters.gaussian": Target(
        filters.gaussian, {"sigma": 1.0, "size": 3, "dtype": jnp.float32}, ("filters.gaussian",)
    ),
    "filters.apply": Target(
        filters.apply,
        {"x": X2, "bank": ones(3, 3, 1, 2), "padding": "REFLECT", "dilation": 1, "strides": 1},
        ("filters.apply",),
    ),
    "filters.edges": Target(
        filters.edges, {"x": X2, "bank": ones(3, 3, 1, 2), "dilation": 1}, ("filters.edges",)
    ),
    "sharding.conv": Target(
        in_shard_map(sharding.conv),
        {"x": X2, "kernel": K2, "bias": None, "axis_names": ("time", None)}
        | {"groups": 1, **WINDOW, **OPTIONS},
        ("sharding.conv",),
    ),
    "sharding.causal_conv": Target(
        in_shard_map(sharding.causal_conv),
        {"x": X1, "kernel": K1, "bias": None, "axis_name": "time"}
        | {"strides": 1, "dilation": 1, "groups": 1, **OPTIONS},
        ("sharding.causal_conv",),
    ),
    "sharding.halo_exchange": Target(
        in_shard_map(sharding.halo_exchange),
        {"x": X1, "axis": 1, "axis_name": "time", "low": 1, "high": 1, "circular": False},
        ("halo_exchange",),
    ),
}


# --- analysis and installation --------------------------------------------------------------------


def network(x: Any, kernel: Any = K2) -> Any:
    return jaxconv.conv(x, kernel)


def analyzed(name: str, fn: Any = network, **keywords: Any) -> Target:
    """A function that reads the program of ``fn(x)``; ``fn`` may raise its own errors."""
    analyze = getattr(jaxconv, name)
    return Target(
        lambda fn, x, **keywords: analyze(fn, x, **keywords),
        {"fn": fn, "x": X2, **keywords},
        (f"{name}: ", "conv: "),
        compared=False,
        foreign=lambda fn, x, **_: fn(x),
        passed_on=("fn",),
    )


def entered(manager: Callable[..., Any]) -> Callable[..., Any]:
    def call(**arguments: Any) -> Any:
        with manager(**arguments):
            return None

    return call


SPEC = ConvSpec(1, 4, 6, (5, 5), (3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
FIELDS = {name: getattr(SPEC, name) for name in ConvSpec.__dataclass_fields__}


def field_of_specs(specs: Any = None, **fields: Any) -> Any:
    return jaxconv.receptive_field([ConvSpec(**fields)] if specs is None else specs)


ANALYSIS = {
    "receptive_field": analyzed("receptive_field"),
    "receptive_field of specs": Target(
        field_of_specs,
        {"specs": None, **FIELDS},
        ("receptive_field: ", "__call__() missing"),  # a class is a function of the user
        compared=False,
    ),
    "explain": analyzed("explain"),
    "cost": analyzed("cost"),
    "summarize": analyzed("summarize"),
    # Of a function without convolutions, because tuning one takes as long as it is told to.
    "autotune": analyzed("autotune", fn=lambda x: (), path=None, seconds=0.0),
    "accelerate": Target(
        lambda fn, x: jaxconv.accelerate(fn)(x),
        {"fn": network, "x": X2},
        ("accelerate", "conv: "),
        foreign=lambda fn, x: fn(x),
        passed_on=("fn",),
    ),
    "use_implementation": Target(
        entered(jaxconv.use_implementation), {"name": "lax"}, ("use_implementation",), False
    ),
    "installed": Target(entered(jaxconv.installed), {"platforms": ("cpu",)}, ("install",), False),
}


# --- modules --------------------------------------------------------------------------------------


LAYER = {"strides": 1, "padding": "SAME", "kernel_dilation": 1}
CALLED = {
    "use_bias": True,
    "dtype": None,
    "param_dtype": jnp.float32,
    "precision": None,
    "preferred_element_type": None,
}
IN, OUT = {"in_features": 4}, {"features": 6}
MODULES = {
    "DepthwiseConv": {"kernel_size": (3, 3), "multiplier": 1, **LAYER, **CALLED},
    "PointwiseConv": {**OUT, "strides": 1, **CALLED},
    "SeparableConv": {**OUT, "kernel_size": (3, 3), "multiplier": 1, **LAYER, **CALLED},
    "CausalConv": {
        **OUT,
        "kernel_size": 3,
        "strides": 1,
        "kernel_dilation": 1,
        "feature_group_count": 1,
        **CALLED,
    },
    "Conv": {**OUT, "kernel_size": (3, 3), "feature_group_count": 1, **LAYER, **CALLED},
    "ConvTranspose": {**OUT, "kernel_size": (3, 3), **LAYER, **CALLED},
}
WORDS = {
    "DepthwiseConv": ("depthwise_conv",),
    "PointwiseConv": ("pointwise_conv",),
    "SeparableConv": ("separable_conv",),
    "CausalConv": ("causal_conv",),
}


def nnx_call(module: Any) -> Callable[..., Any]:
    def call(inputs: Any, features: Any = None, **arguments: Any) -> Any:
        if features is not None:
            arguments["out_features"] = features
        return module(**arguments, rngs=flax.nnx.Rngs(0))(inputs)

    return call


def linen_call(module: Any) -> Callable[..., Any]:
    def call(inputs: Any, **arguments: Any) -> Any:
        return module(**arguments).init_with_output(jax.random.key(0), inputs)[0]

    return call


def _accepted(module: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Without the keywords that only one of Flax's two APIs has."""
    names = {*inspect.signature(module).parameters, "features"}
    return {name: value for name, value in arguments.items() if name in names}


def module_targets() -> dict[str, Target]:
    targets: dict[str, Target] = {}
    for name, arguments in MODULES.items():
        words = (name, *WORDS.get(name, ()))
        inputs = {"inputs": X1 if name == "CausalConv" else X2}
        for flavor, call, more in (("nnx", nnx_call, IN), ("linen", linen_call, {})):
            ours = getattr(getattr(jaxconv, flavor), name)
            theirs = getattr(getattr(flax, flavor), name, None)
            targets[f"{flavor}.{name}"] = Target(
                call(ours),
                {**inputs, **more, **_accepted(ours, arguments)},
                words,
                foreign=None if theirs is None else call(theirs),
            )
    return targets


TARGETS: dict[str, Target] = {**FUNCTIONS, **NAMESPACES, **ANALYSIS, **module_targets()}
