"""Every padding mode in every function that takes it, against the oracle."""

import jax
import numpy as np
import pytest

import jaxconv
from jaxconv._src.geometry.padding import BORDERS, NAMES
from support import cases, oracle
from support.cases import BASIC, by_rank, operands
from support.operators import assert_adjoint, assert_conv
from support.oracle import Case, padding_of

pytestmark = pytest.mark.usefixtures("x64")
by_name = pytest.mark.parametrize("name", NAMES)


def named(case: Case, name: str) -> Case:
    """The case with every axis padded by ``name``, and with enough pixels to reflect."""
    case = case.replace(input_spatial=tuple(n + 2 for n in case.input_spatial))
    pairs = tuple(padding_of(name, n, k, s, d) for n, k, s, _, d in case.axes)
    return case.replace(padding=pairs, borders=(name if name in BORDERS else None,) * case.rank)


def written(name: str, rank: int):
    """``CAUSAL`` is written once per axis if there are several."""
    return (name,) * rank if name == "CAUSAL" else name


@pytest.mark.sample(9)
@by_name
@by_rank
def test_conv(case, name):
    case = named(case, name)
    x, k, g = operands(case, np.float64)
    options = case.options() | {"padding": written(name, case.rank)}
    assert_conv(lambda x, k: jaxconv.conv(x, k, **options), case, x, k, g)


@by_name
def test_gradient_functions(name):
    """``conv_input_grad`` adds the gradient of the border to the pixels that it repeats."""
    case = named(BASIC[2], name)
    x, k, g = operands(case, np.float64)
    options = case.options() | {"padding": written(name, case.rank)}
    y = jaxconv.conv(x, k, **options)
    dx = jaxconv.conv_input_grad(g, k, case.input_spatial, **options)
    dk = jaxconv.conv_filter_grad(x, g, case.kernel_spatial, **options)
    oracle.assert_right(dx, "x", case, k=k, g=g)
    oracle.assert_right(dk, "k", case, x=x, g=g)
    assert_adjoint(case, y, dx, dk, x, k, g)


@by_name
def test_depthwise_conv(name):
    case = named(BASIC[1], name).replace(groups=6, out_features=12)
    x, k, g = operands(case, np.float64)
    options = {"strides": case.strides, "dilation": case.dilation, "padding": name}
    assert_conv(lambda x, k: jaxconv.depthwise_conv(x, k, **options), case, x, k, g)


@by_name
def test_separable_conv(name):
    """Its padding is the depthwise part's."""
    case = named(BASIC[1], name).replace(groups=6, out_features=6)
    x, k = operands(case, np.float64, "xk")
    options = {"strides": case.strides, "dilation": case.dilation, "padding": name}
    y = jaxconv.separable_conv(x, k, np.eye(6), **options)
    oracle.assert_right(y, "g", case, x=x, k=k)


@pytest.mark.parametrize(
    "names", [("CAUSAL", "SAME"), ("CIRCULAR", "VALID"), ("REFLECT", "REPLICATE")], ids="-".join
)
def test_a_name_for_each_axis(names):
    case = named(BASIC[2], "VALID")
    axes = zip(names, case.axes, strict=True)
    pairs = [padding_of(name, n, k, s, d) for name, (n, k, s, _, d) in axes]
    borders = tuple(name if name in BORDERS else None for name in names)
    case = case.replace(padding=tuple(pairs), borders=borders)
    x, k, g = operands(case, np.float64)
    options = case.options() | {"padding": names}
    assert_conv(lambda x, k: jaxconv.conv(x, k, **options), case, x, k, g)


def test_names_ints_and_pairs_together():
    case = BASIC[3].replace(strides=(1, 1, 1), padding=((1, 1), (2, 2), (0, 2)))
    n, k, s, _, d = case.axes[0]
    case = case.replace(padding=(padding_of("SAME", n, k, s, d), *case.padding[1:]))
    x, k, g = operands(case, np.float64)
    options = case.options() | {"padding": ["SAME", 2, (0, 2)]}
    assert_conv(lambda x, k: jaxconv.conv(x, k, **options), case, x, k, g)


@pytest.mark.parametrize("padding", [((-2, -1), (0, -2)), ((3, -2), (-1, 4)), -1], ids=str)
def test_negative_padding_crops(padding):
    pairs = ((padding,) * 2,) * 2 if isinstance(padding, int) else padding
    case = BASIC[2].replace(padding=pairs, input_spatial=(9, 11))
    x, k, g = operands(case, np.float64)
    options = case.options() | {"padding": padding}
    assert_conv(lambda x, k: jaxconv.conv(x, k, **options), case, x, k, g)


@pytest.mark.parametrize("name", ["CIRCULAR", "REFLECT"])
def test_the_widest_possible_border(name):
    """Five pixels provide a circular border of five, and a reflected border of four."""
    k = 11 if name == "CIRCULAR" else 9
    case = Case(2, 2, 3, (5,), (k,), (1,), (padding_of(name, 5, k, 1, 1),), (1,), 1, (name,))
    x, k, g = operands(case, np.float64)
    assert_conv(lambda x, k: jaxconv.conv(x, k, padding=name), case, x, k, g)


def test_circular_convolution_is_a_product_of_spectra():
    """The convolution theorem: with a circular border, DFT(y) = DFT(x) * conj(DFT(kernel))."""
    x, k = cases.operand((1, 16, 1), np.float64), cases.operand((5, 1, 1), np.float64)
    y = jaxconv.conv(x, k, padding="CIRCULAR")[0, :, 0]
    wide = np.zeros(16)
    wide[:5] = k[:, 0, 0]
    spectrum = np.fft.fft(x[0, :, 0]) * np.fft.fft(np.roll(wide, -2)).conj()
    np.testing.assert_allclose(y, np.fft.ifft(spectrum).real, atol=1e-12)


def test_borders_differentiate_twice():
    case = named(BASIC[1], "REFLECT")
    x, k = operands(case, np.float64, "xk")
    options = case.options() | {"padding": "REFLECT"}

    def energy(x):
        return jax.numpy.sum(jaxconv.conv(x, k, **options) ** 2)

    direction = operands(case, np.float64, "x")[0][::-1]
    product = jax.jvp(jax.grad(energy), (x,), (direction,))[1]
    image = oracle.compute("g", case, x=direction, k=k)
    oracle.assert_right(product / 2, "x", case, k=k, g=image)
