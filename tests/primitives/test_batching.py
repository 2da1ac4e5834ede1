"""``vmap`` of each operator over every combination of operands, and over any axis."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
from support import oracle
from support.cases import operand
from support.operators import assert_uses_primitives
from support.oracle import Case

pytestmark = pytest.mark.usefixtures("x64")

SIZE = 5  # of the mapped axis: no other extent is five
CASES = {
    "dense": Case(2, 2, 3, (7,), (3,), (2,), ((1, 2),), (1,)),
    "grouped": Case(1, 4, 6, (4, 3), (2, 3), (1, 2), ((1, 0), (2, 1)), (2, 1), 2),
    "depthwise": Case(2, 3, 6, (8,), (2,), (1,), ((-1, 2),), (2,), 3),
    "spatial": Case(1, 2, 2, (3, 2, 4), (2, 1, 3), (1, 1, 1), ((0, 0),) * 3, (1, 1, 1), 1),
}
by_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def operators(case: Case) -> dict:
    """Each operator, the roles of its operands and of its result."""
    options = case.options()
    return {
        "conv": (functools.partial(jaxconv.conv, **options), "xk", "g"),
        "conv_input_grad": (
            lambda g, k: jaxconv.conv_input_grad(g, k, case.input_spatial, **options),
            "gk",
            "x",
        ),
        "conv_filter_grad": (
            lambda x, g: jaxconv.conv_filter_grad(x, g, case.kernel_spatial, **options),
            "xg",
            "k",
        ),
    }


def axes_of(case: Case, roles: str, mapped: str, last: bool) -> tuple:
    """In-axes: the first axis, or the last, of the mapped operands."""
    return tuple(
        (len(case.shape(role)) if last else 0) if role in mapped else None for role in roles
    )


def mapped_operands(case: Case, roles: str, in_axes: tuple, size: int = SIZE) -> list[np.ndarray]:
    arrays = []
    for role, axis in zip(roles, in_axes, strict=True):
        shape = list(case.shape(role))
        if axis is not None:
            shape.insert(axis, size)
        arrays.append(operand(tuple(shape), np.float64, ord(role)))
    return arrays


def assert_mapped(case, roles, result, in_axes, arrays, got):
    """Each slice is the oracle's result for that slice of the operands."""
    for index in range(SIZE):
        values = {
            role: array if axis is None else np.take(array, index, axis)
            for role, axis, array in zip(roles, in_axes, arrays, strict=True)
        }
        oracle.assert_right(got[index], result, case, **values)


WHICH = ("both", "first", "second")


@pytest.mark.sample(7)
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("operator", operators(CASES["dense"]))
@by_case
def test_vmap(case, operator, which):
    """The mapped axis is the first in two cases and the last in two."""
    last = case in (CASES["grouped"], CASES["spatial"])
    call, roles, result = operators(case)[operator]
    mapped = {"both": roles, "first": roles[0], "second": roles[1]}[which]
    in_axes = axes_of(case, roles, mapped, last)
    arrays = mapped_operands(case, roles, in_axes)
    batched = jax.vmap(call, in_axes=in_axes)
    assert_mapped(case, roles, result, in_axes, arrays, jax.jit(batched)(*arrays))
    assert_uses_primitives(batched, *arrays, binds=[operator])


@pytest.mark.parametrize("operator", operators(CASES["dense"]))
def test_vmap_of_different_axes(operator):
    case = CASES["grouped"]
    call, roles, result = operators(case)[operator]
    in_axes = (1, -1)
    given = (1, len(case.shape(roles[1])))
    arrays = mapped_operands(case, roles, given)
    got = jax.jit(jax.vmap(call, in_axes=in_axes, out_axes=-1))(*arrays)
    assert_mapped(case, roles, result, given, arrays, jnp.moveaxis(got, -1, 0))


NESTED = list(itertools.product([(0, 0), (0, None), (None, 0)], repeat=2))


