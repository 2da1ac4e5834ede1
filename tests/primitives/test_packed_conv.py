"""The primitive of packed kernels is the fused convolution under every transformation."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from jaxconv._src.geometry.epilogue import NO_EPILOGUE, Epilogue
from jaxconv._src.geometry.spec import ConvSpec
from jaxconv._src.kernels.cpu import native
from jaxconv._src.primitives.fused import bind_fused
from jaxconv._src.primitives.packed import bind_packed
from support.marks import needs_engine

pytestmark = needs_engine

SPEC = ConvSpec(2, 3, 4, (5, 6), (3, 2), (1, 2), ((1, 1), (0, 1)), (1, 1), 1)
EPILOGUE = Epilogue(scale=True, bias=True, residual=True, activation="relu")


def integers(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).integers(-4, 5, shape), jnp.float32)


X, KERNEL = integers(*SPEC.input_shape), integers(*SPEC.kernel_shape)
OPERANDS = integers(4), integers(4) + 1, integers(*SPEC.output_shape)


def scaled_kernel(kernel, scale):
    return kernel * scale[None, None, None]


def packed(x, kernel, *operands, epilogue=EPILOGUE, scaled=True):
    whole = scaled_kernel(kernel, operands[0]) if scaled and epilogue.scale else kernel
    packed: Any = native.pack_kernel(whole, SPEC)
    options = {"scaled": scaled, "dtype": jnp.float32}
    return bind_packed(x, kernel, operands, packed, SPEC, epilogue, **options)


def fused(x, kernel, *operands, epilogue=EPILOGUE):
    return bind_fused(x, kernel, operands, SPEC, epilogue, dtype=jnp.float32)


def constant_kernel(fn, x, residual):
    return fn(x, KERNEL, *OPERANDS[:2], residual)


@pytest.mark.parametrize("scaled", [True, False])
def test_values(scaled):
    result = packed(X, KERNEL, *OPERANDS, scaled=scaled)
    np.testing.assert_array_equal(result, fused(X, KERNEL, *OPERANDS))


def test_mapped_activations_keep_the_packed_kernel():
    xs, residuals = integers(3, *X.shape), integers(3, *OPERANDS[2].shape)
    for axes, args in (((0, 0), (xs, residuals)), ((0, None), (xs, OPERANDS[2]))):
        ours, theirs = (
            jax.vmap(functools.partial(constant_kernel, fn), axes) for fn in (packed, fused)
        )
        np.testing.assert_array_equal(ours(*args), theirs(*args))
        assert "packed_conv" in str(jax.make_jaxpr(ours)(*args))
    assert packed_of_none(xs[:0]).shape == (0, *SPEC.output_shape)


def packed_of_none(xs):
    return jax.vmap(lambda x: constant_kernel(packed, x, OPERANDS[2]))(xs)


def test_other_mapped_operands():
    residuals = integers(3, *OPERANDS[2].shape)
    kernel: Any = native.pack_kernel(scaled_kernel(KERNEL, OPERANDS[0]), SPEC)

    def of_residual(residual):
        return constant_kernel(packed, X, residual)

    def of_bias(bias):
        operands = (OPERANDS[0], bias, OPERANDS[2])
        options = {"scaled": True, "dtype": jnp.float32}
        return bind_packed(X, KERNEL, operands, kernel, SPEC, EPILOGUE, **options)

    expected = jax.vmap(lambda r: constant_kernel(fused, X, r))(residuals)
    np.testing.assert_array_equal(jax.vmap(of_residual)(residuals), expected)
    biases = integers(3, 4)
    expected = jax.vmap(lambda b: fused(X, KERNEL, OPERANDS[0], b, OPERANDS[2]))(biases)
    np.testing.assert_array_equal(jax.vmap(of_bias)(biases), expected)


def test_derivatives_of_both_modes():
    directions = integers(7, *X.shape)[0], integers(6, *OPERANDS[2].shape)[0]
    for apply in (
        lambda fn: jax.jvp(functools.partial(constant_kernel, fn), (X, OPERANDS[2]), directions),
        lambda fn: jax.grad(lambda x: jnp.sum(constant_kernel(fn, x, OPERANDS[2]) ** 2))(X),
    ):
        for a, b in zip(jax.tree.leaves(apply(packed)), jax.tree.leaves(apply(fused)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_linear_transpose():
    g = integers(*SPEC.output_shape)
    results = [
        jax.linear_transpose(lambda x, fn=fn: fn(x, KERNEL, epilogue=NO_EPILOGUE), X)(g)[0]
        for fn in (packed, fused)
    ]
    np.testing.assert_array_equal(*results)


def test_checkify_reports_nan():
    def convolved(x):
        return packed(x, KERNEL, epilogue=NO_EPILOGUE)

    error, _ = checkify.checkify(convolved, errors=checkify.nan_checks)(X.at[0, 0, 0].set(np.nan))
    assert "packed_conv" in (error.get() or "")


def test_wrong_operands():
    with pytest.raises(ValueError, match="a vector of bytes, but got"):
        bind_packed(X, KERNEL, (), KERNEL, SPEC, NO_EPILOGUE, scaled=False, dtype=jnp.float32)
