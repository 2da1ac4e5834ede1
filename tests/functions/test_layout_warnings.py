"""Arrays that fit, but are almost surely laid out as in another library, are warned of once."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as flax_linen
from flax import nnx as flax_nnx

import jaxconv
from jaxconv import LayoutWarning, linen, nnx
from support.errors import ones

IMAGES = ones(2, 16, 16, 3)


def warned(call) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return caught


@pytest.mark.parametrize(
    ("x", "kernel", "options", "rank"),
    [
        ((2, 16, 16, 3), (8, 3, 3, 3), {}, 2),
        ((2, 17, 16, 3), (64, 3, 3, 3), {"padding": "SAME"}, 2),
        ((16, 16, 5), (12, 5, 5, 5), {"strides": 2}, 2),
        ((2, 16, 16, 9), (9, 3, 3, 3), {"groups": 3}, 2),
        ((1, 9, 10, 11, 2), (8, 2, 2, 2, 2), {}, 3),
    ],
)
def test_kernels_that_fit_by_coincidence(x, kernel, options, rank):
    (warning,) = warned(lambda: jaxconv.conv(ones(*x), ones(*kernel), **options))
    said = str(warning.message)
    assert warning.category is LayoutWarning
    assert warning.filename == __file__
    assert said.startswith(f"conv: kernel {kernel} is read as [*K, C/G, F], with extents")
    layouts = {2: ("OIHW", "OHWI"), 3: ("OIDHW", "ODHWI")}[rank]
    orders = (*range(2, rank + 2), 1, 0), (*range(1, rank + 2), 0)
    for layout, order in zip(layouts, orders, strict=True):
        assert f"{layout}: use kernel.transpose({', '.join(map(str, order))})" in said
        fixed = np.ones(kernel, np.float32).transpose(order)
        assert fixed.shape[-1] == kernel[0]
        if options.get("groups", 1) == 1:
            assert not warned(lambda fixed=fixed: jaxconv.conv(ones(*x), fixed, **options))


def test_a_kernel_is_warned_of_once():
    kernel = ones(11, 3, 3, 3)
    assert len(warned(lambda: jaxconv.conv(IMAGES, kernel))) == 1
    assert not warned(lambda: jaxconv.conv(IMAGES, kernel))
    y = jaxconv.conv(IMAGES, kernel)
    assert y.shape == (2, 16, 16, 3)  # computed as ever


def test_the_other_functions_that_take_such_a_kernel():
    kernel = ones(10, 3, 3, 3)
    g = ones(2, 16, 16, 3)
    for call in (
        lambda: jaxconv.fused_conv(IMAGES, kernel, activation="relu"),
        lambda: jaxconv.conv_input_grad(g, kernel, (16, 16)),
    ):
        assert [warning.category for warning in warned(call)] == [LayoutWarning]


@pytest.mark.parametrize(
    ("x", "kernel"),
    [
        ((2, 16, 16, 3), (3, 3, 3, 8)),
        ((2, 16, 16, 3), (3, 3, 3, 3)),  # every layout reads the same
        ((2, 16, 16, 3), (7, 3, 3, 3)),  # seven rows and three columns, or seven features
        ((2, 16, 16, 3), (1, 3, 3, 3)),
        ((2, 16, 16, 1), (13, 1, 1, 1)),  # a column of taps
        ((2, 16, 16, 3), (3, 8, 3, 3)),
        ((2, 16, 16, 3), (8, 8, 3, 3)),
        ((2, 16, 3), (8, 3, 3)),  # eight taps of a sequence
        ((2, 16, 16, 3), (8, 3, 3, 64)),
    ],
)
def test_no_false_alarms_of_kernels(x, kernel):
    assert not warned(lambda: jaxconv.conv(ones(*x), ones(*kernel)))


def nnx_modules(kernel_size):
    rngs = flax_nnx.Rngs(0)
    yield nnx.Conv(3, 4, kernel_size, rngs=rngs)
    yield nnx.ConvTranspose(3, 4, kernel_size, rngs=rngs)
    yield nnx.DepthwiseConv(3, kernel_size, rngs=rngs)
    yield nnx.SeparableConv(3, 4, kernel_size, rngs=rngs)


def linen_modules(kernel_size):
    for module in (
        linen.Conv(4, kernel_size),
        linen.ConvTranspose(4, kernel_size),
        linen.DepthwiseConv(kernel_size),
        linen.SeparableConv(4, kernel_size),
    ):
        yield lambda x, module=module: module.init_with_output(jax.random.key(0), x)[0]


MODULES = {"nnx": nnx_modules, "linen": linen_modules}


@pytest.mark.parametrize("flavor", MODULES)
def test_an_int_as_the_kernel_size_of_images(flavor):
    for module in MODULES[flavor](3):
        (warning,) = warned(lambda module=module: jax.eval_shape(module, IMAGES))
        assert warning.category is LayoutWarning
        assert "kernel_size=3 convolves the last spatial axis only" in str(warning.message)
        assert "use kernel_size=(3, 3), or kernel_size=(3,)" in str(warning.message)


@pytest.mark.parametrize("flavor", MODULES)
@pytest.mark.parametrize(
    ("kernel_size", "shape"),
    [
        ((3, 3), (2, 16, 16, 3)),
        ((3,), (2, 16, 16, 3)),  # one axis, on purpose
        (3, (2, 16, 3)),
        (3, (2, 12, 16, 3)),  # sequences with two batch axes
        (3, (2, 3, 3, 3)),
        (3, (2, 4, 4, 16, 3)),
    ],
)
def test_no_false_alarms_of_modules(flavor, kernel_size, shape):
    for module in MODULES[flavor](kernel_size):
        assert not warned(lambda module=module: jax.eval_shape(module, ones(*shape)))


def test_volumes():
    layer = nnx.DepthwiseConv(3, 3, rngs=flax_nnx.Rngs(0))
    (warning,) = warned(lambda: layer(ones(2, 8, 8, 8, 3)))
    assert "kernel_size=(3, 3, 3)" in str(warning.message)
    assert warning.filename == __file__


def test_layers_of_flax_still_act_as_flax():
    """Outputs that Flax captures and parameters are those of Flax's own layers."""
    x = jnp.asarray(IMAGES)
    both = [module.Conv(4, (3, 3)) for module in (linen, flax_linen)]
    states = [
        layer.init_with_output(jax.random.key(0), x, capture_intermediates=True)[1]
        for layer in both
    ]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *states)
