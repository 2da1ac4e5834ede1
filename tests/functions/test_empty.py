"""Empty batches and axes of size zero give empty results, and gradients of the right shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
from support.cases import BASIC, operands

EMPTY = {
    "batch": BASIC[2].replace(batch=0),
    "spatial": BASIC[2].replace(input_spatial=(0, 10)),
    "all spatial": BASIC[2].replace(input_spatial=(0, 0)),
    "kernel": BASIC[2].replace(kernel_spatial=(0, 2)),
    "in-features": BASIC[2].replace(in_features=0),
    "out-features": BASIC[2].replace(out_features=0),
    "1d batch": BASIC[1].replace(batch=0),
    "3d spatial": BASIC[3].replace(input_spatial=(4, 0, 3)),
}
by_case = pytest.mark.parametrize("case", EMPTY.values(), ids=EMPTY)


@pytest.mark.sample(3)
@by_case
def test_conv(case):
    x, k, g = operands(case)
    y, pull = jax.vjp(lambda x, k: jaxconv.conv(x, k, **case.options()), x, k)
    assert y.shape == case.shape("g")
    assert not y.any()
    dx, dk = pull(g)
    assert (dx.shape, dk.shape) == (x.shape, k.shape)
    assert not dx.any()
    assert not dk.any()


@pytest.mark.sample(4)
@by_case
def test_under_jit_and_vmap(case):
    x, k, _ = operands(case)

    def call(x, k):
        return jaxconv.conv(x, k, **case.options())

    assert jax.jit(call)(x, k).shape == case.shape("g")
    assert jax.vmap(call)(x[None], k[None]).shape == (1, *case.shape("g"))


@pytest.mark.parametrize(
    "padding", ["SAME", "SAME_LOWER", "FULL", "CIRCULAR", "REFLECT", "REPLICATE"]
)
def test_every_padding_of_an_empty_axis(padding):
    x, k = np.ones((2, 0, 5, 3), np.float32), np.ones((3, 3, 3, 4), np.float32)
    y = jaxconv.conv(x, k, padding=padding, strides=2)
    assert y.shape[:2] == (2, 0)
    assert jaxconv.conv_input_grad(y, k, (0, 5), padding=padding, strides=2).shape == x.shape


def test_conv_transpose():
    k = np.ones((3, 2, 5), np.float32)
    assert jaxconv.conv_transpose(np.ones((0, 4, 5), np.float32), k, strides=2).shape == (0, 8, 2)
    assert jaxconv.conv_transpose(np.ones((1, 0, 5), np.float32), k, strides=2).shape == (1, 0, 2)
    valid = jaxconv.conv_transpose(np.ones((1, 0, 5), np.float32), k, padding="VALID")
    assert valid.shape == (1, 0, 2)


@pytest.mark.parametrize("padding", ["SAME", "VALID", 1])
def test_conv_transpose_with_an_empty_kernel(padding):
    x, k = np.ones((2, 4, 5), np.float32), np.ones((0, 3, 5), np.float32)
    y, pull = jax.vjp(lambda x, k: jaxconv.conv_transpose(x, k, padding=padding, strides=2), x, k)
    assert y.shape == (2, 0, 3)
    dx, dk = pull(y)
    assert (dx.shape, dk.shape) == (x.shape, k.shape)
    assert not dx.any()


def test_no_channels():
    nothing = np.ones((2, 7, 0), np.float32)
    filters = np.ones((3, 1, 0), np.float32)
    assert jaxconv.depthwise_conv(nothing, filters, strides=2).shape == (2, 4, 0)
    separable = jaxconv.separable_conv(nothing, filters, np.ones((0, 5), np.float32))
    assert separable.shape == (2, 7, 5)
    assert not separable.any()
    for leading in [(), (0,), (4,), (2, 7)]:
        x, k = np.ones((*leading, 0), np.float32), np.ones((0, 5), np.float32)
        assert jaxconv.pointwise_conv(x, k).shape == (*leading, 5)
    sobel = jaxconv.filters.sobel()
    assert jaxconv.filters.apply(np.ones((2, 7, 6, 0), np.float32), sobel).shape == (2, 7, 6, 0)


def test_other_functions():
    empty = np.ones((0, 7, 6), np.float32)
    assert jaxconv.depthwise_conv(empty, np.ones((3, 1, 6), np.float32)).shape == (0, 7, 6)
    assert jaxconv.pointwise_conv(empty, np.ones((6, 5), np.float32)).shape == (0, 7, 5)
    assert jaxconv.pointwise_conv(empty[:, 0], np.ones((6, 5), np.float32)).shape == (0, 5)
    separable = jaxconv.separable_conv(
        empty, np.ones((3, 1, 6), np.float32), np.ones((6, 5), np.float32)
    )
    assert separable.shape == (0, 7, 5)
    assert jaxconv.causal_conv(empty, np.ones((3, 6, 5), np.float32)).shape == (0, 7, 5)


def test_bias_of_an_empty_sum():
    """Without channels the output is the bias."""
    x, k = np.ones((2, 5, 0), np.float32), np.ones((3, 0, 4), np.float32)
    bias = jnp.arange(4.0)
    np.testing.assert_array_equal(jaxconv.conv(x, k, bias), np.broadcast_to(bias, (2, 5, 4)))
