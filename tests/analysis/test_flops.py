"""FLOPs: what jaxconv counts, and what XLA and Flax count of the same program."""

import jax
import numpy as np
import pytest
from flax import linen
from jax import lax

import jaxconv
from support.cases import operand
from support.marks import needs_engine

X = operand((2, 9, 11, 6), np.float32)
K = operand((3, 2, 6, 5), np.float32)
MACS = 2 * 7 * 10 * 5 * 3 * 2 * 6


def conv(x, k):
    return jaxconv.conv(x, k, padding="VALID")


def by_lax(x, k):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=numbers)


def test_the_counts_of_jaxconv_and_of_xla_agree():
    """Without padding, on which XLA counts no products."""
    assert jaxconv.cost(conv, X, K).macs == MACS
    assert jaxconv.cost(by_lax, X, K).macs == MACS
    with jaxconv.use_implementation("lax"):
        lowered = jax.jit(conv).lower(X, K)
    assert lowered.cost_analysis()["flops"] == 2 * MACS
    assert lowered.compile().cost_analysis()["flops"] == 2 * MACS


@needs_engine
def test_xla_does_not_count_custom_calls():
    """If this fails, XLA has learned to: then tell it, and change docs/sharp_bits.md."""
    lowered = jax.jit(conv).lower(X, K)
    assert lowered.cost_analysis()["flops"] == -1
    assert lowered.compile().cost_analysis()["flops"] == -1


@pytest.mark.lenient
def test_summaries_count_every_convolution():
    """Where Flax's own table, which asks XLA, leaves out those on the engine."""

    class Network(linen.Module):
        conv: type

        @linen.compact
        def __call__(self, x):
            x = self.conv(8, (3, 3), padding="VALID")(x)
            return self.conv(4, (1, 1))(x)

    network = Network(jaxconv.linen.Conv)
    variables = network.init(jax.random.key(0), X)
    macs = 2 * 7 * 9 * (8 * 9 * 6 + 4 * 8)
    assert jaxconv.cost(network.apply, variables, X).macs == macs
    assert jaxconv.summarize(network, X).macs == macs
