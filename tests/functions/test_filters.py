"""Fixed filter banks: their defining properties, scikit-image, the edges of a photograph."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv import filters
from support.cases import operand

BANKS = {
    "sobel": filters.sobel,
    "scharr": filters.scharr,
    "laplacian": filters.laplacian,
    "laplacian with diagonals": lambda dtype=jnp.float32: filters.laplacian(True, dtype),
    "gaussian": lambda dtype=jnp.float32: filters.gaussian(1.0, 5, dtype),
}
by_bank = pytest.mark.parametrize("bank", BANKS.values(), ids=BANKS)
ROWS, COLUMNS = np.meshgrid(np.arange(9.0), np.arange(11.0), indexing="ij")


def middle(image, margin=3):
    return np.asarray(image)[margin:-margin, margin:-margin]


def field(values):
    return np.asarray(values, np.float32)[..., None]


@by_bank
def test_banks_are_kernels_of_filters(bank):
    kernel = bank()
    assert kernel.ndim == 4
    assert kernel.shape[2] == 1
    assert kernel.dtype == jnp.float32
    assert bank(dtype=jnp.float16).dtype == jnp.float16


@by_bank
def test_derivatives_of_a_constant_vanish_and_a_gaussian_keeps_it(bank):
    y = filters.apply(np.full((9, 11, 2), 3.0, np.float32), bank())
    wanted = 3.0 if bank is BANKS["gaussian"] else 0.0
    np.testing.assert_allclose(y, wanted, atol=1e-5)


@pytest.mark.sample(4)
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("bank", [filters.sobel, filters.scharr])
def test_gradient_of_a_ramp_is_its_slope(bank, dilation):
    """5 down and -2 to the right, times the dilation."""
    y = filters.apply(field(5 * ROWS - 2 * COLUMNS), bank(), dilation=dilation)
    np.testing.assert_allclose(
        middle(y), np.broadcast_to([5.0 * dilation, -2.0 * dilation], (3, 5, 2)), rtol=1e-5
    )


@pytest.mark.parametrize(("diagonal", "wanted"), [(False, 4.0), (True, 12.0)])
def test_laplacian_of_a_paraboloid(diagonal, wanted):
    """The direct neighbors in r**2 are on average 1 above the center, the diagonal ones 2."""
    y = filters.apply(field(ROWS**2 + COLUMNS**2), filters.laplacian(diagonal))
    np.testing.assert_allclose(middle(y), wanted, rtol=1e-4)


def test_gaussian_is_normalized_symmetric_and_separable():
    bank = np.asarray(filters.gaussian(1.7))[:, :, 0, 0]
    assert bank.shape == (15, 15)
    np.testing.assert_allclose(bank.sum(), 1, rtol=1e-5)
    np.testing.assert_array_equal(bank, bank.T)
    np.testing.assert_allclose(bank, bank[::-1, ::-1], rtol=1e-6)
    assert np.linalg.matrix_rank(bank.astype(np.float64), tol=1e-6) == 1
    ratio = bank[7, 8] / bank[7, 7]
    np.testing.assert_allclose(ratio, np.exp(-0.5 / 1.7**2), rtol=1e-5)


def test_each_channel_is_filtered_by_each_filter():
    x = operand((2, 8, 9, 3), np.float32)
    y = filters.apply(x, filters.sobel())
    assert y.shape == (2, 8, 9, 6)
    for channel in range(3):
        alone = filters.apply(x[..., channel : channel + 1], filters.sobel())
        np.testing.assert_allclose(y[..., 2 * channel : 2 * channel + 2], alone, atol=1e-5)


def photograph():
    data = pytest.importorskip("skimage.data")
    return np.asarray(data.camera()[::4, ::4] / 255, np.float32)


@pytest.mark.parametrize("name", ["sobel", "scharr"])
def test_edges_of_a_photograph_as_scikit_image_finds_them(name):
    """Their magnitude is the root of the mean of the squares; ours, of the sum."""
    theirs = getattr(pytest.importorskip("skimage.filters"), name)(photograph())
    ours = filters.edges(photograph()[..., None], getattr(filters, name)())[..., 0]
    wanted = theirs * np.sqrt(2)
    # scikit-image scales its derivative filters to the difference over two pixels.
    scale = np.median(np.asarray(ours)[wanted > 0.1] / wanted[wanted > 0.1])
    np.testing.assert_allclose(middle(ours, 1), scale * middle(wanted, 1), atol=2e-6)
    assert scale in (pytest.approx(0.5, rel=1e-4), pytest.approx(1, rel=1e-4))


@pytest.mark.sample(3)
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_edges_are_at_the_step(dilation):
    image = np.zeros((16, 16, 1), np.float32)
    image[:, 8:] = 1
    found = np.asarray(filters.edges(image, dilation=dilation))[8, :, 0]
    columns = np.flatnonzero(found)
    assert columns.tolist() == list(range(8 - dilation, 8 + dilation))


@pytest.mark.parametrize("shape", [(0, 6, 5, 3), (2, 0, 5, 3), (6, 5, 0)])
def test_edges_of_empty_images(shape):
    assert filters.edges(np.ones(shape, np.float32)).shape == shape


def test_edges_have_a_gradient_in_flat_regions():
    gradient = jax.grad(lambda x: jnp.sum(filters.edges(x)))(jnp.ones((6, 6, 1)))
    assert jnp.all(jnp.isfinite(gradient))


@pytest.mark.parametrize(
    "arguments",
    [
        *((0.0,), (-1.0,), (np.inf,), (np.nan,), ("1",), (1j,), (np.ones(1),), (jnp.float32(0),)),
        *((jax.random.key(0),), (jnp.complex64(1),)),
        *((1.0, 4), (1.0, 0), (1.0, 2.5), (1.0, True), (1.0, jnp.float32(5)), (1.0, np.int32(4))),
    ],
    ids=str,
)
def test_gaussian_errors(arguments):
    with pytest.raises(ValueError, match=r"^filters\.gaussian: (sigma|size) must be"):
        filters.gaussian(*arguments)


SCALARS = [np.float32, np.float64, np.asarray, jnp.float32, jnp.bfloat16, jnp.asarray]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda scalar: scalar.__name__)
def test_gaussian_takes_scalars_of_numpy_and_jax(scalar):
    np.testing.assert_array_equal(filters.gaussian(scalar(1.5)), filters.gaussian(1.5))


@pytest.mark.parametrize("integer", [np.int32, np.uint8, np.asarray, jnp.int32, jnp.asarray])
def test_gaussian_takes_integers_of_numpy_and_jax(integer):
    expected = filters.gaussian(2, 5)
    np.testing.assert_array_equal(filters.gaussian(integer(2), integer(5)), expected)


def test_gaussian_takes_an_array_from_outside_of_jit():
    sigma, size = jnp.float32(1.5), jnp.int32(7)
    inside = jax.jit(lambda: filters.gaussian(sigma, size))()
    np.testing.assert_array_equal(inside, filters.gaussian(1.5, 7))


@pytest.mark.parametrize("true", [True, 1, np.True_, np.asarray(True), jnp.asarray(True)], ids=repr)
def test_laplacian_takes_bools_of_numpy_and_jax(true):
    np.testing.assert_array_equal(filters.laplacian(true), filters.laplacian(True))


@pytest.mark.parametrize("diagonal", ["no", None, jnp.float16, 2, np.ones(1, bool)], ids=repr)
def test_laplacian_errors(diagonal):
    words = r"^filters\.laplacian: diagonal must be True or False, but got "
    with pytest.raises(ValueError, match=words):
        filters.laplacian(diagonal)


@pytest.mark.parametrize(
    ("call", "value", "words"),
    [
        (filters.gaussian, 1.5, r"gaussian: sigma must be a static number, .* static_argnames"),
        (lambda n: filters.gaussian(1.5, n), 5, r"gaussian: size must be a static number, "),
        (filters.laplacian, True, r"laplacian: diagonal must be a static bool, "),
    ],
)
def test_errors_say_that_a_bank_needs_static_arguments(call, value, words):
    with pytest.raises(ValueError, match=rf"^filters\.{words}"):
        jax.jit(call)(value)


def test_bank_errors():
    x = np.ones((8, 8, 3), np.float32)
    with pytest.raises(ValueError, match=r"filters\.apply: "):
        filters.apply(x, np.ones((3, 3, 3, 2), np.float32))
    with pytest.raises(TypeError, match=r"filters\.apply: .*one dtype"):
        filters.apply(x, filters.sobel(jnp.float16))
    with pytest.raises(TypeError, match=r"filters\.edges: x must be floating"):
        filters.edges(np.ones((8, 8, 3), np.uint8))
    with pytest.raises(TypeError, match=r"filters\.sobel: dtype must be floating .* int32"):
        filters.sobel(jnp.int32)


@pytest.mark.parametrize("function", ["apply", "edges"])
@pytest.mark.parametrize("dilation", [0, 9], ids=["zero", "wider than the image"])
def test_errors_name_the_filter(function, dilation):
    """Not the convolution inside."""
    x, bank = np.ones((8, 9, 3), np.float32), filters.sobel()
    words = rf"^filters\.{function}: .* x \[H, W, C\] = \(8, 9, 3\), bank \[KH, KW, 1, M\] = "
    with pytest.raises(ValueError, match=words):
        getattr(filters, function)(x, bank, dilation=dilation)


@pytest.mark.parametrize("height", [2000, 2e-4])
def test_edges_of_half_precision(height):
    """The squares overflow or underflow, the magnitude does not."""
    step = jnp.zeros((5, 5, 1), jnp.float16).at[:, 3:].set(height)
    found = filters.edges(step)
    assert found.dtype == jnp.float16
    np.testing.assert_allclose(found[2, 2, 0], height / 2, rtol=1e-3)


def test_edges_of_complex_images_are_magnitudes():
    x = np.random.default_rng(0).normal(size=(6, 7, 2)).astype(np.float32)
    found = filters.edges((x * (0.6 + 0.8j)).astype(np.complex64))
    np.testing.assert_allclose(found, filters.edges(x), rtol=1e-5, atol=1e-6)
