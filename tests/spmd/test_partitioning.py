"""A jit over several devices runs each implementation on shards: values, shardings, collectives."""

from __future__ import annotations

import math
import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxconv
from jaxconv._src.geometry.spec import Operator
from jaxconv._src.kernels.cpu import native
from support.cases import operands
from support.meshes import (
    BATCH,
    HEIGHT,
    KINDS,
    case_of,
    collectives,
    compiled,
    mesh_of,
    on_eight_devices,
)
from support.operators import assert_all_right, training
from support.oracle import Case

pytestmark = on_eight_devices

BOTH = P(None, "b", "f")


def assert_engine(program) -> None:
    """The CPU engine computes all three operators, if it is available."""
    if (
        native.unsupported_reason(
            Operator.CONV,
            jaxconv.ConvSpec(2, 2, 2, (5,), (3,), (1,), ((1, 1),), (1,), 2),
            np.float32,
        )
        is None
    ):
        targets = set(re.findall(r'custom_call_target="(jaxconv_\w+)"', program.as_text()))
        assert targets == {"jaxconv_conv", "jaxconv_input_grad", "jaxconv_filter_grad"}


@pytest.mark.parametrize("kind", KINDS)
def test_batch(kind):
    """The only collective is one all-reduce of the filter gradient."""
    case = case_of(kind)
    program, placed, arrays = compiled(case, (BATCH, P(), BATCH))
    results = program(*placed)
    assert_all_right(case, arrays, results)
    assert collectives(program) == {"all-reduce": [math.prod(case.shape("k"))]}
    assert [result.sharding.spec for result in results] == [BATCH, BATCH, P()]
    assert_engine(program)


