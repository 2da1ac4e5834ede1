"""Eight devices: explicit and automatic sharding give the results of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv
from support import oracle
from support.cases import operand, operands
from support.meshes import CASES, by_case, mesh_of, on_eight_devices
from support.operators import assert_all_right, training

pytestmark = on_eight_devices
by_jit = pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit], ids=["eager", "jit"])


@by_case
@by_jit
def test_explicit_batch(case, wrap):
    """Types state the sharding of results; every device has the whole gradient of the kernel."""
    arrays = operands(case, np.float64)
    mesh = mesh_of((8,), ("b",), AxisType.Explicit)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(a, P(*s)) for a, s in zip(arrays, ("b", (), "b"), strict=True)]
        results = wrap(training(case))(*placed)
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
        y, dx, dk = jax.jit(training(case))(*placed)
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
        results = jax.jit(training(case))(*placed)
        assert tuple(jax.typeof(results[0]).sharding.spec) == tuple(specs[0])
    assert_all_right(case, arrays, results)


def test_explicit_pointwise_of_any_rank():
    """The axes after the first are folded; the first keeps its sharding."""
    x, kernel = operand((8, 2, 1, 3, 1, 6), np.float64), operand((6, 4), np.float64)
    with jax.set_mesh(mesh_of((8,), ("b",), AxisType.Explicit)):
        y = jax.jit(jaxconv.pointwise_conv)(jax.device_put(x, P("b")), kernel)
        assert jax.typeof(y).sharding.spec[0] == "b"
    np.testing.assert_allclose(y, x @ kernel, atol=1e-12)


def test_ambiguous_explicit_sharding_is_an_error():
    """The channels that are summed over are sharded: the error asks to reshard."""
    case = CASES["dense"].replace(in_features=8)
    x, k = operands(case, np.float64, "xk")
    with jax.set_mesh(mesh_of((8,), ("b",), AxisType.Explicit)):
        x = jax.device_put(x, P(None, None, "b"))
        with pytest.raises(ValueError, match=r"summed over is sharded.*reshard the operands"):
            jaxconv.conv(x, k, **case.options())


def test_explicit_second_order():
    """A Hessian-vector product in a kernel that is not sharded."""
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


def test_explicit_per_example_gradients():
    """The sharded batch becomes an axis of examples of a filter gradient."""
    case = CASES["dense"]
    x, k, g = operands(case, np.float64)
    one = case.replace(batch=1)
    with jax.set_mesh(mesh_of((8,), ("b",), AxisType.Explicit)):
        placed = [jax.device_put(array, P("b")) for array in (x[:, None], g[:, None])]
        per_example = jax.vmap(lambda x, g: training(one)(x, k, g)[2])
        dk = jax.jit(per_example)(*placed)
        assert jax.typeof(dk).sharding.spec[0] == "b"
        dk = np.asarray(dk)
    for n in (0, 7):
        oracle.assert_right(dk[n], "k", one, x=x[n : n + 1], g=g[n : n + 1])


@pytest.mark.parametrize("spec", [("b", None), (None, "f"), ("b", "f")], ids=str)
@by_case
def test_automatic_sharding(case, spec):
    """The results do not depend on the compiler's decisions."""
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
    assert_all_right(case, arrays, jax.jit(training(case))(*placed))