@pytest.mark.parametrize(("outer", "inner"), NESTED)
def test_nested_vmap(outer, inner):
    """Two maps, each over one operand or both: into the batch, the features and the groups."""
    case = CASES["grouped"]
    call, roles, result = operators(case)["conv"]
    arrays, sizes = [], (2, 3)
    for position, role in enumerate(roles):
        lead = [n for n, axes in zip(sizes, (outer, inner), strict=True) if axes[position] == 0]
        arrays.append(operand((*lead, *case.shape(role)), np.float64, ord(role)))
    got = jax.jit(jax.vmap(jax.vmap(call, in_axes=inner), in_axes=outer))(*arrays)
    for i, j in itertools.product(*map(range, sizes)):
        values = {}
        for position, role in enumerate(roles):
            indices = [at for at, axes in ((i, outer), (j, inner)) if axes[position] == 0]
            values[role] = arrays[position][tuple(indices)]
        oracle.assert_right(got[i, j], result, case, **values)


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("operator", operators(CASES["dense"]))
def test_vmap_over_an_empty_axis(operator, which):
    """A map over an axis of size zero."""
    case = CASES["grouped"]
    call, roles, result = operators(case)[operator]
    mapped = {"both": roles, "first": roles[0], "second": roles[1]}[which]
    in_axes = axes_of(case, roles, mapped, last=False)
    arrays = mapped_operands(case, roles, in_axes, size=0)
    assert jax.jit(jax.vmap(call, in_axes=in_axes))(*arrays).shape == (0, *case.shape(result))


@pytest.mark.sample(3)
@pytest.mark.parametrize("which", WHICH)
@by_case
def test_gradients_of_vmap(case, which):
    """Gradients of a mapped convolution, against those of its slices."""
    in_axes = {"both": (0, 0), "first": (0, None), "second": (None, 0)}[which]
    x, k = mapped_operands(case, "xk", in_axes)
    (g,) = mapped_operands(case, "g", (0,))
    batched = jax.vmap(operators(case)["conv"][0], in_axes=in_axes)

    def gradients(x, k):
        return jax.vjp(batched, x, k)[1](g)

    dx, dk = jax.jit(gradients)(x, k)
    for got, role, axis, other in ((dx, "x", in_axes[0], k), (dk, "k", in_axes[1], x)):
        each = [_gradient(case, role, other, g[i], i) for i in range(SIZE)]
        wanted = np.stack(each) if axis == 0 else np.sum(each, axis=0)
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-11)
    assert_uses_primitives(gradients, x, k, binds=["conv_input_grad", "conv_filter_grad"])


def _gradient(case, role, other, g, index):
    name = "k" if role == "x" else "x"
    value = other[index] if other.ndim > len(case.shape(name)) else other
    return oracle.compute(role, case, g=g, **{name: value})


def test_vmap_of_gradients_of_each_operand():
    """Ensembles: every member has its own kernel, and all have the same batch."""
    case = CASES["dense"]
    in_axes = (None, 0)
    x, k = mapped_operands(case, "xk", in_axes)

    def loss(x, k):
        return jnp.sum(jaxconv.conv(x, k, **case.options()) ** 2) / 2

    ensemble = jax.vmap(jax.grad(loss, argnums=1), in_axes=in_axes)
    dk = jax.jit(ensemble)(x, k)
    for index in range(SIZE):
        y = oracle.compute("g", case, x=x, k=k[index])
        oracle.assert_right(dk[index], "k", case, x=x, g=y)
    assert_uses_primitives(ensemble, x, k, binds=["conv_filter_grad"])


def test_vmap_with_an_axis_name():
    """A collective over a named mapped axis."""
    case = CASES["dense"]
    x, k = mapped_operands(case, "xk", (0, None))

    def mean(x, k):
        return jax.lax.pmean(jaxconv.conv(x, k, **case.options()), "map")

    got = jax.vmap(mean, in_axes=(0, None), axis_name="map")(x, k)
    oracle.assert_right(got[0], "g", case, x=x.mean(0), k=k)
    np.testing.assert_array_equal(got[0], got[-1])


def test_vmap_of_unbatched_examples_is_the_batch():
    case = CASES["grouped"].replace(batch=4)
    x, k = (operand(case.shape(role), np.float64) for role in "xk")
    conv = functools.partial(jaxconv.conv, **case.options())
    np.testing.assert_allclose(jax.vmap(conv, (0, None))(x, k), conv(x, k), rtol=1e-12, atol=1e-12)
