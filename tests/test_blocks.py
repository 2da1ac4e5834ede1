"""The products of one shard fall into its blocks, each once."""

from __future__ import annotations

import random

import pytest

from jaxconv.blocks import Line
from jaxconv.spec import Operator, effective_extent, output_extent


def lines(operator: Operator, count: int):
    """Random lines whose shards do not drift, with the kernels and the dilations they have."""
    rng = random.Random(operator.value)
    for _ in range(count):
        s, k, d = rng.randint(1, 4), rng.randint(1, 5), rng.randint(1, 3)
        outputs, extent = rng.randint(1, 6), effective_extent(k, d)
        low = rng.randint(-2, extent + 2)
        yield Line(operator, s * outputs, outputs, s, extent, low), k, d


def products(line: Line, k: int, d: int, target: range):
    """All ``(input, output, tap)`` of some targets, on an endless axis."""
    if line.operator is Operator.INPUT_GRAD:
        far = range(-40, 40)
        pairs = ((i, o, t) for o in far for t in range(k) for i in [place(line, o, t, d)])
        return {(i, o, t) for i, o, t in pairs if i in target}
    return {(place(line, o, t, d), o, t) for o in target for t in range(k)}


def place(line: Line, output: int, tap: int, d: int) -> int:
    return line.stride * output - line.low + d * tap


def of_block(line: Line, block, k: int, d: int):
    """The products of a block, as the convolution that computes it counts them."""
    source, target = range(*block.source), range(*block.target)
    inputs, outputs = (target, source) if line.operator is Operator.INPUT_GRAD else (source, target)
    extent, (low, high) = line.local(block)
    assert extent == len(inputs)
    assert output_extent(extent, k, line.stride, (low, high), d) == len(outputs)
    for o, output in enumerate(outputs):
        for t in range(k):
            i = line.stride * o - low + d * t
            if i in range(extent):
                yield inputs[i], output, t


@pytest.mark.parametrize("operator", Operator)
def test_every_product_once(operator):
    for line, k, d in lines(operator, 400):
        wanted = products(line, k, d, range(line.targets))
        blocks = [line.own, *line.borders]
        found = [product for block in blocks for product in of_block(line, block, k, d)]
        assert len(found) == len(set(found))
        assert set(found) == wanted, line
        assert set(of_block(line, line.whole, k, d)) == wanted, line


@pytest.mark.parametrize("operator", Operator)
def test_the_halo_is_what_blocks_read(operator):
    for line, *_ in lines(operator, 400):
        before, after = line.halo
        reads = [block.source for block in (line.whole, *line.borders)]
        assert min(0, *(first for first, _ in reads)) == -before
        assert max(line.sources, *(end for _, end in reads)) == line.sources + after


def test_what_splits():
    same = Line(Operator.CONV, 8, 8, 1, 3, 1)
    assert same.halo == (1, 1)
    assert same.splits
    assert not Line(Operator.CONV, 8, 8, 1, 10, 2).splits  # a halo of 9 for 8 rows
    assert not Line(Operator.CONV, 8, 7, 1, 3, 1).splits  # shards drift apart