@pytest.mark.parametrize("kind", KINDS)
def test_space(kind):
    """Each operator that reads an activation exchanges a halo of two rows in all."""
    case = case_of(kind)
    program, placed, arrays = compiled(case, (HEIGHT, P(), HEIGHT))
    results = program(*placed)
    assert_all_right(case, arrays, results)
    row = {role: math.prod(case.shape(role)) // 16 for role in "xg"}
    assert collectives(program) == {
        "collective-permute": sorted([row["x"]] * 4 + [row["g"]] * 2),
        "all-reduce": [math.prod(case.shape("k"))],
    }
    assert [result.sharding.spec for result in results] == [HEIGHT, HEIGHT, P()]
    assert_engine(program)


def test_two_shards_swap_their_edges():
    """One permute carries both directions of a halo, and each shard computes one boundary."""
    case = case_of("depthwise", padding=((1, 1), (1, 1)))
    spec = P("b", None, "f")
    program, placed, arrays = compiled(case, (spec, P(), spec))
    assert_all_right(case, arrays, program(*placed))
    column = {role: math.prod(case.shape(role)) // 8 // 4 for role in "xg"}
    assert collectives(program) == {
        "collective-permute": sorted([column["x"]] * 2 + [column["g"]]),
        "all-reduce": [math.prod(case.shape("k"))],
    }
    calls = re.findall(r'custom_call_target="jaxconv_\w+"', program.as_text())
    assert len(calls) in (0, 2 * 3)  # none if the engine is not available


TWO = {
    "wide": case_of("depthwise", kernel_spatial=(1, 7), padding=((0, 0), (3, 3))),
    "even": case_of("dense", kernel_spatial=(3, 4), strides=(1, 2), padding=((1, 1), (1, 1))),
    "dilated": case_of("grouped", dilation=(1, 2), padding=((1, 1), (2, 2))),
    "strided and dilated": case_of(
        "dense",
        input_spatial=(4, 24),
        strides=(1, 3),
        dilation=(1, 3),
        padding=((1, 1), (2, 2)),
    ),
}


@pytest.mark.sample(14)
@pytest.mark.parametrize("dtype", [np.float64, "bfloat16"])
@pytest.mark.parametrize("spec", [P("b", None, "f"), P(None, "r", "f"), P(None, ("r", "b"), "f")])
@pytest.mark.parametrize("case", TWO.values(), ids=TWO)
def test_two_shards(case, spec, dtype):
    """Also over the second mesh axis, and in four shards over mesh axes in another order."""
    mesh = mesh_of((2, 2, 2), ("b", "r", "f"))
    program, placed, arrays = compiled(case, (spec, P(), spec), dtype, mesh)
    assert_all_right(case, arrays, program(*placed))
    assert set(collectives(program)) <= {"collective-permute", "all-reduce"}


@pytest.mark.parametrize("kind", ["depthwise", "grouped", "even groups"])
def test_groups(kind):
    """Groups are independent convolutions, so nothing is communicated."""
    case = case_of(kind)
    last = P(None, None, None, "f")
    program, placed, arrays = compiled(case, (last, last, last))
    results = program(*placed)
    assert_all_right(case, arrays, results)
    assert collectives(program) == {}
    assert [result.sharding.spec for result in results] == [last] * 3


def test_groups_that_one_of_two_mesh_axes_divides():
    """The features are sharded over eight devices, and there are four groups."""
    case = Case(2, 16, 16, (6, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4)
    last = P(None, None, None, ("b", "f"))
    program, placed, arrays = compiled(case, (last, P(), P()), mesh=mesh_of((2, 4), ("b", "f")))
    assert_all_right(case, arrays, program(*placed))


def test_out_features_beside_the_batch():
    case = case_of("dense")
    specs = BATCH, P(None, None, None, "f"), P("b", None, None, "f")
    program, placed, arrays = compiled(case, specs)
    results = program(*placed)
    assert_all_right(case, arrays, results)
    sums = [math.prod(case.shape(role)) // parts for role, parts in (("x", 4), ("k", 2))]
    assert collectives(program) == {"all-reduce": sorted(sums)}
    assert [result.sharding.spec for result in results] == [specs[2], BATCH, specs[1]]


def test_in_features():
    """Each device convolves its own features, and an all-reduce adds the results."""
    case = case_of("dense")
    specs = P(None, None, None, "f"), P(None, None, "f"), P()
    program, placed, arrays = compiled(case, specs)
    results = program(*placed)
    assert_all_right(case, arrays, results)
    assert collectives(program) == {"all-reduce": [math.prod(case.shape("g"))]}
    assert [result.sharding.spec for result in results] == [P(), specs[0], specs[1]]


SPATIAL = {
    "both axes": (case_of("depthwise", input_spatial=(16, 8)), BOTH),
    "batch and width": (case_of("dense", strides=(2, 2)), P("b", None, "f")),
    "wider than a shard": (
        case_of("depthwise", kernel_spatial=(11, 1), padding=((5, 5), (0, 0))),
        HEIGHT,
    ),
    "dilated": (
        case_of("grouped", dilation=(3, 1), padding=((3, 3), (0, 2))),
        HEIGHT,
    ),
    "strided and dilated": (
        case_of(
            "depthwise",
            input_spatial=(24, 4),
            kernel_spatial=(5, 1),
            strides=(3, 1),
            dilation=(2, 1),
            padding=((5, 3), (0, 0)),
        ),
        HEIGHT,
    ),
    "shards drift apart": (
        case_of("depthwise", kernel_spatial=(5, 3), padding=((0, 0), (1, 1))),
        HEIGHT,
    ),
    "shards that are no multiple of the stride": (
        case_of(
            "dense",
            input_spatial=(12, 4),
            kernel_spatial=(4, 2),
            strides=(2, 1),
            padding=((4, 2), (1, 0)),
        ),
        HEIGHT,
    ),
    "long shards, both axes": (
        case_of(
            "depthwise",
            input_spatial=(32, 12),
            kernel_spatial=(4, 3),
            dilation=(1, 2),
            padding=((1, 2), (3, 1)),
        ),
        BOTH,
    ),
    "long shards, strided and dilated": (
        case_of(
            "dense",
            input_spatial=(72, 3),
            strides=(3, 1),
            dilation=(2, 1),
            padding=((3, -1), (1, 1)),
        ),
        HEIGHT,
    ),
    "long shards, time": (Case(2, 4, 4, (64,), (4,), (1,), ((6, 0),), (2,), 4), HEIGHT),
    "long shards, volumes": (
        Case(1, 3, 2, (16, 8, 2), (3, 2, 2), (1, 1, 1), ((2, 0), (0, 1), (0, 1)), (1, 1, 1)),
        BOTH,
    ),
    "cropped": (
        case_of("depthwise", kernel_spatial=(1, 1), strides=(2, 1), padding=((-1, 0), (0, 0))),
        HEIGHT,
    ),
    "one dimension": (Case(2, 4, 4, (16,), (4,), (1,), ((3, 0),), (1,), 4), HEIGHT),
    "three dimensions": (
        Case(2, 3, 2, (8, 3, 4), (3, 2, 2), (1, 1, 1), ((1, 1), (1, 0), (0, 1)), (1, 1, 1)),
        HEIGHT,
    ),
}


def test_shards_are_convolved_in_place():
    """No array contains rows of a shard together with rows of its halo."""
    case = case_of("depthwise", batch=2, input_spatial=(32, 5), padding=((1, 1), (1, 1)))
    program, *_ = compiled(case, (HEIGHT, P(), HEIGHT))
    shapes = re.findall(r"= \w+\[2,(\d+),5,8\]", program.as_text())
    assert set(shapes) == {"8", "1"}


@pytest.mark.sample(4)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("case", "spec"), SPATIAL.values(), ids=SPATIAL)
def test_spatial_geometries(case, spec):
    """Values are right in float64, and no activation is gathered, for any geometry."""
    program, placed, arrays = compiled(case, (spec, P(), spec))
    assert_all_right(case, arrays, program(*placed))
    sent = collectives(program)
    assert set(sent) <= {"collective-permute", "all-reduce"}
    assert sent["all-reduce"] == [math.prod(case.shape("k"))]


def test_explicit_types():
    case = case_of("depthwise")
    arrays = operands(case, np.float32)
    with jax.set_mesh(mesh_of((4, 2), ("b", "f"), AxisType.Explicit)):
        placed = [jax.device_put(a, s) for a, s in zip(arrays, (BATCH, P(), BATCH), strict=True)]
        program = jax.jit(training(case)).lower(*placed).compile()
        results = program(*placed)
    assert_all_right(case, arrays, results)
    assert collectives(program) == {"all-reduce": [math.prod(case.shape("k"))]}


def test_partial_sums_are_not_rounded_to_half_precision():
    """The devices' partial sums of a bfloat16 filter gradient are added in float32."""
    case = case_of("depthwise")
    program, placed, arrays = compiled(case, (BATCH, P(), BATCH), "bfloat16")
    assert_all_right(case, arrays, program(*placed))
    assert re.search(r"= f32\[\S+ all-reduce", program.as_text())


def test_forced_implementations_run_on_shards():
    case = case_of("depthwise")
    with jaxconv.use_implementation("taps"):
        program, placed, arrays = compiled(case, (BATCH, P(), BATCH))
        assert_all_right(case, arrays, program(*placed))
    assert "jaxconv_" not in program.as_text()
