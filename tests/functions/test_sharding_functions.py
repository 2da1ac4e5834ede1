"""``jaxconv.sharding``: convolutions over sharded axes, inside ``shard_map``."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxconv
from jaxconv import sharding
from support import oracle
from support.cases import operand, operands
from support.meshes import collectives, mesh_of, on_eight_devices
from support.operators import assert_all_right, gradients
from support.oracle import Case

pytestmark = on_eight_devices


def mapped(fn, specs, out, shape=(4, 2), names=("h", "w")):
    return jax.shard_map(
        fn, mesh=mesh_of(shape, names), in_specs=specs, out_specs=out, check_vma=True
    )


def exchange(x, *, shards=4, **options):
    """Each device's shard of ``x`` with its halo, stacked."""
    extend = functools.partial(sharding.halo_exchange, axis=0, axis_name="h", **options)
    return mapped(extend, P("h"), P("h"), (shards,), ("h",))(x).reshape(shards, -1, *x.shape[1:])


def padded(x, low, high, shards=4, circular=False):
    """The same, in NumPy."""
    n = len(x) // shards
    wide = np.pad(x, [(low, high), (0, 0)], mode="wrap" if circular else "constant")
    return np.stack([wide[p * n : (p + 1) * n + low + high] for p in range(shards)])


@pytest.mark.sample(5)
@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0, 0), (1, 0), (0, 2), (3, 3), (4, 7), (12, 9)])
def test_halo_exchange(low, high, circular):
    """Also halos wider than a shard, which has 3 entries, and as wide as the whole axis."""
    x = operand((12, 2), np.float64)
    got = exchange(x, low=low, high=high, circular=circular)
    np.testing.assert_array_equal(got, padded(x, low, high, circular=circular))


def test_halo_exchange_on_one_device():
    x = operand((3, 2), np.float64)
    np.testing.assert_array_equal(exchange(x, shards=1, low=1, high=2), padded(x, 1, 2, 1))


def test_only_the_halo_is_sent():
    x = operand((16, 2), np.float64)
    program = jax.jit(functools.partial(exchange, low=1, high=6)).lower(x).compile()
    assert collectives(program) == {
        "collective-permute": [2, 4, 8]
    }  # 1 row before; 4 and 2 rows after


@pytest.mark.slow
def test_halo_exchange_is_differentiated_to_any_order():
    x, v = operand((12, 2), np.float64), operand((12, 2), np.float64, 1)

    def energy(x):
        return jnp.sum(exchange(x, low=4, high=2, circular=True) ** 3)

    def whole(x):
        parts = [jnp.roll(x, 4 - 3 * p, 0)[:9] for p in range(4)]
        return jnp.sum(jnp.stack(parts) ** 3)

    def product(energy, x, v):
        return jax.jvp(jax.grad(energy), (x,), (v,))

    expected, got = product(whole, x, v), jax.jit(functools.partial(product, energy))(x, v)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


