"""The regions of a shard contain each of its products once."""

from __future__ import annotations

import random

import pytest

from jaxconv._src.geometry.spec import Operator, effective_extent, output_extent
from jaxconv._src.spmd import interior
from jaxconv._src.spmd.shard_axis import ShardAxis


def random_axes(operator: Operator, count: int, two_shards: bool = False):
    """Random axes on which the shards of inputs and outputs start together."""
    rng = random.Random(operator.value)
    for _ in range(count):
        s, k, d = rng.randint(1, 4), rng.randint(1, 5), rng.randint(1, 3)
        outputs = rng.randint(1, 6)
        low = rng.randint(-2, effective_extent(k, d) + 2)
        if two_shards and rng.random() < 0.5:
            low = (effective_extent(k, d) - s) // 2  # as much before as after, if that is even
        yield ShardAxis(operator, s * outputs, outputs, s, d, k, low, two_shards)


def products(axis: ShardAxis, sources: range):
    """All ``(input, output, tap)`` of the targets, on an endless axis, with these sources."""
    k, targets = axis.taps, range(axis.targets)
    if axis.operator is Operator.INPUT_GRAD:
        pairs = ((input_of(axis, o, t), o, t) for o in sources for t in range(k))
        return {(i, o, t) for i, o, t in pairs if i in targets}
    pairs = ((input_of(axis, o, t), o, t) for o in targets for t in range(k))
    return {(i, o, t) for i, o, t in pairs if i in sources}


def input_of(axis: ShardAxis, output: int, tap: int) -> int:
    return axis.stride * output - axis.low + axis.dilation * tap


def products_of(axis: ShardAxis, region: interior.Region, upper: bool = False):
    """The products of a region, as the convolution that computes it counts them."""
    sources, targets = range(*region.sources), range(*region.targets)
    first = region.taps[0]
    if upper and region.is_shared:  # the halo before the shard is kept after it
        sources = range(-len(sources), 0)
        targets = range(targets.start + region.target_shift, targets.stop + region.target_shift)
        first += region.tap_shift
    is_input_grad = axis.operator is Operator.INPUT_GRAD
    inputs, outputs = (targets, sources) if is_input_grad else (sources, targets)
    extent, (low, high), taps = interior.local_geometry(axis, region)
    assert extent == len(inputs)
    assert output_extent(extent, taps, axis.stride, (low, high), axis.dilation) == len(outputs)
    for o, output in enumerate(outputs):
        for t in range(taps):
            i = axis.stride * o - low + axis.dilation * t
            if i in range(extent) and first + t in range(axis.taps):
                yield inputs[i], output, first + t


EVERYWHERE = range(-60, 60)


@pytest.mark.parametrize("operator", Operator)
def test_every_product_once(operator):
    for axis in random_axes(operator, 400):
        expected = products(axis, EVERYWHERE)
        regions = [interior.interior(axis), *interior.boundary(axis)]
        found = [product for region in regions for product in products_of(axis, region)]
        assert len(found) == len(set(found))
        assert set(found) == expected, axis
        assert set(products_of(axis, interior.full(axis))) == expected, axis


@pytest.mark.parametrize("operator", Operator)
def test_every_product_of_two_shards_once(operator):
    """Where both shards can share a boundary region, it reads entries of the other shard only."""
    shared = 0
    for axis in random_axes(operator, 800, two_shards=True):
        if not interior.can_split(axis):
            continue
        m, is_shared = axis.sources, interior.has_shared_boundary(axis)
        for upper, sources in ((False, range(2 * m)), (True, range(-m, m))):
            found = [
                product
                for region in interior.complete(axis)
                for product in products_of(axis, region, upper)
            ]
            assert len(found) == len(set(found))
            # If not shared, both halos are read, with zeros past the ends.
            expected = products(axis, sources if is_shared else EVERYWHERE)
            assert set(found) == expected, axis
        shared += is_shared
    assert shared > 40


@pytest.mark.parametrize("operator", Operator)
def test_a_shared_boundary_has_few_taps(operator):
    """A kernel of 3 reaches a neighbor by one tap; one of 7 by 5, some of them zeros."""
    for k, taps in ((3, 1), (7, 5)):
        axis = ShardAxis(operator, 8, 8, 1, 1, k, k // 2, two_shards=True)
        (region,) = interior.boundary(axis)
        assert interior.local_geometry(axis, region).taps == taps
        assert region.target_shift == -(8 - k // 2)


@pytest.mark.parametrize("operator", Operator)
def test_the_halo_is_what_regions_read(operator):
    for axis in random_axes(operator, 400):
        before, after = interior.halo_widths(axis)
        reads = [region.sources for region in (interior.full(axis), *interior.boundary(axis))]
        assert min(0, *(first for first, _ in reads)) == -before
        assert max(axis.sources, *(end for _, end in reads)) == axis.sources + after


def test_which_axes_can_be_split():
    same = ShardAxis(Operator.CONV, 8, 8, 1, 1, 3, 1)
    assert interior.halo_widths(same) == (1, 1)
    assert interior.can_split(same)
    too_wide = ShardAxis(Operator.CONV, 8, 8, 1, 1, 10, 2)  # a halo of 9 for 8 rows
    assert not interior.can_split(too_wide)
    drifting = ShardAxis(Operator.CONV, 8, 7, 1, 1, 3, 1)
    assert not interior.can_split(drifting)
