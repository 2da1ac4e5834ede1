"""Eight devices: ``shard_map``, explicit and automatic sharding compute what one device does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import operand, operands
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracle import Case

import jaxconv

pytestmark = [
    pytest.mark.usefixtures("x64"),
    pytest.mark.skipif(jax.device_count() < 8, reason="needs eight (host) devices"),
]

CASES = {
    "dense": Case(8, 3, 4, (6,), (3,), (1,), ((1, 1),), (1,)),
    "grouped": Case(8, 6, 4, (5, 4), (3, 2), (2, 1), ((1, 2), (0, 1)), (1, 2), 2),
    "depthwise": Case(8, 6, 12, (6,), (3,), (1,), ((2, 0),), (1,), 6),
}
by_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
by_jit = pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit], ids=["eager", "jit"])


def mesh_of(shape, names, kind=AxisType.Auto):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


def gradients(case: Case, x, k, g):
    """The convolution and both of its gradients."""
    y, pull = jax.vjp(functools.partial(jaxconv.conv, **case.options()), x, k)
    return y, *pull(g)


def assert_all_right(case, arrays, results):
    x, k, g = arrays
    y, dx, dk = results
    oracle.assert_right(y, "g", case, x=x, k=k)
    oracle.assert_right(dx, "x", case, k=k, g=g)
    oracle.assert_right(dk, "k", case, x=x, g=g)


# --- shard_map ------------------------------------------------------------------------------------


@by_case
def test_batch_over_eight_devices(case):
    """A kernel that all devices share: its gradient is summed over them once, not eight times."""
    arrays = operands(case, np.float64)
    mapped = jax.shard_map(
        functools.partial(gradients, case),
        mesh=mesh_of((8,), ("b",)),
        in_specs=(P("b"), P(), P("b")),
        out_specs=(P("b"), P("b"), P()),
        check_vma=True,
    )
    assert_all_right(case, arrays, jax.jit(mapped)(*arrays))


@by_case
def test_gradients_from_outside_of_shard_map(case):
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
    """Training as one writes it: local loss, ``psum``, gradient within the mapped function."""
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
        functools.partial(gradients, case),
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
        functools.partial(gradients, local),
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
    """A result varies where an operand does; a cotangent exactly where its operand does, and
    otherwise it is the sum over the devices."""
    case = CASES["dense"].replace(batch=1)
    varies = dict(zip("xkg", (x_varies, k_varies, x_varies or k_varies), strict=True))
    arrays = {
        role: operand((8 if varies[role] else 1, *case.shape(role)), np.float64) for role in "xkg"
    }
    specs = {role: P("b") if varies[role] else P() for role in "xkg"}

    def local(*arrays):
        x, k, g = (array[0] for array in arrays)
        y, dx, dk = gradients(case, x, k, g)
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
    """A Hessian-vector product in the shared kernel."""
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
    """Per-example gradients of each device's share."""
    case = CASES["dense"]
    x, k, g = operands(case, np.float64)

    def per_example(x, k, g):
        k = jax.lax.pcast(k, "b", to="varying")  # or the examples of all devices are summed
        return jax.vmap(lambda x, g: gradients(case, x[None], k, g[None])[2])(x, g)

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


# --- explicit and automatic sharding --------------------------------------------------------------


@by_case
@by_jit
def test_explicit_batch(case, wrap):
    """Types say where the results live; a kernel's gradient is whole on every device."""
    arrays = operands(case, np.float64)
    mesh = mesh_of((8,), ("b",), AxisType.Explicit)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(a, P(*s)) for a, s in zip(arrays, ("b", (), "b"), strict=True)]
        results = wrap(functools.partial(gradients, case))(*placed)
        specs = [jax.typeof(result).sharding.spec for result in results]
    assert [spec[0] if len(spec) else None for spec in specs] == ["b", "b", None]
    assert not any(any(spec[1:]) for spec in specs)
    assert_all_right(case, arrays, results)


def test_explicit_features():
    case = CASES["dense"]
    arrays = operands(case, np.float64)
    specs = (P("b"), P(None, None, "f"), P("b", None, "f"))
    with jax.set_mesh(mesh_of((4, 2), ("b", "f"), AxisType.Explicit)):
        placed = [jax.device_put(array, spec) for array, spec in zip(arrays, specs, strict=True)]
        y, dx, dk = jax.jit(functools.partial(gradients, case))(*placed)
        got = [jax.typeof(result).sharding.spec for result in (y, dx, dk)]
    wanted = (specs[2], P("b", None, None), specs[1])
    assert [tuple(spec) for spec in got] == [(*spec, *(None,) * (3 - len(spec))) for spec in wanted]
    assert_all_right(case, arrays, (y, dx, dk))


