"""Compiled programs: every derivative runs on the CPU engine, none on an XLA convolution."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import jaxconv
from support.cases import operand
from support.marks import needs_engine

pytestmark = needs_engine

OPERATORS = {"conv", "input_grad", "filter_grad"}
GROUPS = {"depthwise": 6, "grouped": 2}
by_groups = pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)

X = operand((8, 9, 7, 6), np.float32)


def kernel_of(groups: int) -> np.ndarray:
    return operand((3, 2, 6 // groups, 6), np.float32, 1)


def loss_of(groups: int):
    def loss(x, k):
        return jnp.sum(jnp.tanh(jaxconv.conv(x, k, groups=groups)) ** 2)

    return loss


def calls(fn, *args) -> set[str]:
    """The engine's operators that the compiled program of ``fn`` calls, and XLA's convolutions."""
    text = jax.jit(fn).lower(*args).compile().as_text()
    engine = re.findall(r'custom_call_target="jaxconv_(\w+)"', text)
    return {*engine, *re.findall(r"\s(convolution)\(", text)}


def hessian_vector(loss, x, k):
    return jax.jvp(jax.grad(loss, 1), (x, k), (x, k))[1]


def third(loss, x, k):
    """Both gradients, differentiated in k and then in x, along the arguments themselves."""

    def twice(x):
        return jax.jvp(lambda k: jax.grad(loss, (0, 1))(x, k), (k,), (k,))[1]

    return jax.jvp(twice, (x,), (x,))[1]


def per_example(loss, x, k):
    return jax.vmap(lambda x: jax.grad(loss, 1)(x[None], k))(x)


def sharded_tangent(loss, x, k):
    """Forward mode of both gradients, over eight devices."""

    def tangent(x, k):
        return jax.jvp(jax.grad(loss, (0, 1)), (x, k), (x, k))[1]

    mesh = jax.make_mesh((8,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(tangent, mesh=mesh, in_specs=(P("b"), P()), out_specs=(P("b"), P()))(x, k)


@pytest.mark.sample(5)
@by_groups
@pytest.mark.parametrize(
    ("derivative", "operators"),
    [
        (hessian_vector, {"conv", "filter_grad"}),
        (third, OPERATORS),
        (per_example, {"conv", "filter_grad"}),
        (sharded_tangent, OPERATORS),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_derivatives_run_on_the_engine_only(derivative, operators, groups):
    k = kernel_of(groups)

    def fn(x, k):
        return derivative(loss_of(groups), x, k)

    assert calls(fn, X, k) == operators
    with jaxconv.use_implementation("lax"):
        assert calls(lambda x, k: fn(x, k), X, k) == {"convolution"}
        expected = jax.jit(lambda x, k: fn(x, k))(X, k)
    for result, right in zip(*map(jax.tree.leaves, (jax.jit(fn)(X, k), expected)), strict=True):
        scale = float(np.abs(right).max())
        np.testing.assert_allclose(result, right, rtol=0, atol=1e-4 * scale)


@by_groups
def test_other_implementations_do_not_call_the_engine(groups):
    """The assertion above can fail: programs of other implementations do not call the engine."""
    for name in ("taps", "lax", "dots"):
        k = kernel_of(groups)
        if name == "taps" and groups < X.shape[-1]:
            continue  # depthwise only
        with jaxconv.use_implementation(name):
            assert not calls(lambda x, k: jax.grad(loss_of(groups), 1)(x, k), X, k) & OPERATORS


@pytest.mark.parametrize("extent", [1, 3])
def test_installed_dense_gradients_transpose_no_kernel(extent):
    """lax's rule reverses and transposes the kernel; the engine reads it as it is."""
    kernel, g = operand((extent, extent, 6, 5), np.float32, 1), operand((8, 9, 7, 5), np.float32, 2)
    numbers = ("NHWC", "HWIO", "NHWC")

    def pull(kernel, g):
        def conv(x):
            return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

        return jax.linear_transpose(conv, X)(g)[0]

    wanted = jax.jit(pull)(kernel, g)
    with jaxconv.installed():
        program = jax.jit(pull).lower(kernel, g).compile()
    np.testing.assert_allclose(program(kernel, g), wanted, rtol=1e-5, atol=1e-4)
    assert re.findall(r'custom_call_target="jaxconv_(\w+)"', program.as_text()) == ["input_grad"]
    assert not re.findall(r"\s(transpose|reverse|convolution)\(", program.as_text())
