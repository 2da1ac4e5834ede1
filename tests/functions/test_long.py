"""Long convolution: linear, causal or centered, transformed where that is less work."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxconv
from support import oracle
from support.cases import operand, operands
from support.operators import assert_conv, primitives
from support.oracle import Case


def case_of(length: int, k: int, groups: int, causal: bool = True, features: int = 6) -> Case:
    padding = (k - 1, 0) if causal else ((k - 1) // 2, k // 2)
    return Case(2, 6, features, (length,), (k,), (1,), (padding,), (1,), groups)


@pytest.mark.sample(4)
@pytest.mark.parametrize("implementation", [None, "fft"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("k", "groups"), [(13, 6), (4, 3), (25, 1)])
def test_long_conv(k, groups, causal, implementation, x64):
    """Also of kernels longer than the sequence; the groups follow from the kernel's shape."""
    case = case_of(13, k, groups, causal, features=12)
    call = functools.partial(jaxconv.long_conv, causal=causal, implementation=implementation)
    assert_conv(call, case, *operands(case, np.float64))


def test_it_is_linear_and_not_circular(x64):
    """An impulse at the end reaches no earlier output, and bias is added once."""
    x = np.zeros((40, 2))
    x[-1] = 1
    kernel, bias = operand((40, 1, 2), np.float64), operand((2,), np.float64)
    y = jaxconv.long_conv(x, kernel, bias, implementation="fft")
    wanted = np.zeros((40, 2))
    wanted[-1] = kernel[-1, 0]
    np.testing.assert_allclose(y, wanted + bias, atol=1e-13)


def chosen(x, kernel, platform: str = "cpu", **options) -> str:
    call = functools.partial(jaxconv.long_conv, **options)
    return jaxconv.explain(call, x, kernel, platforms=platform).convs[0].implementation


def shaped(*shape: int):
    return jax.ShapeDtypeStruct(shape, np.float32)


def test_long_kernels_are_transformed_on_every_platform():
    x, kernel = shaped(1, 4096, 64), shaped(4096, 1, 64)
    for platform in ("cpu", "cuda", "rocm", "tpu"):
        assert chosen(x, kernel, platform) == "fft"
        assert chosen(x, shaped(7, 1, 64), platform) != "fft"
    assert chosen(x, kernel, implementation="taps") == "taps"
    with jaxconv.use_implementation("lax"):
        assert chosen(x, kernel) == "lax"


def test_values_of_a_long_kernel():
    """Transformed by choice; the sum of a geometric series by a recurrence in float64."""
    decay, x = 0.998, operand((1, 4096, 3), np.float32)
    kernel = np.broadcast_to(decay ** np.arange(4095.0, -1, -1)[:, None, None], (4096, 1, 3))
    y = jax.jit(jaxconv.long_conv)(x, kernel.astype(np.float32))
    assert jaxconv.explain(jaxconv.long_conv, x, kernel.astype(np.float32)).convs[0].operator
    wanted, state = np.zeros_like(x, np.float64), np.zeros((1, 3))
    for i in range(4096):
        state = decay * state + x[:, i]
        wanted[:, i] = state
    np.testing.assert_allclose(y, wanted, atol=2e-4)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(kernel[:, 0], axis=0)
    assert np.abs(y - wanted).max() < 6 * oracle.epsilon(np.float32) * 13 * norms.max()


def test_symbolic_lengths_run_direct_sums():
    kernel = operand((9, 1, 6), np.float32)
    scope = export.SymbolicScope()
    x = jax.ShapeDtypeStruct(export.symbolic_shape("b, n, 6", scope=scope), np.float32)
    exported = export.export(jax.jit(jaxconv.long_conv))(x, kernel)
    case = case_of(17, 9, 6)
    x = operand(case.shape("x"), np.float32)
    oracle.assert_right(exported.call(x, kernel), "g", case, x=x, k=kernel)


def test_gradients_stay_in_the_family():
    x, kernel = operand((2, 4096, 2), np.float32), operand((4096, 1, 2), np.float32)
    gradient = jax.grad(lambda x, kernel: jnp.sum(jaxconv.long_conv(x, kernel) ** 2), (0, 1))
    assert {"conv", "conv_input_grad", "conv_filter_grad"} <= set(primitives(gradient, x, kernel))
    explained = jaxconv.explain(gradient, x, kernel)
    assert {conv.implementation for conv in explained.convs} == {"fft"}


WRONG = {
    "channels": (shaped(1, 9, 6), shaped(9, 4, 8), {}, ValueError, "C = 6 channels, which is not"),
    "features": (shaped(1, 9, 6), shaped(9, 1, 8), {}, ValueError, "groups"),
    "rank": (shaped(1, 9, 6), shaped(9, 6), {}, ValueError, "long_conv"),
    "causal": (shaped(1, 9, 6), shaped(9, 1, 6), {"causal": "yes"}, TypeError, "True or False"),
    "groups": (shaped(1, 9, 6), shaped(9, 1, 6), {"groups": 5}, ValueError, "groups"),
    "name": (shaped(1, 9, 6), shaped(9, 1, 6), {"padding": 1}, TypeError, "no argument 'padding'"),
}


@pytest.mark.parametrize(("x", "kernel", "options", "error", "text"), WRONG.values(), ids=WRONG)
def test_errors(x, kernel, options, error, text):
    with pytest.raises(error, match=text) as raised:
        jax.eval_shape(functools.partial(jaxconv.long_conv, **options), x, kernel)
    assert "long_conv" in str(raised.value)
