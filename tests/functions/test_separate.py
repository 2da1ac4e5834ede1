"""Separated kernels: their product, the stated error, its optimality, convolutions with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
from jaxconv import filters
from support.cases import operand
from support.errors import assert_raises

pytestmark = pytest.mark.usefixtures("x64")
CASES = {
    "dense": ((3, 4, 2, 6), 1, 2),
    "grouped": ((3, 4, 2, 6), 3, 1),
    "depthwise": ((5, 3, 1, 6), 6, 1),
    "multiplier": ((5, 3, 1, 6), 3, 2),
    "3-D": ((3, 2, 4, 2, 6), 2, 2),
}


def product(factors, groups):
    """The kernel that the factors stand for, group by group."""
    parts = []
    for group in range(groups):
        whole = None
        for factor in factors:
            features = factor.shape[-1] // groups
            part = np.asarray(factor)[..., group * features : (group + 1) * features]
            whole = part if whole is None else np.einsum("...cr,...rf->...cf", whole, part)
        parts.append(whole)
    return np.concatenate(parts, axis=-1)


@pytest.mark.sample(2)
@pytest.mark.parametrize(("shape", "groups", "rank"), CASES.values(), ids=CASES)
def test_separate(shape, groups, rank):
    """The error is that of the product, and none at full rank; and convolutions agree."""
    kernel = operand(shape, np.float64)
    axes = len(shape) - 2
    x = operand((2, *range(7, 7 + axes), shape[-2] * groups), np.float64)
    strides = (2, 1, 3)[:axes]

    @jax.jit
    def run(kernel, x):
        some, error = jaxconv.separate(kernel, rank, groups=groups)
        every, none = jaxconv.separate(kernel, 1000, groups=groups)
        y = x
        for axis, factor in enumerate(every):
            along = [1] * axes
            along[axis] = strides[axis]
            y = jaxconv.conv(y, factor, strides=along, groups=groups)
        return some, error, every, none, y, jaxconv.conv(x, kernel, strides=strides, groups=groups)

    some, error, every, none, y, expected = run(kernel, x)
    for axis, factor in enumerate(some):
        assert [k for i, k in enumerate(factor.shape[:axes]) if i != axis] == [1] * (axes - 1)
        assert factor.shape[axis] == shape[axis]
        features = shape[-1] if axis == axes - 1 else groups * rank
        assert factor.shape[-2:] == (rank if axis else shape[-2], features)
    difference = np.linalg.norm(product(some, groups) - kernel) / np.linalg.norm(kernel)
    assert 0.1 < difference < 1
    np.testing.assert_allclose(error, difference, rtol=1e-10)
    assert none == 0
    np.testing.assert_allclose(product(every, groups), kernel, atol=1e-12)
    np.testing.assert_allclose(y, expected, atol=1e-10)


def test_the_error_is_that_of_the_singular_values():
    kernel = operand((3, 4, 2, 5), np.float64)
    values = np.linalg.svd(kernel.transpose(0, 2, 1, 3).reshape(6, 20), compute_uv=False)
    error = jax.jit(lambda kernel: jaxconv.separate(kernel, 2)[1])(kernel)
    np.testing.assert_allclose(error, np.linalg.norm(values[2:]) / np.linalg.norm(values))


def test_separable_filters_are_found():
    """Gaussian and Sobel filters have rank 1, the Laplacian has not."""
    banks = filters.gaussian(1.0, 3), filters.laplacian(), filters.sobel()[..., :1]
    errors = jax.jit(lambda *banks: [jaxconv.separate(bank)[1] for bank in banks])(*banks)
    assert [bool(error < 1e-5) for error in errors] == [True, False, True]


def test_derivatives_of_factors():
    """Of their product, which unlike each factor is unique."""
    kernel, tangent = np.random.default_rng(5).normal(size=(2, 3, 2, 2, 2))

    def rebuilt(kernel):
        first, second = jaxconv.separate(kernel, 1)[0]
        product = jnp.tensordot(first[:, 0], second[0], [[2], [1]])
        return product.transpose(0, 2, 1, 3)

    @jax.jit
    def run(kernel, tangent):
        return jax.jvp(rebuilt, (kernel,), (tangent,))[1], jax.vjp(rebuilt, kernel)[1](tangent)[0]

    forward, reverse = run(kernel, tangent)
    step = 1e-6
    near = jax.jit(lambda *ks: [*map(rebuilt, ks)])(
        kernel + step * tangent, kernel - step * tangent
    )
    np.testing.assert_allclose(forward, (near[0] - near[1]) / (2 * step), atol=1e-7)
    np.testing.assert_allclose(jnp.vdot(forward, tangent), jnp.vdot(reverse, tangent), rtol=1e-9)


def test_other_dtypes_and_batches():
    half = jax.eval_shape(jaxconv.separate, operand((3, 3, 1, 2), np.float16))
    assert {each.dtype for each in half[0]} == {np.dtype(np.float16)}
    kernels = operand((2, 3, 2, 2, 2), np.float64) * (1 + 2j)
    factors, error = jax.jit(jax.vmap(lambda kernel: jaxconv.separate(kernel, 4)))(kernels)
    np.testing.assert_allclose(product([each[1] for each in factors], 1), kernels[1], atol=1e-12)
    assert error.shape == (2,)
    zero, error = jax.jit(jaxconv.separate)(np.zeros((3, 3, 1, 1)))
    assert error == 0
    assert not np.any(zero[1])


def test_errors_of_separate():
    kernel = np.ones((3, 3, 2, 6))
    for words, call in {
        "separate: kernel must be [*K, C/G, F] with 2 or 3": lambda: jaxconv.separate(kernel[0]),
        "separate: rank must be a positive int": lambda: jaxconv.separate(kernel, 0),
        "F % groups = 6 % 4 = 2": lambda: jaxconv.separate(kernel, groups=4),
        "separate: kernel must have at least one entry": lambda: jaxconv.separate(kernel[:0]),
    }.items():
        assert_raises(call, ValueError, words)
    assert_raises(lambda: jaxconv.separate(kernel.astype(int)), TypeError, "separate: kernel must")
