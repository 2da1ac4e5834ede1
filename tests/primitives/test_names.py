"""Residuals and programs name the caller's lines, profiles the convolution."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.ad_checkpoint import print_saved_residuals

import jaxconv
from support.cases import operand
from support.marks import needs_engine

PACKAGE = str(pathlib.Path(jaxconv.__file__).parent)
X = operand((2, 12, 12, 8), np.float32)
K = operand((3, 3, 8, 4), np.float32, 1)
DEPTHWISE = operand((5, 3, 1, 8), np.float32, 2)


def by_lax(x, k):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers)


def nnx_module(x, k):
    module = jaxconv.nnx.Conv(8, 4, (3, 3), padding="CIRCULAR", rngs=nnx.Rngs(0))
    module.kernel[...] = k
    return module(x)


def linen_module(x, k):
    module = jaxconv.linen.Conv(4, (3, 3), padding="CIRCULAR", use_bias=False)
    return module.apply({"params": {"kernel": k}}, x)


CALLS = {
    "conv": jaxconv.conv,
    "border": lambda x, k: jaxconv.conv(x, k, padding="REFLECT"),
    "fused": lambda x, k: jaxconv.fused_conv(x, k, activation="silu"),
    "transposed": lambda x, k: jaxconv.conv_transpose(x, k.swapaxes(2, 3)),
    "accelerated": jaxconv.accelerate(by_lax),
    "nnx": nnx_module,
    "linen": linen_module,
}


def loss_of(call):
    return lambda x, k: jnp.sum(jnp.sin(call(x, k)))


@pytest.mark.lenient
@pytest.mark.parametrize("name", CALLS)
def test_residuals_name_the_callers_lines(name, capsys):
    loss = loss_of(CALLS[name])
    print_saved_residuals(loss, X, K)
    saved = capsys.readouterr().out
    assert f"from {__file__}:" in saved
    assert PACKAGE not in saved


@pytest.mark.lenient
@pytest.mark.parametrize("name", CALLS)
def test_programs_name_the_callers_lines(name):
    text = jax.jit(jax.grad(loss_of(CALLS[name]), (0, 1))).lower(X, K).as_text(debug_info=True)
    assert f'"{__file__}"' in text
    assert PACKAGE not in text


def compiled_gradients(call, kernel) -> str:
    return jax.jit(jax.grad(loss_of(call), (0, 1))).lower(X, kernel).compile().as_text()


@needs_engine
def test_calls_of_the_engine_are_named_after_the_convolution():
    """A profile shows the names of the compiled program's operations."""
    names = r"%([\w.]+?)(?:\.\d+)? = [^\n]*custom-call\("
    found = re.findall(names, compiled_gradients(jaxconv.depthwise_conv, DEPTHWISE))
    operators = ("conv", "filter_grad", "input_grad")
    assert sorted(found) == [f"jaxconv_{operator}_depthwise_5x3" for operator in operators]
    fused = jax.jit(CALLS["fused"]).lower(X, K).compile().as_text()
    assert re.findall(names, fused) == ["jaxconv_fused_conv_standard_3x3"]


@pytest.mark.parametrize("implementation", ["lax", "taps", None])
def test_operations_are_scoped_by_the_convolution(implementation):
    def call(x, k):
        return jaxconv.depthwise_conv(x, k, implementation=implementation)

    text = compiled_gradients(call, DEPTHWISE)
    for name in ("conv", "conv_input_grad", "conv_filter_grad"):
        assert f"jaxconv.{name}[depthwise 5x3]/" in text
