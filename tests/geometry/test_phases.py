"""Phases of a strided input gradient against the definition of a convolution."""

import itertools

import pytest

from jaxconv._src.geometry.phases import phase

TAPS = (1, 2, 3, 5, 7)
LOWS = (-3, 0, 1, 4)
EXTENT = 12


def by_phases(taps: int, stride: int, dilation: int, low: int) -> list[tuple[int, int, int]]:
    """All (input, tap, output) triples with an input in [0, EXTENT)."""
    triples = []
    for residue in range(stride):
        found = phase(residue, taps, stride, dilation, low)
        for j, i in itertools.product(range(EXTENT), range(found.number)):
            output = j + found.output - found.output_step * i
            tap = found.first + found.tap_step * i
            assert 0 <= tap < taps
            triples.append((residue + stride * j, tap, output))
    return sorted(triple for triple in triples if triple[0] < EXTENT)


def by_definition(taps: int, stride: int, dilation: int, low: int) -> list[tuple[int, int, int]]:
    outputs = range(-50, 100)  # more than any tap reaches
    triples = [
        (stride * output + dilation * tap - low, tap, output)
        for output in outputs
        for tap in range(taps)
    ]
    return sorted(triple for triple in triples if 0 <= triple[0] < EXTENT)


@pytest.mark.parametrize("dilation", range(1, 7))
@pytest.mark.parametrize("stride", range(1, 7))
def test_phases_hold_every_product_once(stride, dilation):
    for taps, low in itertools.product(TAPS, LOWS):
        case = (taps, stride, dilation, low)
        assert by_phases(*case) == by_definition(*case), case


def test_a_residue_that_no_tap_reaches_is_empty():
    assert phase(1, taps=3, stride=4, dilation=2, low=0).number == 0
    assert phase(3, taps=2, stride=5, dilation=1, low=0).number == 0
