"""Normalized kernels: PyTorch, their defining properties, derivatives, degenerate filters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
from support.cases import operand
from support.errors import assert_raises

pytestmark = pytest.mark.usefixtures("x64")
KERNEL = operand((3, 2, 4, 5), np.float64)
SCALE, U = operand((5,), np.float64), operand((5,), np.float64) + 2.0
G = np.random.default_rng(5).normal(size=KERNEL.shape)
FUNCTIONS = {
    "weight_norm": lambda kernel: jaxconv.weight_norm(kernel, SCALE.astype(kernel.dtype)),
    "weight_standardization": jaxconv.weight_standardization,
    "spectral_norm": lambda kernel: jaxconv.spectral_norm(kernel, U.astype(kernel.dtype))[0],
}
by_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def to_torch(kernel):
    """``[*K, C, F]`` as ``[F, C, *K]``."""
    torch = pytest.importorskip("torch")
    return torch.tensor(np.moveaxis(kernel, (-1, -2), (0, 1)).copy(), requires_grad=True)


def compare(function, theirs, arguments, tolerance=1e-10):
    """Values and gradients of ``sum(G * function)`` with those of PyTorch."""
    y = theirs(*arguments)
    y.backward(to_torch(G).detach())

    @jax.jit
    def run(*inputs):
        y, pull = jax.vjp(function, *inputs)
        return y, *pull(jnp.asarray(G))

    ours = run(*(from_torch(each.detach()) for each in arguments))
    expected = [y.detach(), *(each.grad for each in arguments)]
    for got, wanted in zip(ours, expected, strict=True):
        np.testing.assert_allclose(got, from_torch(wanted), rtol=tolerance, atol=tolerance)


def from_torch(tensor):
    array = tensor.numpy()
    return array if array.ndim == 1 else np.moveaxis(array, (0, 1), (-1, -2))


def test_weight_norm():
    torch = pytest.importorskip("torch")
    theirs = lambda v, g: torch._weight_norm(v, g.reshape(5, 1, 1, 1), 0)  # noqa: E731
    arguments = (to_torch(KERNEL), torch.tensor(SCALE, requires_grad=True))
    compare(functools.partial(jaxconv.weight_norm, epsilon=0), theirs, arguments)


def test_weight_standardization():
    torch = pytest.importorskip("torch")

    def theirs(kernel):
        variance, mean = torch.var_mean(kernel, (1, 2, 3), unbiased=False, keepdim=True)
        return (kernel - mean) / torch.sqrt(variance + 1e-3)

    function = functools.partial(jaxconv.weight_standardization, epsilon=1e-3)
    compare(function, theirs, (to_torch(KERNEL),))


def test_spectral_norm():
    """PyTorch's power iteration ends with the vector of the inputs, ours begins with the other."""
    torch = pytest.importorskip("torch")
    u, unit = torch.tensor(U), torch.nn.functional.normalize

    def theirs(kernel):
        matrix = kernel.permute(0, 2, 3, 1).flatten(1)
        with torch.no_grad():
            v = unit(matrix.T @ unit(u, dim=0), dim=0)
            new = unit(matrix @ v, dim=0)
            v = unit(matrix.T @ new, dim=0)
        np.testing.assert_allclose(jaxconv.spectral_norm(KERNEL, U)[1], new, rtol=1e-10)
        return kernel / torch.dot(new, matrix @ v)

    compare(lambda kernel: jaxconv.spectral_norm(kernel, U)[0], theirs, (to_torch(KERNEL),))


def test_spectral_norm_converges_over_calls():
    """A vector that is passed on gains one iteration per call; with 0 it is only normalized."""
    u = U
    step = jax.jit(jaxconv.spectral_norm)
    for _ in range(60):
        normalized, u = step(KERNEL, u)
    singular = np.linalg.svd(KERNEL.reshape(-1, 5), compute_uv=False)
    np.testing.assert_allclose(normalized, KERNEL / singular[0], rtol=1e-9)
    frozen, same = jax.jit(functools.partial(jaxconv.spectral_norm, iterations=0))(KERNEL, u)
    np.testing.assert_allclose(frozen, normalized, rtol=1e-9)
    np.testing.assert_allclose(same, u, rtol=1e-9)
    # The gradient of the singular value is the product of its two vectors.
    left, _, right = np.linalg.svd(KERNEL.reshape(-1, 5))
    value = lambda kernel: 1 / jnp.vdot(jaxconv.spectral_norm(kernel, u)[0], kernel)  # noqa: E731
    energy = jnp.vdot(KERNEL, KERNEL)
    slope = jax.jit(jax.grad(lambda k: value(k) * jax.lax.stop_gradient(energy)))(KERNEL)
    expected = np.outer(left[:, 0], right[0]).reshape(KERNEL.shape)
    expected = expected - singular[0] * 2 * KERNEL / energy
    np.testing.assert_allclose(slope, expected, atol=1e-8)


