"""An axis of examples, each with its own x, kernel and g, as per-example gradients have."""

import functools
import re

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv
from jaxconv._src.geometry.spec import Operator
from jaxconv._src.kernels.cpu import native
from jaxconv._src.primitives import batching, rules
from support.cases import operand
from support.marks import needs_engine
from support.meshes import collectives, mesh_of, on_eight_devices
from support.oracle import Case

CASE = Case(2, 4, 6, (5, 4), (3, 2), (2, 1), ((1, 0), (1, 1)), (1, 1), 2)
OPERATORS = {"conv": "xk", "input_grad": "gk", "filter_grad": "xg"}
by_operator = pytest.mark.parametrize("operator", OPERATORS)


def integers(shape, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def operator_of(name: str, case: Case = CASE):
    options = case.options()
    return {
        "conv": functools.partial(jaxconv.conv, **options),
        "input_grad": lambda g, k: jaxconv.conv_input_grad(g, k, case.input_spatial, **options),
        "filter_grad": lambda x, g: jaxconv.conv_filter_grad(x, g, case.kernel_spatial, **options),
    }[name]


def examples_of(name: str, count: int, case: Case = CASE) -> list[np.ndarray]:
    return [integers((count, *case.shape(role)), ord(role)) for role in OPERATORS[name]]


@pytest.mark.parametrize("implementation", ["native", "lax", "dots"])
@pytest.mark.parametrize("count", [1, 3, 70])  # 70 are computed side by side
@by_operator
def test_each_example_is_computed_exactly_as_alone(operator, count, implementation):
    if implementation == "native" and native.library.unavailable_reason() is not None:
        pytest.skip("needs the CPU engine")
    call, arrays = operator_of(operator), examples_of(operator, count)
    with jaxconv.use_implementation(implementation):
        together = jax.jit(jax.vmap(call))(*arrays)
    with jaxconv.use_implementation("lax"):
        one_by_one = [call(*each) for each in zip(*arrays, strict=True)]
    np.testing.assert_array_equal(together, np.stack(one_by_one))


@needs_engine
@pytest.mark.parametrize("count", [2, 37])
@by_operator
def test_the_engine_gives_the_same_bits_for_any_number_of_threads(operator, count):
    case = CASE.replace(input_spatial=(19, 17))
    arrays = [
        operand((count, *case.shape(role)), np.float32, ord(role)) for role in OPERATORS[operator]
    ]
    call = operator_of(operator, case)
    alone = np.stack([call(*each) for each in zip(*arrays, strict=True)])
    together = jax.jit(jax.vmap(call))
    try:
        for threads in (1, 2, 5):
            native.inject_threads(threads)
            np.testing.assert_array_equal(together(*arrays), alone)
    finally:
        native.inject_threads(0)


@by_operator
def test_examples_as_groups_compute_the_same(operator):
    """What GPUs and TPUs compute instead."""
    name = Operator(operator)
    arrays = examples_of(operator, 5)
    (conv,) = jaxconv.explain(jax.vmap(operator_of(operator)), *arrays).convs
    spec = conv.spec
    assert (spec.examples, spec.groups) == (5, CASE.groups)
    run = functools.partial(rules.bind, name, spec=spec.examples_as_groups, dtype=np.float32)
    got = batching.examples_as_groups(run, spec)(*arrays)
    np.testing.assert_array_equal(got, jax.vmap(operator_of(operator))(*arrays))


@pytest.mark.parametrize(("platform", "groups"), [("cuda", 10), ("tpu", 10), ("cpu", 2)])
def test_explain_counts_groups_as_the_platform_computes_them(platform, groups):
    call, arrays = jax.vmap(operator_of("conv")), examples_of("conv", 5)
    (conv,) = jaxconv.explain(call, *arrays, platforms=platform).convs
    assert (
        conv.equation.macs
        == 5
        * jaxconv.explain(operator_of("conv"), *(array[0] for array in arrays))
        .convs[0]
        .equation.macs
    )
    if platform != "cpu":
        lowered = jax.jit(call).trace(*arrays).lower(lowering_platforms=(platform,))
        assert f"feature_group_count = {groups} " in lowered.as_text()


@needs_engine
def test_many_examples_stay_on_the_engine():
    """As groups of one convolution, 600 examples would have more channels than it supports."""
    x, g = (np.zeros((600, 1, 2, 2, 128), np.float32) for _ in "xg")

    def per_example(x, g):
        return jaxconv.conv_filter_grad(x, g, (3, 3))

    (conv,) = jaxconv.explain(jax.vmap(per_example), x, g).convs
    assert conv.implementation == "native"
    compiled = jax.jit(jax.vmap(per_example)).lower(x, g).compile().as_text()
    assert re.findall(r'custom_call_target="(\w+)"', compiled) == ["jaxconv_filter_grad"]


@pytest.mark.usefixtures("x64")
def test_derivatives_of_mapped_operators():
    """Second order, both modes, over examples of examples."""
    x, k = (operand((2, 3, *CASE.shape(role)), np.float64, ord(role)) for role in "xk")
    call = jax.vmap(jax.vmap(operator_of("conv")))

    def loss(x, k):
        return jax.numpy.sum(call(x, k) ** 3)

    def of_one(x, k):
        return jax.numpy.sum(operator_of("conv")(x, k) ** 3)

    def curvature(loss, x, k):
        return jax.jvp(jax.grad(loss, (0, 1)), (x, k), (x, k))[1]

    got = jax.jit(functools.partial(curvature, loss))(x, k)
    for i, j in [(0, 0), (1, 2)]:
        for whole, one in zip(got, curvature(of_one, x[i, j], k[i, j]), strict=True):
            np.testing.assert_allclose(whole[i, j], one, rtol=1e-12)


def test_receptive_field_of_mapped_kernels():
    """Axes count from the end: that of examples comes before the batch."""
    k = np.ones((5, 3, 1, 1), np.float32)

    def apply(x):  # [1, L, 5], one kernel for each of five channels
        moved = jax.numpy.moveaxis(x, -1, 0)[..., None]
        y = jax.vmap(lambda x, k: jaxconv.conv(x, k, padding="VALID"))(moved, k)
        return jax.numpy.moveaxis(y[..., 0], 0, -1)

    assert jaxconv.receptive_field(apply, np.ones((1, 16, 5), np.float32)).size == (3,)


class TestOnEightDevices:
    pytestmark = on_eight_devices

    @by_operator
    @pytest.mark.parametrize("count", [8, 12])
    def test_sharded_examples_need_no_communication(self, operator, count):
        call, arrays = operator_of(operator), examples_of(operator, count)
        sharding = NamedSharding(mesh_of((4, 2), ("b", "f")), P("b"))
        placed = [jax.device_put(array, sharding) for array in arrays]
        program = jax.jit(jax.vmap(call)).lower(*placed).compile()
        assert collectives(program) == {}
        result = program(*placed)
        assert result.sharding.spec == P("b")
        np.testing.assert_array_equal(result, jax.vmap(call)(*arrays))

    @by_operator
    def test_examples_and_batch_sharded_together(self, operator):
        case = CASE.replace(input_spatial=(8, 4), padding=((1, 1), (1, 1)), strides=(1, 1))
        call, arrays = operator_of(operator, case), examples_of(operator, 4, case)
        mesh = mesh_of((4, 2), ("b", "f"))
        specs = {"x": P("b", "f"), "k": P("b"), "g": P("b", "f")}
        placed = [
            jax.device_put(array, NamedSharding(mesh, specs[role]))
            for array, role in zip(arrays, OPERATORS[operator], strict=True)
        ]
        np.testing.assert_array_equal(jax.jit(jax.vmap(call))(*placed), jax.vmap(call)(*arrays))
