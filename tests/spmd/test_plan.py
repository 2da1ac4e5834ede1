"""Partition plans, also for arrays that are sharded as a convolution cannot be; Shardy's rules."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv
from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.spmd.plan import make_plan
from jaxconv._src.spmd.sharding_rule import sharding_rule
from support.cases import build, operand
from support.meshes import BATCH, HEIGHT, case_of, collectives, compiled, mesh_of, on_eight_devices
from support.operators import as_spec, assert_all_right

pytestmark = on_eight_devices

FEATURES = P(None, None, None, "b")
SPEC = ConvSpec(8, 4, 8, (16, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)


# --- extents that do not divide -------------------------------------------------------------------


def training_step(conv, layers: int):
    """The loss and all gradients of a network of equal layers."""

    def loss(x, *kernels):
        for kernel in kernels:
            x = jnp.tanh(conv(x, kernel))
        return jnp.sum(x * x)

    return jax.jit(jax.value_and_grad(loss, tuple(range(layers + 1))))


UNEVEN = {
    "depthwise": (3, (2, 16, 8, 8), (3, 3, 1, 8), {"groups": 8, "padding": "VALID"}),
    "dense": (3, (2, 16, 8, 8), (3, 3, 8, 8), {"padding": "VALID"}),
    "strided": (3, (2, 40, 9, 6), (3, 2, 3, 6), {"groups": 2, "strides": 2}),
    "last shard empty": (1, (2, 8, 4, 6), (4, 1, 1, 6), {"groups": 6, "padding": "VALID"}),
    "wider than a shard": (2, (2, 24, 4, 6), (8, 1, 1, 6), {"groups": 6, "padding": "VALID"}),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize(("layers", "shape", "kernel", "options"), UNEVEN.values(), ids=UNEVEN)
def test_activations_stay_sharded_where_extents_do_not_divide(layers, shape, kernel, options):
    """Several layers over four devices, with activations of 14, 12 and 10 rows for example."""
    conv = functools.partial(jaxconv.conv, **options)
    arrays = [operand(shape, np.float64)]
    arrays += [operand(kernel, np.float64, seed) / 4 for seed in range(layers)]
    mesh = mesh_of((4, 2), ("b", "f"))
    specs = [P(None, "b"), *[P()] * layers]
    placed = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(arrays, specs, strict=True)]
    step = training_step(conv, layers)
    program = step.lower(*placed).compile()
    results = program(*placed)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12),
        results,
        step(*arrays),
    )
    sent = collectives(program)
    assert set(sent) == {"collective-permute", "all-reduce"}
    assert max(sent["all-reduce"]) == np.prod(kernel)
    assert results[1][0].sharding.spec == HEIGHT


def test_batches_that_do_not_divide():
    """Nine examples over four devices: the filter gradient sums only these nine."""
    x, k = operand((12, 5, 3), np.float64), operand((2, 3, 4), np.float64)
    mesh = mesh_of((4, 2), ("b", "f"))

    def loss(x, k):
        examples = jax.lax.with_sharding_constraint(x[:9] / x[:9, :1], NamedSharding(mesh, P("b")))
        return jnp.sum(jnp.sin(jaxconv.conv(examples, k)))

    step = jax.jit(jax.grad(loss, (0, 1)))
    placed = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in ((x, P("b")), (k, P()))]
    program = step.lower(*placed).compile()
    for got, wanted in zip(program(*placed), step(x, k), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)
    assert "all-gather" not in collectives(program)


# --- one mesh axis for several factors ------------------------------------------------------------


@pytest.mark.sample(4)
@pytest.mark.parametrize("kernel", [P(), P(None, None, "b"), FEATURES], ids=str)
@pytest.mark.parametrize(
    ("batch", "images"), [(None, 8), ("f", 8), (None, 1)], ids=["whole", "sharded", "one image"]
)
def test_in_features_and_out_features_over_one_axis(kernel, batch, images):
    """Partial sums are reduce-scattered, and no activation is gathered."""
    case = case_of("dense", batch=images, in_features=8, out_features=12)
    spec = P(batch, None, None, "b")
    program, placed, arrays = compiled(case, (spec, kernel, spec))
    assert_all_right(case, arrays, program(*placed))
    sent = collectives(program)
    assert "all-gather" not in sent
    assert "reduce-scatter" in sent


@pytest.mark.parametrize(
    ("x", "g"), [(BATCH, HEIGHT), (HEIGHT, BATCH), (FEATURES, BATCH), (BATCH, FEATURES)], ids=str
)
def test_activations_that_are_sharded_differently(x, g):
    case = case_of("dense", in_features=8, out_features=12)
    program, placed, arrays = compiled(case, (x, P(), g))
    assert_all_right(case, arrays, program(*placed))
    assert "all-gather" not in collectives(program)


@pytest.mark.parametrize("kernel", [P(), FEATURES], ids=str)
def test_groups_that_would_be_split(kernel):
    """Six groups of four features over four devices: the batch is partitioned instead."""
    case = case_of("grouped", in_features=24, out_features=24, groups=6)
    program, placed, arrays = compiled(case, (FEATURES, kernel, FEATURES))
    results = program(*placed)
    assert_all_right(case, arrays, results)
    activations = [np.prod(case.shape("x")) // parts for parts in (1, 4)]
    assert not set(collectives(program).get("all-gather", ())) & set(activations)
    assert [result.sharding.spec for result in results[:2]] == [FEATURES, FEATURES]


def test_groups_that_would_be_split_with_other_out_features():
    """The values are right, though the results are not sharded."""
    case = case_of("grouped", in_features=12, out_features=24, groups=6)
    program, placed, arrays = compiled(case, (FEATURES, P(), FEATURES))
    assert_all_right(case, arrays, program(*placed))


# --- the plan -------------------------------------------------------------------------------------


def test_a_mesh_axis_partitions_one_factor():
    partitions = {"x": ("b", None, None, None), "k": (None, None, None, "b"), "g": (None,) * 4}
    plan = make_plan(Operator.CONV, SPEC, {"b": 4}, partitions)
    assert plan.mesh_axes == {"n": ("b",)}
    assert plan.outer_partition("k") == [()] * 4
    assert plan.reduced_mesh_axes(Operator.FILTER_GRAD) == ("b",)


def test_sums_are_scattered_where_the_result_is_sharded():
    """The gradient of sharded weights is reduce-scattered to their shards."""
    x, k = ("b", None, None, None), (None, None, None, "b")
    plan = make_plan(Operator.FILTER_GRAD, SPEC, {"b": 4}, {"x": x, "g": x, "k": k})
    assert plan.scattered == {"f": ("b",)}
    assert plan.inner_partition("k") == [()] * 4
    assert plan.outer_partition("k", is_result=True) == [(), (), (), ("b",)]


def test_axes_with_fewer_entries_than_devices_are_not_partitioned():
    thin = SPEC.replace(input_spatial=(3, 8), batch=2)
    partitions = {"x": (None, "b", None, None), "k": (None,) * 4, "g": (None, "b", None, None)}
    plan = make_plan(Operator.CONV, thin, {"b": 4}, partitions)
    assert plan.mesh_axes == {"s1": ("b",)}


def test_the_rule_for_shardy():
    spec = SPEC.replace(groups=2)
    assert sharding_rule(Operator.CONV, spec) == ("n s0 s1 (j u), t0 t1 i (j v) -> n s0 s1 (j v)")
    assert sharding_rule(Operator.FILTER_GRAD, SPEC) == "n s0 s1 c, n s0 s1 f -> t0 t1 c f"
    separate = sharding_rule(Operator.INPUT_GRAD, spec, compound=False)
    assert separate == "n s0 s1 jg, t0 t1 i jk -> n s0 s1 jx"


# --- random geometries ----------------------------------------------------------------------------


@pytest.mark.sample(3)
@pytest.mark.parametrize("seed", range(12))
def test_random_geometries(seed):
    """Long and short shards, even and uneven, of the first axis, in one to three dimensions."""
    rng = np.random.default_rng(seed)
    case = build(lambda sequence: sequence[rng.integers(len(sequence))])
    first = int(rng.integers(1, 13)) * 4
    case = case.replace(input_spatial=(first, *case.input_spatial[1:]))
    if as_spec(case).empty:
        pytest.skip("the kernel does not fit")
    even = case.shape("g")[1] % 4 == 0
    specs = P(None, "b"), P(), P(None, "b") if even else P()
    program, placed, arrays = compiled(case, specs)
    assert_all_right(case, arrays, program(*placed))
