"""The products of one shard fall into its blocks, each once."""

from __future__ import annotations

import random

import pytest

from jaxconv._src.geometry.spec import Operator, effective_extent, output_extent
from jaxconv._src.spmd.interior import Line


def lines(operator: Operator, count: int, pair: bool = False):
    """Random lines whose shards do not drift."""
    rng = random.Random(operator.value)
    for _ in range(count):
        s, k, d = rng.randint(1, 4), rng.randint(1, 5), rng.randint(1, 3)
        outputs = rng.randint(1, 6)
        low = rng.randint(-2, effective_extent(k, d) + 2)
        if pair and rng.random() < 0.5:
            low = (effective_extent(k, d) - s) // 2  # as much before as after, if that is even
        yield Line(operator, s * outputs, outputs, s, d, k, low, pair)


def products(line: Line, sources: range):
    """All ``(input, output, tap)`` of the targets, on an endless axis, with these sources."""
    k, target = line.taps, range(line.targets)
    if line.operator is Operator.INPUT_GRAD:
        pairs = ((place(line, o, t), o, t) for o in sources for t in range(k))
        return {(i, o, t) for i, o, t in pairs if i in target}
    pairs = ((place(line, o, t), o, t) for o in target for t in range(k))
    return {(i, o, t) for i, o, t in pairs if i in sources}


def place(line: Line, output: int, tap: int) -> int:
    return line.stride * output - line.low + line.dilation * tap


def of_block(line: Line, block, upper: bool = False):
    """The products of a block, as the convolution that computes it counts them."""
    source, target = range(*block.source), range(*block.target)
    first = block.taps[0]
    if upper and any(block.moved):  # it holds what comes before it after itself
        source = range(-len(source), 0)
        target = range(target.start + block.moved[0], target.stop + block.moved[0])
        first += block.moved[1]
    inputs, outputs = (target, source) if line.operator is Operator.INPUT_GRAD else (source, target)
    extent, (low, high), taps = line.local(block)
    assert extent == len(inputs)
    assert output_extent(extent, taps, line.stride, (low, high), line.dilation) == len(outputs)
    for o, output in enumerate(outputs):
        for t in range(taps):
            i = line.stride * o - low + line.dilation * t
            if i in range(extent) and first + t in range(line.taps):
                yield inputs[i], output, first + t


FAR = range(-60, 60)


@pytest.mark.parametrize("operator", Operator)
def test_every_product_once(operator):
    for line in lines(operator, 400):
        wanted = products(line, FAR)
        blocks = [line.own, *line.borders]
        found = [product for block in blocks for product in of_block(line, block)]
        assert len(found) == len(set(found))
        assert set(found) == wanted, line
        assert set(of_block(line, line.whole)) == wanted, line


@pytest.mark.parametrize("operator", Operator)
def test_every_product_of_two_shards_once(operator):
    """One border each, of the other shard's entries alone, where it can be the same one."""
    swapped = 0
    for line in lines(operator, 800, pair=True):
        if not line.splits:
            continue
        m = line.sources
        for upper, sources in ((False, range(2 * m)), (True, range(-m, m))):
            found = [product for block in line.cover for product in of_block(line, block, upper)]
            assert len(found) == len(set(found))
            # Else both borders, with zeros beyond the ends.
            wanted = products(line, sources if line.swaps else FAR)
            assert set(found) == wanted, line
        swapped += line.swaps
    assert swapped > 40


@pytest.mark.parametrize("operator", Operator)
def test_the_taps_of_one_border_are_few(operator):
    """A kernel of 3 reaches a neighbour by one tap, one of 7 by 5 that are not all its own."""
    for k, taps in ((3, 1), (7, 5)):
        line = Line(operator, 8, 8, 1, 1, k, k // 2, True)
        (border,) = line.borders
        assert line.local(border).taps == taps
        assert border.moved[0] == -(8 - k // 2)


@pytest.mark.parametrize("operator", Operator)
def test_the_halo_is_what_blocks_read(operator):
    for line in lines(operator, 400):
        before, after = line.halo
        reads = [block.source for block in (line.whole, *line.borders)]
        assert min(0, *(first for first, _ in reads)) == -before
        assert max(line.sources, *(end for _, end in reads)) == line.sources + after


def test_what_splits():
    same = Line(Operator.CONV, 8, 8, 1, 1, 3, 1)
    assert same.halo == (1, 1)
    assert same.splits
    assert not Line(Operator.CONV, 8, 8, 1, 1, 10, 2).splits  # a halo of 9 for 8 rows
    assert not Line(Operator.CONV, 8, 7, 1, 1, 3, 1).splits  # shards drift apart
