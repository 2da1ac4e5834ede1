"""The oracle agrees with sums worked out by hand, and its tolerance catches plausible mistakes."""

import numpy as np
import pytest

from support import cases, oracle
from support.oracle import Case

LINE = Case(1, 1, 1, (4,), (2,), (1,), ((0, 0),), (1,))


def test_conv_by_hand():
    """1*10 + 2*100, 2*10 + 3*100, 3*10 + 4*100."""
    x, k = np.array([1.0, 2, 3, 4]).reshape(1, 4, 1), np.array([10.0, 100]).reshape(2, 1, 1)
    assert oracle.compute("g", LINE, x=x, k=k).ravel().tolist() == [210, 320, 430]


def test_gradients_by_hand():
    x, k = np.array([1.0, 2, 3, 4]).reshape(1, 4, 1), np.array([10.0, 100]).reshape(2, 1, 1)
    g = np.array([1.0, 0, 2]).reshape(1, 3, 1)
    assert oracle.compute("x", LINE, k=k, g=g).ravel().tolist() == [10, 100, 20, 200]
    assert oracle.compute("k", LINE, x=x, g=g).ravel().tolist() == [1 + 6, 2 + 8]


def test_strides_dilation_and_padding_by_hand():
    """Windows start at -1 and 1; their taps are two apart: (-1, 1) and (1, 3)."""
    case = LINE.replace(strides=(2,), dilation=(2,), padding=((1, 0),))
    x, k = np.array([1.0, 2, 3, 4]).reshape(1, 4, 1), np.array([10.0, 100]).reshape(2, 1, 1)
    assert oracle.compute("g", case, x=x, k=k).ravel().tolist() == [200, 420]


def test_groups_by_hand():
    """Group 0 reads feature 0 and writes 0 and 1; group 1 reads 1 and writes 2 and 3."""
    case = Case(1, 2, 4, (1,), (1,), (1,), ((0, 0),), (1,), 2)
    x, k = np.array([2.0, 3]).reshape(1, 1, 2), np.array([1.0, 10, 100, 1000]).reshape(1, 1, 4)
    assert oracle.compute("g", case, x=x, k=k).ravel().tolist() == [2, 20, 300, 3000]


@pytest.mark.parametrize(
    ("border", "wanted"),
    [
        ("CIRCULAR", [4, 1, 2, 3, 4, 1]),
        ("REFLECT", [2, 1, 2, 3, 4, 3]),
        ("REPLICATE", [1, 1, 2, 3, 4, 4]),
        (None, [0, 1, 2, 3, 4, 0]),
    ],
)
def test_borders_by_hand(border, wanted):
    case = LINE.replace(kernel_spatial=(1,), padding=((1, 1),), borders=(border,))
    x, k = np.array([1.0, 2, 3, 4]).reshape(1, 4, 1), np.ones((1, 1, 1))
    assert oracle.compute("g", case, x=x, k=k).ravel().tolist() == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("SAME", (1, 2)),
        ("SAME_LOWER", (2, 1)),
        ("FULL", (6, 6)),
        ("CAUSAL", (6, 0)),
        ("CIRCULAR", (3, 3)),
        ("VALID", (0, 0)),
    ],
)
def test_named_padding_by_hand(name, wanted):
    """n=8, k=3, s=4, d=3: two outputs span 4 + 6 + 1 = 11 pixels, three more than there are."""
    assert oracle.padding_of(name, 8, 3, 4, 3) == wanted


@pytest.mark.parametrize("case", cases.random_cases(1, 20))
def test_the_three_operators_are_adjoint(case):
    x, k, g = cases.operands(case, np.complex128)
    values = [np.sum(g * oracle.compute("g", case, x=x, k=k))]
    values.append(np.sum(x * oracle.compute("x", case, k=k, g=g)))
    values.append(np.sum(k * oracle.compute("k", case, x=x, g=g)))
    np.testing.assert_allclose(values, values[0], rtol=1e-9, atol=1e-9)


def _mistakes(role, right, case):
    """Results that a wrong program would return."""
    yield "zeroed", np.zeros_like(right)
    yield "negated", -right
    flipped = tuple(range(case.rank)) if role == "k" else tuple(range(1, case.rank + 1))
    yield "flipped", np.flip(right, flipped)
    yield "shifted by one", np.roll(right, 1, flipped[0])
    grouped = right.reshape(*right.shape[:-1], case.groups, -1)
    yield "groups swapped", np.roll(grouped, 1, -2).reshape(right.shape)
    yield "multiplied by the number of devices", right * 8
    spoilt = right.copy()
    spoilt.flat[-1] = 0
    yield "last entry lost", spoilt


def _accepted(result, role, case, values) -> bool:
    try:
        oracle.assert_right(result, role, case, **values)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("role", ["g", "x", "k"])
@pytest.mark.parametrize("case", cases.BASIC.values(), ids=lambda case: f"{case.rank}d")
def test_mistakes_fail_the_tolerance(case, role, dtype):
    dtype = cases.DTYPES[dtype]
    values = {name: cases.operands(case, dtype, name)[0] for name in "xkg" if name != role}
    right = oracle.compute(role, case, **values).astype(dtype)
    oracle.assert_right(right, role, case, **values)
    for mistake, wrong in _mistakes(role, right, case):
        if np.array_equal(wrong, right):  # an axis of extent one has nothing to flip
            continue
        assert not _accepted(wrong, role, case, values), mistake


@pytest.mark.parametrize("role", ["g", "x", "k"])
def test_a_flipped_kernel_fails_the_tolerance(role):
    """True convolution instead of cross-correlation."""
    case = cases.BASIC[2]
    values = {name: cases.operands(case, roles=name)[0] for name in "xkg" if name != role}
    flipped = {name: np.flip(v, (0, 1)) if name == "k" else v for name, v in values.items()}
    wrong = oracle.compute(role, case, **flipped)
    wrong = np.flip(wrong, (0, 1)) if role == "k" else wrong
    with pytest.raises(AssertionError, match="error"):
        oracle.assert_right(wrong.astype(np.float32), role, case, **values)


def test_a_wrong_shape_fails():
    case = cases.BASIC[1]
    x, k = cases.operands(case, roles="xk")
    y = oracle.compute("g", case, x=x, k=k)
    with pytest.raises(AssertionError):
        oracle.assert_right(y[:, :-1], "g", case, x=x, k=k)
