"""``jax.export`` with symbolic shapes: every padding, stride and operator, also per example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxconv
from support.cases import operand

PADDINGS = [
    *("SAME", "SAME_LOWER", "VALID", "FULL", "CAUSAL", "CIRCULAR", "REFLECT", "REPLICATE"),
    *(2, [(2, 1)], [(-1, 2)]),
]
TRANSPOSED = [each for each in PADDINGS if each not in ("CIRCULAR", "REFLECT", "REPLICATE")]
K = operand((3, 2, 4), np.float32)
X = operand((3, 8, 2), np.float32)
STRIDES = (1, 2, 3)


def assert_exports(fn, texts, arrays, *constraints: str):
    """``fn`` exported for symbolic shapes computes what it computes of ``arrays``."""
    scope = export.SymbolicScope(constraints)
    shapes = [export.symbolic_shape(text, scope=scope) for text in texts]
    structs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    exported = export.export(jax.jit(fn))(*structs)
    wanted = jax.jit(fn)(*arrays)
    for got, right in zip(*map(jax.tree.leaves, (exported.call(*arrays), wanted)), strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-4)


def all_operators(conv):
    """The convolution, both of its gradients, and the filter gradient of each example."""

    def energy(x, k):
        return jnp.sum(conv(x, k) ** 2)

    def compute(x, k):
        per_example = jax.vmap(jax.grad(energy, 1), (0, None))(x, k)
        return conv(x, k), jax.grad(energy, (0, 1))(x, k), per_example

    return compute


@pytest.mark.sample(11)
@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_every_padding_stride_and_operator(padding, strides):
    def conv(x, k):
        return jaxconv.conv(x, k, strides=strides, padding=padding)

    assert_exports(all_operators(conv), ("b, n, 2", "3, 2, 4"), (X, K), "n >= 4")


@pytest.mark.sample(12)
@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("padding", TRANSPOSED)
def test_every_transposed_padding_stride_and_operator(padding, strides):
    def conv(x, k):
        return jaxconv.conv_transpose(x, k, strides=strides, padding=padding)

    kernel = K.swapaxes(1, 2)
    assert_exports(all_operators(conv), ("b, n, 2", "3, 4, 2"), (X, kernel), "n >= 4")


@pytest.mark.sample(2)
@pytest.mark.parametrize("function", ["conv", "fused_conv"])
def test_kernels_mapped_over_a_symbolic_axis(function):
    """The mapped axis would fold into the groups, whose number XLA must know."""

    def convolve(x, k, bias):
        if function == "conv":
            return jaxconv.conv(x, k, bias, groups=2)
        return jaxconv.fused_conv(x, k, bias, activation="relu", groups=2)

    def gradients(x, k, bias):
        return jax.grad(lambda *args: jnp.sum(jax.vmap(convolve)(*args) ** 2), (0, 1, 2))(
            x, k, bias
        )

    shapes = ((3, 2, 8, 4), (3, 3, 2, 6), (3, 6))
    arrays = [operand(shape, np.float32) for shape in shapes]
    assert_exports(gradients, ("b, 2, n, 4", "b, 3, 2, 6", "b, 6"), arrays)


@pytest.mark.sample(2)
@pytest.mark.parametrize("mapped", ["x", "kernel"])
def test_one_shared_operand_with_a_symbolic_mapped_axis(mapped):
    axes = (0, None) if mapped == "x" else (None, 0)

    def gradients(x, k):
        conv = jax.vmap(lambda x, k: jaxconv.conv(x, k, strides=2), axes)
        return jax.grad(lambda x, k: jnp.sum(conv(x, k) ** 2), (0, 1))(x, k)

    texts, arrays = ["2, n, 2", "3, 2, 4"], [X[:2], K]
    at = 0 if mapped == "x" else 1
    texts[at], arrays[at] = f"b, {texts[at]}", np.stack([arrays[at], -arrays[at]])
    assert_exports(gradients, texts, arrays)


def test_symbolic_channels_and_features():
    assert_exports(jaxconv.conv, ("b, n, c", "3, c, f"), (X, K))
    assert_exports(jaxconv.pointwise_conv, ("b, n, c", "c, f"), (X, K[0]))
    with pytest.raises(ValueError, match=r"depthwise_conv: groups must be a positive int.* got c"):
        assert_exports(jaxconv.depthwise_conv, ("b, n, c", "3, 1, c"), (X, K[:, :1, :2]))