def test_explicit_depthwise_features():
    case = CASES["depthwise"].replace(out_features=6)
    arrays = operands(case, np.float64)
    with jax.set_mesh(mesh_of((4, 2), ("b", "f"), AxisType.Explicit)):
        specs = (P("b", None, "f"), P(None, None, "f"), P("b", None, "f"))
        placed = [jax.device_put(array, spec) for array, spec in zip(arrays, specs, strict=True)]
        results = jax.jit(functools.partial(gradients, case))(*placed)
        assert tuple(jax.typeof(results[0]).sharding.spec) == tuple(specs[0])
    assert_all_right(case, arrays, results)


def test_explicit_ambiguity_is_refused():
    """In-features that are summed over are sharded: the library asks for a reshard."""
    case = CASES["dense"].replace(in_features=8)
    x, k = operands(case, np.float64, "xk")
    with jax.set_mesh(mesh_of((8,), ("b",), AxisType.Explicit)):
        x = jax.device_put(x, P(None, None, "b"))
        with pytest.raises(ValueError, match=r"summed over is sharded.*reshard the operands"):
            jaxconv.conv(x, k, **case.options())


def test_explicit_second_order():
    """A Hessian-vector product in the kernel, which every device holds."""
    case = CASES["dense"]
    x, k = operands(case, np.float64, "xk")
    with jax.set_mesh(mesh_of((8,), ("b",), AxisType.Explicit)):
        placed = jax.device_put(x, P("b"))

        def loss(k):
            return jnp.sum(jaxconv.conv(placed, k, **case.options()) ** 2) / 2

        product = jax.jit(lambda k: jax.jvp(jax.grad(loss), (k,), (k,))[1])(k)
    y = oracle.compute("g", case, x=x, k=k)
    oracle.assert_right(product, "k", case, x=x, g=y)


def test_explicit_vmap():
    """A mapped axis that is sharded folds into the batch and stays sharded."""
    case = CASES["dense"]
    x, k = operands(case, np.float64, "xk")
    with jax.set_mesh(mesh_of((8,), ("b",), AxisType.Explicit)):
        placed = jax.device_put(x[:, None], P("b"))
        y = jax.jit(jax.vmap(lambda x: jaxconv.conv(x, k, **case.options())))(placed)
        assert jax.typeof(y).sharding.spec[0] == "b"
    oracle.assert_right(np.asarray(y)[:, 0], "g", case, x=x, k=k)


@pytest.mark.xfail(
    jax.__version_info__ < (0, 11),
    reason="jax 0.10 has no type for the reshape that folds a sharded axis; lax's own fail too",
)
def test_explicit_per_example_gradients():
    """A mapped axis that folds into the features of a filter gradient."""
    case = CASES["dense"]
    x, k, g = operands(case, np.float64)
    one = case.replace(batch=1)
    with jax.set_mesh(mesh_of((8,), ("b",), AxisType.Explicit)):
        placed = [jax.device_put(array, P("b")) for array in (x[:, None], g[:, None])]
        per_example = jax.vmap(lambda x, g: gradients(one, x, k, g)[2])
        dk = np.asarray(jax.jit(per_example)(*placed))
    for n in (0, 7):
        oracle.assert_right(dk[n], "k", one, x=x[n : n + 1], g=g[n : n + 1])


@pytest.mark.parametrize("spec", [("b", None), (None, "f"), ("b", "f")], ids=str)
@by_case
def test_automatic_sharding(case, spec):
    """The compiler decides; whatever it decides, the numbers are the same."""
    arrays = operands(case, np.float64)
    mesh = mesh_of((4, 2), ("b", "f"))
    batch, features = spec
    inner = features if case.in_features % 2 == 0 else None
    middle = (None,) * case.rank
    specs = (P(batch, *middle, inner), P(*middle, None, features), P(batch, *middle, features))
    placed = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(arrays, specs, strict=True)
    ]
    assert_all_right(case, arrays, jax.jit(functools.partial(gradients, case))(*placed))
