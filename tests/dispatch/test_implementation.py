"""The choice of a kernel by name: what is asked for runs, gradients inherit it, jit notices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
from jaxconv._src.dispatch import choose
from jaxconv._src.geometry.spec import Operator
from support import oracle
from support.cases import operands
from support.family import NAMES, as_spec, equations
from support.oracle import Case

# Depthwise with a kernel that lax, taps and dots can all compute.
CASE = Case(2, 3, 3, (7,), (3,), (1,), ((1, 1),), (1,), 3)
X, K, G = operands(CASE)
IMPLEMENTATIONS = list(choose.IMPLEMENTATIONS)
ON_CPU = [name for name, modules in choose.IMPLEMENTATIONS.items() if "cpu" in modules]
by_name = pytest.mark.parametrize("name", ON_CPU)


def conv(x, k, **options):
    return jaxconv.conv(x, k, **CASE.options(), **options)


def gradient(x, k):
    return jax.grad(lambda x, k: jnp.sum(conv(x, k) ** 2), argnums=(0, 1))(x, k)


def asked_for(fn, *args) -> set:
    """The implementations in the parameters of the family's equations."""
    found = equations(jax.make_jaxpr(fn)(*args).jaxpr)
    return {eqn.params["implementation"] for eqn in found if eqn.primitive.name in NAMES}


def servable(name: str) -> None:
    for operator in Operator:
        reason = choose.unsupported_reason(name, operator, as_spec(CASE), X.dtype)
        assert reason is None, f"choose a case that {name} can serve: {reason}"


def test_nothing_is_asked_for_by_default():
    assert asked_for(conv, X, K) == asked_for(gradient, X, K) == {None}


@by_name
def test_implementation_argument(name):
    servable(name)
    y = conv(X, K, implementation=name)
    oracle.assert_right(y, "g", CASE, x=X, k=K)
    assert asked_for(lambda x, k: conv(x, k, implementation=name), X, K) == {name}


@by_name
def test_use_implementation(name):
    servable(name)
    with jaxconv.use_implementation(name):
        assert asked_for(conv, X, K) == asked_for(gradient, X, K) == {name}
        oracle.assert_right(conv(X, K), "g", CASE, x=X, k=K)
    assert asked_for(conv, X, K) == {None}


@by_name
def test_gradients_inherit_it_outside_of_the_block(name):
    servable(name)

    def later(x, k, g):
        with jaxconv.use_implementation(name):
            y, pull = jax.vjp(conv, x, k)
        return y, pull(g)

    assert asked_for(later, X, K, G) == {name}
    y, (dx, dk) = later(X, K, G)
    oracle.assert_right(y, "g", CASE, x=X, k=K)
    oracle.assert_right(dx, "x", CASE, k=K, g=G)
    oracle.assert_right(dk, "k", CASE, x=X, g=G)


def test_the_argument_goes_before_the_block():
    with jaxconv.use_implementation("lax"):
        assert asked_for(lambda x, k: conv(x, k, implementation="taps"), X, K) == {"taps"}


def test_nested_blocks():
    with jaxconv.use_implementation("lax"):
        with jaxconv.use_implementation("taps"):
            assert asked_for(conv, X, K) == {"taps"}
        with jaxconv.use_implementation(None):
            assert asked_for(conv, X, K) == {None}
        assert asked_for(conv, X, K) == {"lax"}


def test_an_exception_leaves_the_block():
    with pytest.raises(KeyError), jaxconv.use_implementation("lax"):
        raise KeyError
    assert asked_for(conv, X, K) == {None}


def test_as_a_decorator():
    decorated = jaxconv.use_implementation("lax")(conv)
    assert asked_for(decorated, X, K) == {"lax"}


def test_jit_traces_again_on_entering_a_block():
    counted = chex.assert_max_traces(lambda x, k: conv(x, k), n=2)
    jitted = jax.jit(counted)
    jitted(X, K)
    with jaxconv.use_implementation("lax"):
        jitted(X, K)
        assert asked_for(jitted, X, K) == {"lax"}
    jitted(X, K)  # what was traced outside is still there


def test_jit_within_a_block_keeps_what_it_was_traced_with():
    with jaxconv.use_implementation("lax"):
        lowered = jax.jit(conv).trace(X, K)
    names = {eqn.params["implementation"] for eqn in lowered.jaxpr.eqns}
    assert names == {"lax"}


def test_vmap_and_scan_inherit_it():
    with jaxconv.use_implementation("lax"):
        assert asked_for(jax.vmap(conv, (0, None)), X[None], K) == {"lax"}

        def scanned(x, k):
            return jax.lax.scan(lambda x, _: (conv(x, k), None), x, length=2)[0]

        assert asked_for(scanned, X, K) == {"lax"}


@pytest.mark.parametrize("function", ["conv_transpose", "conv_input_grad", "conv_filter_grad"])
def test_every_function_takes_it(function):
    options = CASE.options()
    calls = {
        "conv_transpose": lambda **chosen: jaxconv.conv_transpose(G, K, **options, **chosen),
        "conv_input_grad": lambda **chosen: jaxconv.conv_input_grad(G, K, 7, **options, **chosen),
        "conv_filter_grad": lambda **chosen: jaxconv.conv_filter_grad(
            X, G, (3,), **options, **chosen
        ),
    }
    call = calls[function]
    assert asked_for(lambda: call(implementation="lax")) == {"lax"}
    np.testing.assert_allclose(call(implementation="lax"), call(), rtol=1e-5, atol=1e-5)


def test_the_choice_says_why():
    for operator in Operator:
        choice = choose.choose(operator, "cpu", as_spec(CASE), X.dtype)
        assert choice.implementation in IMPLEMENTATIONS
        assert choice.reason
        assert set(choice.against) == set(IMPLEMENTATIONS) - {choice.implementation}
        assert all(choice.against.values())
