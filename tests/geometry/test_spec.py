"""The arithmetic of ``ConvSpec`` against counting."""

import dataclasses
import itertools
import pickle

import hypothesis
import pytest
from hypothesis import strategies as st

from benchmarks.common.workloads import WORKLOADS
from jaxconv._src.geometry.spec import (
    ConvSpec,
    Operator,
    effective_extent,
    output_extent,
    transposed_extent,
)
from support import cases, oracle
from support.operators import ROLES, as_spec


@st.composite
def axes(draw):
    """``(n, k, s, (low, high), d)``, the kernel fitting or not, cropped or padded."""
    small = st.integers(1, 5)
    low, high = draw(st.integers(-2, 6)), draw(st.integers(-2, 6))
    n = draw(st.integers(max(0, -low - high), 20))
    return n, draw(st.integers(0, 7)), draw(small), (low, high), draw(small)


@hypothesis.given(axes())
def test_output_extent_counts_windows(axis):
    assert output_extent(*axis) == oracle.windows(*axis)


@hypothesis.given(k=st.integers(1, 9), d=st.integers(1, 5))
def test_effective_extent_spans_all_taps(k, d):
    assert effective_extent(k, d) == len(range(d * (k - 1) + 1))


@hypothesis.given(axes(), st.integers(0, 4))
def test_transposed_extent_inverts_output_extent(axis, extra):
    """The input of as many outputs, ``extra`` pixels of it read by no window."""
    n, k, s, padding, d = axis
    hypothesis.assume(n > 0 and k > 0)
    extent = transposed_extent(n, k, s, padding, d, extra % s)
    hypothesis.assume(extent > 0 and extent + sum(padding) >= d * (k - 1) + 1)
    assert oracle.windows(extent, k, s, padding, d) == n


@hypothesis.given(axes())
def test_transposed_extent_is_the_smallest(axis):
    n, k, s, padding, d = axis
    hypothesis.assume(n > 0 and k > 0)
    extent = transposed_extent(n, k, s, padding, d)
    hypothesis.assume(extent > 1)
    assert oracle.windows(extent - 1, k, s, padding, d) == n - 1


def test_transposed_extent_of_nothing_is_nothing():
    assert transposed_extent(0, 3, 2, (1, 1), 1, 1) == 0


@hypothesis.given(cases.cases())
def test_shapes(case):
    spec = as_spec(case)
    assert (spec.input_shape, spec.kernel_shape, spec.output_shape) == tuple(map(case.shape, "xkg"))
    for operator, role in ROLES.items():
        assert spec.result_shape(operator) == case.shape(role)
        others = [case.shape(other) for other in "xkg" if other != role]
        assert spec.operand_shapes(operator) in (tuple(others), tuple(others[::-1]))


@hypothesis.given(cases.cases())
def test_operand_shapes_put_activations_before_the_kernel(case):
    spec = as_spec(case)
    x, k, g = map(case.shape, "xkg")
    assert spec.operand_shapes(Operator.CONV) == (x, k)
    assert spec.operand_shapes(Operator.INPUT_GRAD) == (g, k)
    assert spec.operand_shapes(Operator.FILTER_GRAD) == (x, g)


@hypothesis.given(cases.cases(rank=2))
def test_macs_and_parameters_count_products_and_weights(case):
    spec = as_spec(case)
    outputs = [range(extent) for extent in case.shape("g")]
    taps = [range(extent) for extent in case.shape("k")[:-1]]  # of one out-feature
    assert spec.macs == sum(1 for _ in itertools.product(*outputs, *taps))
    assert spec.parameters == sum(1 for _ in itertools.product(*map(range, case.shape("k"))))


@hypothesis.given(cases.cases())
def test_padded_spatial_and_effective_kernel(case):
    spec = as_spec(case)
    for axis, (n, k, _, (low, high), d) in enumerate(case.axes):
        assert spec.padded_spatial[axis] == len(range(-low, n + high))
        assert spec.effective_kernel[axis] == max(d * t for t in range(k)) + 1


@pytest.mark.parametrize("kind", cases.KINDS)
def test_predicates_name_their_kind(kind):
    for case in cases.random_cases(7, 20, kind=kind):
        spec = as_spec(case)
        assert spec.depthwise == (case.groups == case.in_features)
        assert spec.unstrided == (set(case.strides) == {1})
        assert spec.group_in * spec.groups == spec.in_features
        assert spec.group_out * spec.groups == spec.out_features
        assert {"pointwise": spec.pointwise, "patches": spec.disjoint}.get(kind, True)


def test_cropping_is_not_pointwise():
    spec = as_spec(cases.BASIC[1]).replace(kernel_spatial=(1,), padding=((-1, 0),))
    assert not spec.pointwise
    assert spec.replace(padding=((0, 0),)).pointwise


def test_a_spec_is_static_and_hashable():
    spec = as_spec(cases.BASIC[2])
    assert hash(spec) == hash(as_spec(cases.BASIC[2]))
    assert spec == as_spec(cases.BASIC[2])
    assert spec != spec.replace(groups=1)
    assert hash(spec.replace(batch=1)) != hash(spec)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.groups = 2


def test_a_spec_survives_pickling():
    spec = as_spec(cases.BASIC[2])
    assert hash(spec) == hash(pickle.loads(pickle.dumps(spec)))


@pytest.mark.parametrize("empty", [{"batch": 0}, {"input_spatial": (0,)}, {"out_features": 0}])
def test_empty_specs(empty):
    spec = as_spec(cases.BASIC[1])
    assert not spec.empty
    assert spec.replace(**empty).empty


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_workloads_are_convolutions(workload):
    spec = workload.spec
    assert all(extent > 0 for extent in spec.output_shape)
    assert spec.in_features % spec.groups == 0
    assert spec.out_features % spec.groups == 0


def test_workload_names_are_unique():
    names = [workload.name for workload in WORKLOADS]
    assert len(set(names)) == len(names)


def test_the_classic_ledger():
    """20x20x8 and 32 filters 3x3: 2304 weights; depthwise 72 and pointwise 256 make 328."""
    dense = ConvSpec(1, 8, 32, (20, 20), (3, 3), (1, 1), ((0, 0),) * 2, (1, 1), 1)
    depthwise = dense.replace(out_features=8, groups=8)
    pointwise = dense.replace(kernel_spatial=(1, 1), input_spatial=(18, 18))
    assert dense.parameters == 2304
    assert depthwise.parameters + pointwise.parameters == 328
    assert dense.output_shape == pointwise.output_shape == (1, 18, 18, 32)
