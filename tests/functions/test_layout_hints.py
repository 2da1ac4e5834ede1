"""Errors recognize arrays in the layouts of other libraries, and say how to convert them."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx as flax_nnx

import jaxconv
from jaxconv import nnx
from support.errors import assert_raises, ones

conv, causal_conv = jaxconv.conv, jaxconv.causal_conv
NHWC = ones(2, 32, 30, 16)
NCHW = ones(2, 16, 32, 30)
LAYERS = {
    "Conv": lambda: nnx.Conv(16, 8, (3, 3), rngs=flax_nnx.Rngs(0)),
    "ConvTranspose": lambda: nnx.ConvTranspose(16, 8, (3, 3), rngs=flax_nnx.Rngs(0)),
    "depthwise_conv": lambda: nnx.DepthwiseConv(16, (3, 3), rngs=flax_nnx.Rngs(0)),
    "separable_conv": lambda: nnx.SeparableConv(16, 8, (3, 3), rngs=flax_nnx.Rngs(0)),
    "pointwise_conv": lambda: nnx.PointwiseConv(16, 8, rngs=flax_nnx.Rngs(0)),
}
MOVED = "x looks like NCHW: use jnp.moveaxis(x, 1, -1)"

# For each case: a call, and what the error says.
CASES = {
    "images": (lambda: conv(NCHW, ones(3, 3, 16, 8)), MOVED),
    "an image": (
        lambda: conv(NCHW[0], ones(3, 3, 16, 8)),
        "x looks like CHW: use jnp.moveaxis(x, 0, -1)",
    ),
    "three channels": (lambda: conv(ones(2, 3, 32, 32), ones(3, 3, 3, 8)), MOVED),
    "images and groups": (lambda: conv(NCHW, ones(3, 3, 4, 8), groups=4), MOVED),
    "a sequence": (
        lambda: conv(ones(2, 16, 100), ones(3, 16, 8)),
        "x looks like NCW: use jnp.moveaxis(x, 1, -1)",
    ),
    "a volume": (
        lambda: conv(ones(2, 4, 8, 16, 17), ones(3, 3, 3, 4, 8)),
        "x looks like NCDHW: use jnp.moveaxis(x, 1, -1)",
    ),
    "OIHW": (
        lambda: conv(NHWC, ones(8, 16, 3, 3)),
        "kernel looks like OIHW: use kernel.transpose(2, 3, 1, 0)",
    ),
    "OHWI": (
        lambda: conv(NHWC, ones(8, 3, 3, 16)),
        "kernel looks like OHWI: use kernel.transpose(1, 2, 3, 0)",
    ),
    "HWOI": (
        lambda: conv(NHWC, ones(3, 3, 8, 16)),
        "kernel looks like HWOI: use kernel.transpose(0, 1, 3, 2)",
    ),
    "OIHW with groups": (
        lambda: conv(NHWC, ones(8, 4, 3, 3), groups=4),
        "kernel looks like OIHW: use kernel.transpose(2, 3, 1, 0)",
    ),
    "OIHW of fitting channels": (
        lambda: conv(ones(2, 32, 32, 3), ones(64, 3, 3, 3), padding="VALID"),
        "kernel looks like OIHW: use kernel.transpose(2, 3, 1, 0)",
    ),
    "both": (
        lambda: conv(NCHW, ones(8, 16, 3, 3)),
        MOVED,
        "and kernel looks like OIHW: use kernel.transpose(2, 3, 1, 0)",
    ),
    "depthwise OIHW": (
        lambda: jaxconv.depthwise_conv(NHWC, ones(16, 1, 3, 3)),
        "kernel looks like OIHW: use kernel.transpose(2, 3, 1, 0)",
    ),
    "depthwise images": (lambda: jaxconv.depthwise_conv(NCHW, ones(3, 3, 1, 16)), MOVED),
    "depthwise OIW": (
        lambda: jaxconv.depthwise_conv(ones(2, 32, 16), ones(16, 1, 4)),
        "kernel looks like OIW: use kernel.transpose(2, 1, 0)",
    ),
    "pointwise OI": (
        lambda: jaxconv.pointwise_conv(NHWC, ones(8, 16)),
        "kernel looks like OI: use kernel.transpose(1, 0)",
    ),
    "pointwise OIHW": (
        lambda: jaxconv.pointwise_conv(NHWC, ones(8, 16, 1, 1)),
        "kernel looks like OIHW: use kernel.transpose(2, 3, 1, 0)",
    ),
    "separable": (
        lambda: jaxconv.separable_conv(NHWC, ones(16, 1, 3, 3), ones(16, 8)),
        "depthwise_kernel looks like OIHW: use depthwise_kernel.transpose(2, 3, 1, 0)",
    ),
    "transposed, as PyTorch": (
        lambda: jaxconv.conv_transpose(NHWC, ones(16, 8, 3, 3)),
        "kernel looks like IOHW: use kernel.transpose(2, 3, 1, 0)",
    ),
    "transposed, as Flax": (
        lambda: jaxconv.conv_transpose(NHWC, ones(3, 3, 16, 8)),
        "kernel looks like HWIO: use kernel.transpose(0, 1, 3, 2)",
    ),
    "transposed images": (lambda: jaxconv.conv_transpose(NCHW, ones(3, 3, 8, 16)), MOVED),
    "a cotangent": (
        lambda: jaxconv.conv_input_grad(NCHW, ones(3, 3, 8, 16), (32, 30)),
        "g looks like NCHW: use jnp.moveaxis(g, 1, -1)",
    ),
    "causal": (
        lambda: causal_conv(ones(2, 16, 100), ones(4, 16, 8)),
        "x looks like NCW: use jnp.moveaxis(x, 1, -1)",
    ),
    "fused": (lambda: jaxconv.fused_conv(NCHW, ones(3, 3, 16, 8), activation="relu"), MOVED),
    **{f"nnx {name}": (lambda new=new: new()(NCHW), MOVED) for name, new in LAYERS.items()},
}


@pytest.mark.parametrize(("call", "words"), [(v[0], v[1:]) for v in CASES.values()], ids=CASES)
def test_layouts_of_other_libraries(call, words):
    assert_raises(call, ValueError, *words)


def test_channels_first():
    """The remedy is right: with it, the call is valid."""
    x = jnp.moveaxis(jnp.asarray(NCHW), 1, -1)
    assert conv(x, ones(3, 3, 16, 8)).shape == (2, 32, 30, 8)
    for torch_kernel, order in (((8, 16, 3, 3), (2, 3, 1, 0)), ((8, 3, 3, 16), (1, 2, 3, 0))):
        kernel = ones(*torch_kernel).transpose(order)
        assert conv(x, kernel).shape == (2, 32, 30, 8)


@pytest.mark.parametrize(
    ("x", "kernel", "options"),
    [
        ((2, 7, 5, 6), (3, 2, 2, 9), {}),  # forgotten groups
        ((2, 7, 5, 6), (3, 3, 5, 4), {}),  # forgotten channels
        ((2, 7, 5, 6), (3, 2, 4, 9), {"groups": 3}),
        ((2, 64, 64, 6), (3, 3, 7, 4), {}),
        ((2, 7, 5, 0), (3, 3, 1, 4), {}),
    ],
)
def test_no_hint_where_no_layout_fits(x, kernel, options):
    with pytest.raises(ValueError, match="must equal") as raised:
        conv(np.ones(x, np.float32), np.ones(kernel, np.float32), **options)
    assert "looks like" not in str(raised.value)