ROWS, GRID = ("h", None), ("h", "w")
CASES = {
    "same": (Case(2, 3, 4, (8, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)), ROWS),
    "grid": (Case(2, 4, 4, (8, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4), GRID),
    "strided": (Case(2, 4, 6, (16, 7), (3, 2), (2, 1), ((0, 1), (2, 0)), (1, 1), 2), ROWS),
    "dilated": (Case(1, 2, 2, (16, 5), (4, 1), (1, 2), ((2, 7), (0, 0)), (3, 1), 2), ROWS),
    "wider than a shard": (Case(1, 2, 3, (8, 4), (8, 1), (1, 1), ((5, 2), (0, 0)), (1, 1)), ROWS),
    "shards drift apart": (Case(1, 2, 3, (16, 4), (5, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)), ROWS),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize(("case", "names"), CASES.values(), ids=CASES)
def test_spatial_convolution(case, names):
    """The value and both gradients; the kernel's gradient is summed over the devices once."""
    x, k, g = operands(case, np.float64)
    sharded = functools.partial(sharding.conv, axis_names=names, **case.options())
    spec = P(None, *names)
    fn = jax.jit(functools.partial(gradients, mapped(sharded, (spec, P()), spec)))
    assert_all_right(case, (x, k, g), fn(x, k, g))
    assert set(collectives(fn.lower(x, k, g).compile())) <= {"collective-permute", "all-reduce"}


@pytest.mark.sample(6)
@pytest.mark.parametrize("padding", ["CIRCULAR", ("CIRCULAR", "REFLECT"), "SAME_LOWER"], ids=str)
@pytest.mark.parametrize("strides", [1, 2])
def test_borders(padding, strides):
    x, k = operand((2, 16, 5, 3), np.float64), operand((5, 3, 3, 4), np.float64)
    options = {"padding": padding, "strides": (strides, 1), "dilation": (2, 1)}
    rows = P(None, "h")
    sharded = mapped(
        functools.partial(sharding.conv, axis_names=ROWS, **options), (rows, P()), rows
    )
    whole = functools.partial(jaxconv.conv, **options)
    g = np.cos(np.asarray(whole(x, k)))
    step = jax.jit(functools.partial(gradients, sharded))
    for got, expected in zip(step(x, k, g), gradients(whole, x, k, g), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dilation", [1, 3, 8])
def test_causal_convolution_over_time(dilation):
    """The value and gradients; only entries before a shard are sent, once in each direction."""
    x, k, g = (operand(s, np.float64) for s in ((2, 16, 3), (4, 1, 3), (2, 16, 3)))
    options = {"dilation": dilation, "groups": 3}
    time = P(None, "h")
    sharded = mapped(
        functools.partial(sharding.causal_conv, axis_name="h", **options), (time, P()), time
    )
    whole = functools.partial(jaxconv.causal_conv, **options)
    step = jax.jit(functools.partial(gradients, sharded))
    for got, expected in zip(step(x, k, g), gradients(whole, x, k, g), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)
    sent = collectives(step.lower(x, k, g).compile())
    assert set(sent) == {"collective-permute", "all-reduce"}
    assert sent["all-reduce"] == [k.size]
    halo = min(3 * dilation, 3 * 4)  # at most the three shards before
    assert sum(sent["collective-permute"]) == 2 * 2 * 3 * halo


def test_causal_convolution_with_a_bias():
    x, k, bias = (operand(s, np.float64) for s in ((2, 16, 3), (4, 3, 5), (5,)))
    time = P(None, "h")
    sharded = mapped(functools.partial(sharding.causal_conv, axis_name="h"), (time, P(), P()), time)
    sharded = jax.jit(sharded)
    np.testing.assert_allclose(sharded(x, k, bias), jaxconv.causal_conv(x, k, bias), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR"])
def test_two_shards_exchange_by_one_permute(padding):
    """Values, gradients and Hessian-vector products are right."""
    x, k, v = (operand(s, np.float64) for s in ((2, 8, 4, 3), (5, 3, 3, 4), (5, 3, 3, 4)))
    specs, whole = (P(None, "h"), P()), functools.partial(jaxconv.conv, padding=padding)
    sharded = functools.partial(sharding.conv, axis_names=ROWS, padding=padding)
    sharded = mapped(sharded, specs, P(None, "h"), (2,), ("h",))
    g = np.cos(np.asarray(whole(x, k)))
    step = jax.jit(functools.partial(gradients, sharded))
    for got, expected in zip(step(x, k, g), gradients(whole, x, k, g), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)

    def product(conv, x, k, v):
        return jax.jvp(jax.grad(lambda k: jnp.sum(jnp.sin(conv(x, k)))), (k,), (v,))[1]

    expected = product(whole, x, k, v)
    got = jax.jit(functools.partial(product, sharded))(x, k, v)
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)
    row, sides = x.size // 8, {"SAME": 1, "CIRCULAR": 2}[padding]
    sent = collectives(jax.jit(sharded).lower(x, k).compile())
    assert sent == {"collective-permute": [2 * row * sides]}


@pytest.mark.slow
def test_one_example_and_second_order():
    """A Hessian-vector product in a replicated kernel, for one image without a batch axis."""
    x, k = operand((8, 5, 3), np.float64), operand((3, 3, 3, 2), np.float64)
    sharded = mapped(functools.partial(sharding.conv, axis_names=ROWS), (P("h"), P()), P("h"))

    def product(conv, x, k):
        return jax.jvp(jax.grad(lambda k: jnp.sum(jnp.sin(conv(x, k)))), (k,), (k[::-1],))[1]

    expected, got = product(jaxconv.conv, x, k), jax.jit(functools.partial(product, sharded))(x, k)
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


def error_of(fn, x):
    with pytest.raises(ValueError, match="Got x") as raised:
        mapped(fn, P("h"), P("h"))(x)
    return str(raised.value)


def test_errors_of_the_exchange():
    x = np.ones((8, 2))
    exchange = functools.partial(functools.partial, sharding.halo_exchange, axis=0)
    assert "no mesh axis 'depth' here" in error_of(exchange(axis_name="depth", low=1), x)
    wide = error_of(exchange(axis_name="h", high=9), x)
    assert "entries on mesh axis 'h', 4 shards * 2 = 8, but got 9" in wide
    assert "low must be an int of at least 0" in error_of(exchange(axis_name="h", low=-1), x)
    error = error_of(functools.partial(sharding.halo_exchange, axis=2, axis_name="h"), x)
    assert "axis must be an int from -2 to 1, one of x's 2 axes, but got 2" in error


def test_errors_of_the_convolution():
    x, k = np.ones((2, 8, 4, 3)), np.ones((3, 3, 3, 2))

    def error(**options):
        fn = functools.partial(sharding.conv, **({"axis_names": ROWS} | options))
        with pytest.raises(ValueError, match=r"^sharding\.conv: ") as raised:
            mapped(fn, (P(None, "h"), P()), P(None, "h"))(x, k)
        return str(raised.value)

    uneven = error(padding="VALID")
    assert "must divide the output extent of spatial axis 0" in uneven
    assert "there are 6 outputs for 4 devices" in uneven
    assert 'for example to "SAME"' in uneven
    assert "no mesh axis 'depth' here" in error(axis_names=("depth", None))
    assert "one entry per spatial axis (2)" in error(axis_names="h")
    assert "or None; but got (3, None)" in error(axis_names=(3, None))
    assert "each mesh axis at most once, but got ('h', 'h')" in error(axis_names=("h", "h"))
    assert "9 pixels and the input has 8" in error(padding="VALID", dilation=4)
    assert 'padding "REFLECT" and "REPLICATE" are not supported' in error(padding="REFLECT")
    assert "needs 16 pixels, but an extent of 8" in error(padding="CIRCULAR", dilation=16)


def test_other_types_are_rejected():
    with pytest.raises(TypeError, match="halo_exchange: x must be an array"):
        sharding.halo_exchange([1.0], 0, "h")
    with pytest.raises(TypeError, match=r"sharding\.causal_conv: x must be an array"):
        sharding.causal_conv([1.0], np.ones((2, 1, 1)), axis_name="h")


def test_an_empty_axis_stays_empty():
    x, k = np.ones((2, 0, 4, 3)), np.ones((3, 3, 3, 2))
    sharded = functools.partial(sharding.conv, axis_names=ROWS)
    assert mapped(sharded, (P(None, "h"), P()), P(None, "h"))(x, k).shape == (2, 0, 4, 2)


@pytest.mark.parametrize("axes", [GRID, GRID[::-1]])
def test_an_axis_over_two_mesh_axes(axes):
    """In the order of the mesh, and in another order."""
    case, _ = CASES["same"]
    x, k = operands(case, np.float64, "xk")
    sharded = functools.partial(sharding.conv, axis_names=(axes, None), **case.options())
    spec = P(None, axes)
    oracle.assert_right(mapped(sharded, (spec, P()), spec)(x, k), "g", case, x=x, k=k)


def test_outside_shard_map():
    with pytest.raises(
        ValueError, match=r"no mesh axis 'h' here; call the function inside jax\.shard_map"
    ):
        sharding.causal_conv(np.ones((1, 4, 1)), np.ones((2, 1, 1)), axis_name="h")


@pytest.mark.slow
def test_values_follow_the_oracle():
    """A comparison with the oracle's loops, not only with ``jaxconv.conv``."""
    case, names = CASES["grid"]
    x, k = operands(case, np.float64, "xk")
    sharded = functools.partial(sharding.conv, axis_names=names, **case.options())
    spec = P(None, *names)
    oracle.assert_right(mapped(sharded, (spec, P()), spec)(x, k), "g", case, x=x, k=k)
