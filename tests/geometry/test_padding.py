"""Padding: what each name means, and the errors for everything else."""

from typing import get_args

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxconv._src.geometry.padding import (
    NAMES,
    Border,
    PaddingError,
    PaddingName,
    axis_entries,
    resolve,
)
from support import oracle

ZEROS = ("SAME", "SAME_LOWER", "VALID", "FULL", "CAUSAL")
BORDERS = {"CIRCULAR": "wrap", "REFLECT": "reflect", "REPLICATE": "edge"}
SIZES = (st.integers(1, 20), st.integers(1, 7), st.integers(1, 5), st.integers(1, 4))


def resolve_axis(padding, n, k, s, d):
    """The pair and the border of a convolution with one spatial axis."""
    resolved = resolve(padding, (n,), (k,), (s,), (d,))
    return resolved.pairs[0], resolved.borders[0]


def test_the_names():
    assert set(NAMES) == {*ZEROS, *BORDERS}
    assert set(get_args(PaddingName)) == {*NAMES, *map(str.lower, NAMES)}


@pytest.mark.parametrize("name", ZEROS)
@hypothesis.given(*SIZES)
def test_names_of_zero_padding(name, n, k, s, d):
    assert resolve_axis(name, n, k, s, d) == (oracle.padding_of(name, n, k, s, d), None)


@pytest.mark.parametrize("name", BORDERS)
@hypothesis.given(*SIZES)
def test_names_of_borders(name, n, k, s, d):
    border = Border(BORDERS[name], *oracle.padding_of(name, n, k, s, d))
    assert resolve_axis(name, n, k, s, d) == ((0, 0), border)


@pytest.mark.parametrize("name", ["SAME", "SAME_LOWER", "CAUSAL", *BORDERS])
@hypothesis.given(*SIZES)
def test_names_that_keep_the_extent(name, n, k, s, d):
    """They return ``ceil(n / s)`` outputs, the border modes once their border is materialized."""
    resolved = resolve(name, (n,), (k,), (s,), (d,))
    (padded,) = resolved.bordered((n,))
    assert oracle.windows(padded, k, s, resolved.pairs[0], d) == -(-n // s)


@hypothesis.given(*SIZES)
def test_full_has_every_window_that_touches_the_input(n, k, s, d):
    (low, high), _ = resolve_axis("FULL", n, k, s, d)
    assert oracle.windows(n, k, 1, (low, high), d) == n + d * (k - 1)


@hypothesis.given(*SIZES)
def test_same_lower_is_same_mirrored(n, k, s, d):
    same, lower = (resolve_axis(name, n, k, s, d)[0] for name in ("SAME", "SAME_LOWER"))
    assert same == lower[::-1]
    assert 0 <= same[1] - same[0] <= 1


@pytest.mark.parametrize(
    ("padding", "rank", "pairs"),
    [
        (2, 2, ((2, 2), (2, 2))),
        (-1, 1, ((-1, -1),)),
        ((1, 2), 2, ((1, 1), (2, 2))),
        ([(1, 2)], 1, ((1, 2),)),
        (((1, 2), (0, -3)), 2, ((1, 2), (0, -3))),
        ([(1, 2), 3], 2, ((1, 2), (3, 3))),
        ([[1, 2], [3, 4]], 2, ((1, 2), (3, 4))),
        (np.int64(2), 1, ((2, 2),)),
        (np.array([[1, 2], [3, 4]]), 2, ((1, 2), (3, 4))),
        (("CAUSAL", "SAME"), 2, ((4, 0), (2, 2))),
        (("VALID", 1, (0, 2)), 3, ((0, 0), (1, 1), (0, 2))),
        ("same", 1, ((2, 2),)),
        (("Causal", "valid"), 2, ((4, 0), (0, 0))),
    ],
)
def test_every_way_of_writing_it(padding, rank, pairs):
    sizes = (9,) * rank, (5,) * rank, (1,) * rank, (1,) * rank
    assert resolve(padding, *sizes).pairs == pairs


def test_each_axis_resolves_alone():
    resolved = resolve(("SAME", "VALID", "REFLECT"), (7, 8, 9), (4, 4, 4), (2, 1, 1), (1, 1, 2))
    assert resolved.pairs == ((1, 2), (0, 0), (0, 0))
    assert resolved.borders == (None, None, Border("reflect", 3, 3))
    assert resolved.bordered((7, 8, 9)) == (7, 8, 15)


@pytest.mark.parametrize("name", [*NAMES])
def test_an_empty_kernel_or_axis_resolves(name):
    for n, k in [(0, 3), (5, 0), (0, 0)]:
        pair, border = resolve_axis(name, n, k, 2, 3)
        assert min(pair) >= 0
        assert border is None or min(border.low, border.high) >= 0


@pytest.mark.parametrize(
    ("padding", "rank", "sentence"),
    [
        ("samee", 1, 'did you mean "SAME"?'),
        ("SAMELOWER", 1, 'did you mean "SAME_LOWER"?'),
        ("VALD", 2, 'did you mean "VALID"?'),
        ("bananas", 1, "must be one of SAME, SAME_LOWER"),
        ("CAUSAL", 2, "is ambiguous for 2 spatial axes"),
        ("CAUSAL", 3, "('CAUSAL', 'SAME', 'SAME')"),
        (1.5, 1, "but got 1.5"),
        (None, 1, "but got None"),
        (True, 1, "but got True"),
        ((1, 2, 3), 2, "one entry per spatial axis (2), but got 3"),
        ((1, 2), 1, "write a (low, high) pair for the only axis as [(1, 2)]"),
        ((), 1, "but got 0"),
        ([(1, 2, 3)], 1, "but got (1, 2, 3)"),
        ([(1.0, 2)], 1, "but got (1.0, 2)"),
        ([None], 1, "but got None"),
        ([(1, None)], 1, "but got (1, None)"),
        ([("SAME", "SAME")], 1, "but got ('SAME', 'SAME')"),
        ([(True, False)], 1, "but got (True, False)"),
        (["SAME", "sum"], 2, "but got 'sum'"),
        ({"low": 1}, 2, "one entry per axis, but got {'low': 1}"),
    ],
)
def test_errors(padding, rank, sentence):
    with pytest.raises(PaddingError) as error_of:
        axis_entries(padding, rank)
    assert sentence in str(error_of.value)
