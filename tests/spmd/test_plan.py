"""What is cut where arrays are cut as a convolution cannot be, and what XLA is told of it."""

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
from jaxconv._src.spmd import partitioning
from jaxconv._src.spmd.plan import plan
from support.cases import build, operand
from support.family import as_spec, assert_all_right
from support.meshes import BATCH, HEIGHT, case_of, collectives, compiled, mesh_of, on_eight_devices

pytestmark = on_eight_devices

FEATURES = P(None, None, None, "b")
SPEC = ConvSpec(8, 4, 8, (16, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)


# --- extents that do not divide -------------------------------------------------------------------


def trained(conv, layers: int):
    """A network of equal layers: its loss and all of its gradients."""

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


@pytest.mark.parametrize(("layers", "shape", "kernel", "options"), UNEVEN.values(), ids=UNEVEN)
def test_activations_stay_cut_where_extents_do_not_divide(layers, shape, kernel, options):
    """Layer after layer over four devices: of 14, 12 and 10 rows, for one."""
    conv = functools.partial(jaxconv.conv, **options)
    arrays = [operand(shape, np.float64)]
    arrays += [operand(kernel, np.float64, seed) / 4 for seed in range(layers)]
    mesh = mesh_of((4, 2), ("b", "f"))
    specs = [P(None, "b"), *[P()] * layers]
    placed = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(arrays, specs, strict=True)]
    step = trained(conv, layers)
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
    """Nine of ten examples over four devices: the filter gradient sums those that there are."""
    x, k = operand((12, 5, 3), np.float64), operand((2, 3, 4), np.float64)
    mesh = mesh_of((4, 2), ("b", "f"))

    def loss(x, k):
        ours = jax.lax.with_sharding_constraint(x[:9] / x[:9, :1], NamedSharding(mesh, P("b")))
        return jnp.sum(jnp.sin(jaxconv.conv(ours, k)))

    step = jax.jit(jax.grad(loss, (0, 1)))
    placed = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in ((x, P("b")), (k, P()))]
    program = step.lower(*placed).compile()
    for got, wanted in zip(program(*placed), step(x, k), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)
    assert "all-gather" not in collectives(program)


# --- one mesh axis for several factors ------------------------------------------------------------


@pytest.mark.parametrize("kernel", [P(), P(None, None, "b"), FEATURES], ids=str)
@pytest.mark.parametrize(
    ("batch", "images"), [(None, 8), ("f", 8), (None, 1)], ids=["whole", "cut", "one image"]
)
def test_in_features_and_out_features_over_one_axis(kernel, batch, images):
    """Sums are reduced to where they belong, and activations sent on: none is gathered."""
    case = case_of("dense", batch=images, in_features=8, out_features=12)
    cut = P(batch, None, None, "b")
    program, placed, arrays = compiled(case, (cut, kernel, cut))
    assert_all_right(case, arrays, program(*placed))
    sent = collectives(program)
    assert "all-gather" not in sent
    assert "reduce-scatter" in sent


@pytest.mark.parametrize(
    ("x", "g"), [(BATCH, HEIGHT), (HEIGHT, BATCH), (FEATURES, BATCH), (BATCH, FEATURES)], ids=str
)
def test_activations_that_are_cut_differently(x, g):
    case = case_of("dense", in_features=8, out_features=12)
    program, placed, arrays = compiled(case, (x, P(), g))
    assert_all_right(case, arrays, program(*placed))
    assert "all-gather" not in collectives(program)


@pytest.mark.parametrize("kernel", [P(), FEATURES], ids=str)
def test_groups_that_are_cut_apart(kernel):
    """Six groups of four features over four devices: activations go to where examples are."""
    case = case_of("grouped", in_features=24, out_features=24, groups=6)
    program, placed, arrays = compiled(case, (FEATURES, kernel, FEATURES))
    results = program(*placed)
    assert_all_right(case, arrays, results)
    activations = [np.prod(case.shape("x")) // parts for parts in (1, 4)]
    assert not set(collectives(program).get("all-gather", ())) & set(activations)
    assert [result.sharding.spec for result in results[:2]] == [FEATURES, FEATURES]


def test_groups_that_are_cut_apart_into_others():
    """Results whose features are others than the operand's are whole; the values are right."""
    case = case_of("grouped", in_features=12, out_features=24, groups=6)
    program, placed, arrays = compiled(case, (FEATURES, P(), FEATURES))
    assert_all_right(case, arrays, program(*placed))


# --- the plan -------------------------------------------------------------------------------------


def test_a_mesh_axis_cuts_one_factor():
    partitions = {"x": ("b", None, None, None), "k": (None, None, None, "b"), "g": (None,) * 4}
    cut = plan(Operator.CONV, SPEC, {"b": 4}, partitions)
    assert cut.axes == {"n": ("b",)}
    assert cut.outside("k") == [()] * 4
    assert cut.summed(Operator.FILTER_GRAD) == ("b",)


def test_sums_are_scattered_where_the_result_is_cut():
    """Weights that are kept in parts: their gradient is reduced to the parts."""
    x, k = ("b", None, None, None), (None, None, None, "b")
    cut = plan(Operator.FILTER_GRAD, SPEC, {"b": 4}, {"x": x, "g": x, "k": k})
    assert cut.scattered == {"f": ("b",)}
    assert cut.inside("k") == [()] * 4
    assert cut.outside("k", result=True) == [(), (), (), ("b",)]


def test_axes_of_a_few_entries_are_not_cut():
    thin = SPEC.replace(input_spatial=(3, 8), batch=2)
    partitions = {"x": (None, "b", None, None), "k": (None,) * 4, "g": (None, "b", None, None)}
    cut = plan(Operator.CONV, thin, {"b": 4}, partitions)
    assert cut.axes == {"s1": ("b",)}


def test_the_rule_for_shardy():
    spec = SPEC.replace(groups=2)
    assert partitioning.rule(Operator.CONV, spec) == (
        "n s0 s1 (j u), t0 t1 i (j v) -> n s0 s1 (j v)"
    )
    assert partitioning.rule(Operator.FILTER_GRAD, SPEC) == "n s0 s1 c, n s0 s1 f -> t0 t1 c f"
    apart = partitioning.rule(Operator.INPUT_GRAD, spec, together=False)
    assert apart == "n s0 s1 jg, t0 t1 i jk -> n s0 s1 jx"


# --- whatever the geometry ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_random_geometries(seed):
    """Long shards and short ones, even and not, on the first axis, of one to three dimensions."""
    rng = np.random.default_rng(seed)
    case = build(lambda sequence: sequence[rng.integers(len(sequence))])
    first = int(rng.integers(1, 13)) * 4
    case = case.replace(input_spatial=(first, *case.input_spatial[1:]))
    if as_spec(case).empty:
        pytest.skip("the kernel does not fit")
    cut = P(None, "b") if case.shape("g")[1] % 4 == 0 else P()
    program, placed, arrays = compiled(case, (P(None, "b"), P(), cut))
    assert_all_right(case, arrays, program(*placed))
