"""Extreme strides, padding, dilation and sizes give a result or an error, never a crash."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxconv
from support.meshes import mesh_of

EXTREMES = (2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**64, 2**100, -(2**40), -(2**100))
MAX_COMPUTED = 10**6  # results with more elements are traced, not computed

X1, K1 = jnp.ones((2, 9, 4)), jnp.ones((2, 4, 6))
X2, K2, D2 = jnp.ones((2, 7, 6, 4)), jnp.ones((2, 2, 2, 6)), jnp.ones((2, 2, 1, 8))
X3, K3 = jnp.ones((1, 4, 5, 6, 4)), jnp.ones((2, 2, 2, 2, 6))
PLACEMENT = ("strides", "padding", "dilation")

# For each function: a call of it with one more keyword, and the keywords that take sizes.
CALLS = {
    "conv 1-D": (lambda **size: jaxconv.conv(X1, K1, **size), (*PLACEMENT, "groups")),
    "conv 2-D": (lambda **size: jaxconv.conv(X2, K2, groups=2, **size), PLACEMENT),
    "conv 3-D": (lambda **size: jaxconv.conv(X3, K3, groups=2, **size), PLACEMENT),
    "depthwise": (lambda **size: jaxconv.depthwise_conv(X2, D2, **size), PLACEMENT),
    "pointwise": (lambda **size: jaxconv.pointwise_conv(X2, K1[None, :1], **size), ("strides",)),
    "separable": (
        lambda **size: jaxconv.separable_conv(X2, D2, jnp.ones((8, 3)), **size),
        PLACEMENT,
    ),
    "transpose": (
        lambda **size: jaxconv.conv_transpose(X2, jnp.ones((2, 2, 6, 4)), **size),
        (*PLACEMENT, "groups", "output_padding"),
    ),
    "input_grad": (
        lambda input_spatial=(7, 6), **size: jaxconv.conv_input_grad(
            jnp.ones((2, 7, 6, 6)), K2, input_spatial, groups=2, **size
        ),
        (*PLACEMENT, "input_spatial"),
    ),
    "filter_grad": (
        lambda kernel_spatial=(2, 2), **size: jaxconv.conv_filter_grad(
            X2, jnp.ones((2, 7, 6, 5)), kernel_spatial, **size
        ),
        (*PLACEMENT, "kernel_spatial"),
    ),
    "causal": (lambda **size: jaxconv.causal_conv(X1, K1, **size), ("strides", "dilation")),
    "causal_init": (
        lambda batch_size=2, **size: jaxconv.causal_conv_init(K1, batch_size, **size),
        ("batch_size", "dilation", "groups"),
    ),
    "filters": (
        lambda **size: jaxconv.filters.apply(X2, jaxconv.filters.sobel(), **size),
        ("strides", "padding", "dilation"),
    ),
}
CASES = [(name, size) for name, (_, sizes) in CALLS.items() for size in sizes]


def outcome(name: str, size: str, value: int) -> str:
    """``result``, or the error's type; the call runs in this process."""
    call, _ = CALLS[name]
    try:
        shape = jax.eval_shape(lambda: call(**{size: value}))
        if math.prod(shape.shape) <= MAX_COMPUTED:
            jax.block_until_ready(call(**{size: value}))
    except (ValueError, TypeError) as error:
        known = str(error).startswith(("conv", "depthwise", "pointwise", "separable", "causal"))
        return type(error).__name__ if known or "filters" in str(error) else repr(error)
    return "result"


def main() -> None:
    for (name, size), value in itertools.product(CASES, EXTREMES):
        print(name, size, value, flush=True)
        said = outcome(name, size, value)
        assert said in ("result", "ValueError", "TypeError"), said


def test_every_extreme_size_is_computed_or_refused_in_words():
    """In a process of its own, because the failure to look for is a crash."""
    code = "import sys; sys.path.append('functions'); from test_extreme_sizes import main; main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.stdout.splitlines()[-1:], done.stderr[-2000:])
    assert done.stdout.count("\n") == len(CASES) * len(EXTREMES)


@pytest.mark.parametrize("value", [2**31, 2**64])
def test_sharded_convolutions_refuse_extreme_sizes(value):
    mesh = mesh_of((1,), ("time",))
    spec = jax.sharding.PartitionSpec(None, "time")

    def mapped(x):
        return jaxconv.sharding.causal_conv(x, K1, axis_name="time", dilation=value)

    with pytest.raises(ValueError, match=r"sharding.causal_conv: dilation must be at most"):
        jax.shard_map(mapped, mesh=mesh, in_specs=spec, out_specs=spec)(X1)
