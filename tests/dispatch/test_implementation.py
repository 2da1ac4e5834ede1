"""Forcing an implementation: it runs, gradients inherit it, and jit traces again."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
from jaxconv._src.dispatch import registry
from jaxconv._src.dispatch.choose import choose_implementation
from jaxconv._src.geometry.spec import Operator
from support import oracle
from support.cases import operands
from support.operators import NAMES, as_spec, equations
from support.oracle import Case

# Depthwise, which lax, taps and dots all support.
CASE = Case(2, 3, 3, (7,), (3,), (1,), ((1, 1),), (1,), 3)
X, K, G = operands(CASE)
IMPLEMENTATIONS = list(registry.IMPLEMENTATIONS)
ON_CPU = [name for name, modules in registry.IMPLEMENTATIONS.items() if "cpu" in modules]
by_name = pytest.mark.parametrize("name", ON_CPU)


def conv(x, k, **options):
    return jaxconv.conv(x, k, **CASE.options(), **options)


def gradient(x, k):
    return jax.grad(lambda x, k: jnp.sum(conv(x, k) ** 2), argnums=(0, 1))(x, k)


def forced(fn, *args) -> set:
    """The implementations in the parameters of jaxconv's primitives."""
    found = equations(jax.make_jaxpr(fn)(*args).jaxpr)
    return {eqn.params["implementation"] for eqn in found if eqn.primitive.name in NAMES}


def assert_supported(name: str) -> None:
    for operator in Operator:
        reason = registry.unsupported_reason(name, operator, as_spec(CASE), X.dtype)
        assert reason is None, f"use a case that {name} supports: {reason}"


def test_nothing_is_forced_by_default():
    assert forced(conv, X, K) == forced(gradient, X, K) == {None}


@by_name
def test_implementation_argument(name):
    assert_supported(name)
    y = conv(X, K, implementation=name)
    oracle.assert_right(y, "g", CASE, x=X, k=K)
    assert forced(lambda x, k: conv(x, k, implementation=name), X, K) == {name}


@by_name
def test_use_implementation(name):
    assert_supported(name)
    with jaxconv.use_implementation(name):
        assert forced(conv, X, K) == forced(gradient, X, K) == {name}
        oracle.assert_right(conv(X, K), "g", CASE, x=X, k=K)
    assert forced(conv, X, K) == {None}


@by_name
def test_gradients_inherit_it_outside_of_the_block(name):
    assert_supported(name)

    def later(x, k, g):
        with jaxconv.use_implementation(name):
            y, pull = jax.vjp(conv, x, k)
        return y, pull(g)

    assert forced(later, X, K, G) == {name}
    y, (dx, dk) = later(X, K, G)
    oracle.assert_right(y, "g", CASE, x=X, k=K)
    oracle.assert_right(dx, "x", CASE, k=K, g=G)
    oracle.assert_right(dk, "k", CASE, x=X, g=G)


def test_the_argument_takes_precedence_over_the_block():
    with jaxconv.use_implementation("lax"):
        assert forced(lambda x, k: conv(x, k, implementation="taps"), X, K) == {"taps"}


def test_nested_blocks():
    with jaxconv.use_implementation("lax"):
        with jaxconv.use_implementation("taps"):
            assert forced(conv, X, K) == {"taps"}
        with jaxconv.use_implementation(None):
            assert forced(conv, X, K) == {None}
        assert forced(conv, X, K) == {"lax"}


def test_an_exception_leaves_the_block():
    with pytest.raises(KeyError), jaxconv.use_implementation("lax"):
        raise KeyError
    assert forced(conv, X, K) == {None}


def test_as_a_decorator():
    decorated = jaxconv.use_implementation("lax")(conv)
    assert forced(decorated, X, K) == {"lax"}


def test_jit_traces_again_on_entering_a_block():
    counted = chex.assert_max_traces(lambda x, k: conv(x, k), n=2)
    jitted = jax.jit(counted)
    jitted(X, K)
    with jaxconv.use_implementation("lax"):
        jitted(X, K)
        assert forced(jitted, X, K) == {"lax"}
    jitted(X, K)  # traced outside, and still cached


def test_jit_in_a_block_keeps_the_implementation_it_was_traced_with():
    with jaxconv.use_implementation("lax"):
        lowered = jax.jit(conv).trace(X, K)
    names = {eqn.params["implementation"] for eqn in lowered.jaxpr.eqns}
    assert names == {"lax"}


def test_vmap_and_scan_inherit_it():
    with jaxconv.use_implementation("lax"):
        assert forced(jax.vmap(conv, (0, None)), X[None], K) == {"lax"}

        def scanned(x, k):
            return jax.lax.scan(lambda x, _: (conv(x, k), None), x, length=2)[0]

        assert forced(scanned, X, K) == {"lax"}


@pytest.mark.parametrize("function", ["conv_transpose", "conv_input_grad", "conv_filter_grad"])
def test_every_function_takes_it(function):
    options = CASE.options()
    calls = {
        "conv_transpose": lambda **option: jaxconv.conv_transpose(G, K, **options, **option),
        "conv_input_grad": lambda **option: jaxconv.conv_input_grad(G, K, 7, **options, **option),
        "conv_filter_grad": lambda **option: jaxconv.conv_filter_grad(
            X, G, (3,), **options, **option
        ),
    }
    call = calls[function]
    assert forced(lambda: call(implementation="lax")) == {"lax"}
    np.testing.assert_allclose(call(implementation="lax"), call(), rtol=1e-5, atol=1e-5)


def test_the_choice_gives_reasons():
    for operator in Operator:
        choice = choose_implementation(operator, "cpu", as_spec(CASE), X.dtype)
        assert choice.implementation in IMPLEMENTATIONS
        assert choice.reason
        assert set(choice.reasons_against) == set(IMPLEMENTATIONS) - {choice.implementation}
        assert all(choice.reasons_against.values())
