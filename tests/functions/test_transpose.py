"""``conv_transpose`` is the adjoint of ``conv``, in every geometry."""

import jax
import numpy as np
import pytest

import jaxconv
from support import cases, oracle
from support.cases import by_rank, operands
from support.oracle import Case, padding_of

pytestmark = pytest.mark.usefixtures("x64")


def assert_transpose(case: Case, **options) -> None:
    """Value and both gradients of the transposed convolution that returns the case's input."""
    x, k, g = operands(case, np.float64)
    options = {"strides": case.strides, "dilation": case.dilation, "groups": case.groups} | options
    dx, pull = jax.vjp(lambda g, k: jaxconv.conv_transpose(g, k, **options), g, k)
    oracle.assert_right(dx, "x", case, k=k, g=g)
    to_g, to_k = pull(x)
    oracle.assert_right(to_g, "g", case, x=x, k=k)
    oracle.assert_right(to_k, "k", case, x=x, g=g)


def transposed(n, k, s, padding, d, extra) -> tuple[int, tuple[int, int]]:
    """The extent that ``n`` becomes, and the padding of a convolution that takes it back to n."""
    extent = (n - 1) * s + d * (k - 1) + 1 - sum(padding) + extra
    return extent, (padding[0], padding[1] - extra)


def case_of(n, k, s, padding, d, extra, **changes) -> Case:
    """The convolution in one dimension whose adjoint takes ``n`` pixels."""
    extent, pair = transposed(n, k, s, padding, d, extra)
    return Case(2, 6, 9, (extent,), (k,), (s,), (pair,), (d,), 3).replace(**changes)


@pytest.mark.sample(2)
@pytest.mark.parametrize("case", cases.random_cases(4, 12))
def test_conv_transpose(case):
    """The output padding supplies the extent that the strides leave open."""
    paddings, extra = [], []
    for (n, k, s, padding, d), outputs in zip(case.axes, case.shape("g")[1:-1], strict=True):
        minimum, _ = transposed(outputs, k, s, padding, d, 0)
        paddings.append(padding)
        extra.append(n - minimum)
    assert_transpose(case, padding=paddings, output_padding=extra)


@by_rank
def test_grouped(case):
    assert_transpose(case, padding=case.padding, output_padding=_slack(case))


def _slack(case: Case) -> list[int]:
    outputs = case.shape("g")[1:-1]
    return [
        n - transposed(o, k, s, padding, d, 0)[0]
        for (n, k, s, padding, d), o in zip(case.axes, outputs, strict=True)
    ]


@pytest.mark.parametrize("name", ["SAME", "SAME_LOWER"])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("s", [1, 2, 3])
def test_same_gives_n_times_stride(name, k, s):
    n, d = 4, 2
    case = Case(2, 2, 3, (n * s,), (k,), (s,), (padding_of(name, n * s, k, s, d),), (d,))
    assert case.shape("g")[1] == n
    k, g = operands(case, np.float64, "kg")
    y = jaxconv.conv_transpose(g, k, strides=s, padding=name, dilation=d)
    assert y.shape[1] == n * s
    oracle.assert_right(y, "x", case, k=k, g=g)


@pytest.mark.parametrize("name", ["VALID", "FULL", "CAUSAL"])
def test_named_padding(name):
    """The forward convolution's padding: more of it, a smaller output."""
    n, k, s, d = 7, 3, 2, 2
    pair = padding_of(name, n, k, s, d)
    assert_transpose(case_of(n, k, s, pair, d, 0), padding=name)


@pytest.mark.parametrize(("s", "d", "extra"), [(3, 1, 1), (3, 1, 2), (2, 3, 1)])
def test_output_padding(s, d, extra):
    assert_transpose(case_of(5, 3, s, (1, 2), d, extra), padding=[(1, 2)], output_padding=extra)


@pytest.mark.parametrize(("s", "d", "extra"), [(1, 3, 1), (1, 3, 2), (2, 4, 2), (2, 4, 3)])
def test_output_padding_of_a_stride_or_more(s, d, extra):
    """``stride <= output_padding < dilation``, as PyTorch allows; the size alone would be
    ambiguous."""
    assert_transpose(case_of(5, 3, s, (2, 1), d, extra), padding=[(2, 1)], output_padding=extra)


def test_output_padding_for_each_axis():
    case = Case(1, 2, 3, (9, 7), (3, 2), (2, 3), ((1, -1), (0, -2)), (1, 1))
    assert case.shape("g") == (1, 4, 2, 3)
    assert_transpose(case, padding=((1, 0), (0, 0)), output_padding=(1, 2))


def test_output_padding_adds_pixels_that_no_window_reaches():
    """With VALID and a kernel no wider than the stride, the extra pixels are zero."""
    g, k = np.ones((1, 3, 1)), np.ones((2, 1, 1))
    y = jaxconv.conv_transpose(g, k, strides=3, padding="VALID", output_padding=2)
    assert y[0, :, 0].tolist() == [1, 1, 0, 1, 1, 0, 1, 1, 0, 0]


def test_negative_padding_widens():
    assert_transpose(case_of(4, 3, 2, (-1, -2), 1, 0), padding=[(-1, -2)])


def test_the_adjoint_of_conv_is_conv_transpose():
    """``linear_transpose`` of ``conv`` at the extents that the strides do not leave open."""
    case = case_of(4, 3, 2, (1, 1), 1, 1).replace(groups=1)
    x, k, g = operands(case, np.float64)
    conv = jax.linear_transpose(lambda x: jaxconv.conv(x, k, strides=2, padding=[(1, 0)]), x)
    y = jaxconv.conv_transpose(g, k, strides=2, padding=[(1, 1)], output_padding=1)
    np.testing.assert_allclose(y, conv(g)[0], rtol=1e-12, atol=1e-12)


def test_fractional_stride_upsampling():
    """A 2x2 kernel of ones at stride 2 repeats every pixel, as nearest-neighbor does."""
    x = cases.operand((1, 3, 4, 1), np.float64)
    y = jaxconv.conv_transpose(x, np.ones((2, 2, 1, 1)), strides=2)
    np.testing.assert_allclose(y, x.repeat(2, 1).repeat(2, 2), rtol=1e-14)