@by_function
def test_derivatives_of_normalized_kernels(function):
    """In both modes and to second order, against central differences; and ``vmap``."""
    step = 1e-5
    loss = lambda kernel: jnp.sum(function(kernel) ** 2 * G)  # noqa: E731
    difference = lambda f: (f(KERNEL + step * G) - f(KERNEL - step * G)) / (2 * step)  # noqa: E731

    @jax.jit
    def run(kernel, g):
        tangent = jax.jvp(function, (kernel,), (g,))[1]
        pulled = jax.vjp(function, kernel)[1](g)[0]
        curvature = jax.jvp(jax.grad(loss), (kernel,), (g,))[1]
        both = jax.vmap(function)(jnp.stack([kernel, g]))
        differences = difference(function), difference(jax.grad(loss))
        return tangent, pulled, curvature, differences, both[1], function(g)

    tangent, pulled, curvature, (first, second), mapped, alone = run(KERNEL, G)
    np.testing.assert_allclose(jnp.vdot(tangent, G), jnp.vdot(G, pulled), rtol=1e-10)
    np.testing.assert_allclose(mapped, alone, rtol=1e-10)
    if function is not FUNCTIONS["spectral_norm"]:  # its vectors are constants in derivatives
        np.testing.assert_allclose(tangent, first, atol=1e-7)
        np.testing.assert_allclose(curvature, second, atol=1e-6)


@by_function
@pytest.mark.parametrize("dtype", [np.float16, np.complex64])
def test_other_dtypes(function, dtype):
    """Half precision is computed in float32: here the sums of squares exceed 65,504."""
    kernel = (KERNEL * 100).astype(dtype)
    y = jax.jit(function)(kernel)
    assert y.dtype == dtype
    expected = jax.jit(function)(kernel.astype(np.float64 if dtype == np.float16 else dtype).real)
    np.testing.assert_allclose(y, expected, rtol=2e-3, atol=1e-3)


def test_normalized_complex_kernels():
    kernel = KERNEL + 1j * G
    w, standard, (spectral, u) = jax.jit(
        lambda k: (
            jaxconv.weight_norm(k, SCALE.astype(k.dtype)),
            jaxconv.weight_standardization(k),
            jaxconv.spectral_norm(k, U.astype(k.dtype), iterations=200),
        )
    )(kernel)
    np.testing.assert_allclose(np.linalg.norm(w.reshape(-1, 5), axis=0), abs(SCALE), rtol=1e-9)
    flat = standard.reshape(-1, 5)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(np.mean(abs(flat) ** 2, axis=0), 1, rtol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(spectral.reshape(-1, 5), 2), 1, rtol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(u), 1, rtol=1e-12)


@by_function
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_filters_are_finite(function, value):
    """Filters of zeros or without variance, and their gradients."""
    kernel = jnp.full((3, 2, 5), value)
    y, pull = jax.vjp(jax.jit(function), kernel)
    assert np.isfinite(y).all()
    assert np.isfinite(pull(jnp.ones_like(y))[0]).all()


def test_errors_of_normalization():
    for words, call in {
        "weight_norm: scale must have shape [F] = (5,)": lambda: jaxconv.weight_norm(KERNEL, U[1:]),
        "weight_norm: kernel must be [*K, C/G, F]": lambda: jaxconv.weight_norm(U, U),
        "weight_standardization: epsilon must be a number of at least 0": lambda: (
            jaxconv.weight_standardization(KERNEL, epsilon=-1)
        ),
        "spectral_norm: u must have shape [F] = (5,)": lambda: jaxconv.spectral_norm(KERNEL, G),
        "spectral_norm: iterations must be an int of at least 0": lambda: jaxconv.spectral_norm(
            KERNEL, U, iterations=1.5
        ),
    }.items():
        assert_raises(call, ValueError, words)
    words = "weight_norm: all arrays must have one dtype"
    assert_raises(lambda: jaxconv.weight_norm(KERNEL, U.astype("f")), TypeError, words)
