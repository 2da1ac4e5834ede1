"""Under ``shard_map`` over eight devices, the primitives compute what they do on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxconv
from support import oracle
from support.cases import operand, operands
from support.meshes import CASES, by_case, mesh_of, on_eight_devices
from support.operators import assert_all_right, training

pytestmark = on_eight_devices


@by_case
def test_batch_over_eight_devices(case):
    """The gradient of a replicated kernel is summed over the devices once, not eight times."""
    arrays = operands(case, np.float64)
    mapped = jax.shard_map(
        training(case),
        mesh=mesh_of((8,), ("b",)),
        in_specs=(P("b"), P(), P("b")),
        out_specs=(P("b"), P("b"), P()),
        check_vma=True,
    )
    assert_all_right(case, arrays, jax.jit(mapped)(*arrays))


@by_case
def test_gradients_from_outside_shard_map(case):
    x, k, g = operands(case, np.float64)
    conv = jax.shard_map(
        functools.partial(jaxconv.conv, **case.options()),
        mesh=mesh_of((8,), ("b",)),
        in_specs=(P("b"), P()),
        out_specs=P("b"),
        check_vma=True,
    )

    @jax.jit
    def both(x, k, g):
        y, pull = jax.vjp(conv, x, k)
        return y, *pull(g)

    assert_all_right(case, (x, k, g), both(x, k, g))


def test_loss_with_psum_inside():
    """The usual training step: a local loss, ``psum``, the gradient inside the mapped function."""
    case = CASES["dense"]
    x, k, g = operands(case, np.float64)

    def loss(k, x, g):
        y = jaxconv.conv(x, k, **case.options())
        return jax.lax.psum(jnp.sum(y * g), "b")

    mapped = jax.shard_map(
        jax.value_and_grad(loss),
        mesh=mesh_of((8,), ("b",)),
        in_specs=(P(), P("b"), P("b")),
        out_specs=(P(), P()),
        check_vma=True,
    )
    value, dk = jax.jit(mapped)(k, x, g)
    oracle.assert_right(dk, "k", case, x=x, g=g)
    np.testing.assert_allclose(value, np.vdot(oracle.compute("g", case, x=x, k=k), g), rtol=1e-11)


def test_batch_and_features_over_two_axes():
    """Out-features of a dense kernel over one axis, the batch over the other."""
    case = CASES["dense"]
    arrays = operands(case, np.float64)
    mapped = jax.shard_map(
        training(case),
        mesh=mesh_of((4, 2), ("b", "f")),
        in_specs=(P("b"), P(None, None, "f"), P("b", None, "f")),
        out_specs=(P("b", None, "f"), P("b"), P(None, None, "f")),
        check_vma=True,
    )
    assert_all_right(case, arrays, jax.jit(mapped)(*arrays))


def test_depthwise_features_over_an_axis():
    case = CASES["depthwise"]
    arrays = operands(case, np.float64)
    local = case.replace(groups=3)
    mapped = jax.shard_map(
        training(local),
        mesh=mesh_of((4, 2), ("b", "f")),
        in_specs=(P("b", None, "f"), P(None, None, "f"), P("b", None, "f")),
        out_specs=(P("b", None, "f"), P("b", None, "f"), P(None, None, "f")),
        check_vma=True,
    )
    assert_all_right(case, arrays, jax.jit(mapped)(*arrays))


def varying(x) -> frozenset:
    return jax.typeof(x).manual_axis_type.varying


@pytest.mark.parametrize("k_varies", [False, True])
@pytest.mark.parametrize("x_varies", [False, True])
def test_varying_types(x_varies, k_varies):
    """A result varies over the mesh axes of its operands, and a cotangent over exactly those of its
    operand: over other axes it is summed."""
    case = CASES["dense"].replace(batch=1)
    varies = dict(zip("xkg", (x_varies, k_varies, x_varies or k_varies), strict=True))
    arrays = {
        role: operand((8 if varies[role] else 1, *case.shape(role)), np.float64) for role in "xkg"
    }
    specs = {role: P("b") if varies[role] else P() for role in "xkg"}

    def local(*arrays):
        x, k, g = (array[0] for array in arrays)
        y, dx, dk = training(case)(x, k, g)
        assert [varying(a) for a in (dx, dk, y)] == [varying(a) for a in (x, k, g)]
        return tuple(result[None] for result in (y, dx, dk))

    mapped = jax.shard_map(
        local,
        mesh=mesh_of((8,), ("b",)),
        in_specs=tuple(specs.values()),
        out_specs=tuple(specs[role] for role in "gxk"),
        check_vma=True,
    )
    results = jax.jit(mapped)(*arrays.values())
    for got, role in zip(results, "gxk", strict=True):
        others = {name: array for name, array in arrays.items() if name != role}
        each = [
            oracle.compute(role, case, **{n: a[i % len(a)] for n, a in others.items()})
            for i in range(8)
        ]
        summed = [np.sum(each, axis=0)] if varies["g"] else each[:1]
        np.testing.assert_allclose(got, each if varies[role] else summed, rtol=1e-11, atol=1e-11)


def test_second_order_inside_shard_map():
    """A Hessian-vector product in a replicated kernel."""
    case = CASES["grouped"]
    x, k = operands(case, np.float64, "xk")
    w = operands(case, np.float64, "k")[0][::-1]

    def product(k, w, x):
        def loss(k):
            return jax.lax.psum(jnp.sum(jaxconv.conv(x, k, **case.options()) ** 2) / 2, "b")

        return jax.jvp(jax.grad(loss), (k,), (w,))[1]

    mapped = jax.shard_map(
        product,
        mesh=mesh_of((8,), ("b",)),
        in_specs=(P(), P(), P("b")),
        out_specs=P(),
        check_vma=True,
    )
    along = oracle.compute("g", case, x=x, k=w)
    oracle.assert_right(jax.jit(mapped)(k, w, x), "k", case, x=x, g=along)


def test_vmap_inside_shard_map():
    """Per-example gradients of each device's examples."""
    case = CASES["dense"]
    x, k, g = operands(case, np.float64)

    def per_example(x, k, g):
        k = jax.lax.pcast(k, "b", to="varying")  # otherwise the examples of all devices are summed
        return jax.vmap(lambda x, g: training(case)(x[None], k, g[None])[2])(x, g)

    mapped = jax.shard_map(
        per_example,
        mesh=mesh_of((4,), ("b",)),
        in_specs=(P("b"), P(), P("b")),
        out_specs=P("b"),
        check_vma=True,
    )
    dk = jax.jit(mapped)(x, k, g)
    one = case.replace(batch=1)
    for n in (0, 7):
        oracle.assert_right(dk[n], "k", one, x=x[n : n + 1], g=g[n : n + 1])
