"""Kernels packed once for the CPU engine: the same results, and errors where they do not fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv._src.geometry.epilogue import Epilogue
from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.kernels.cpu import native
from support.engine import (
    DTYPES,
    bare_fused,
    bare_packed,
    epilogue_operands,
    instruction_sets,
    operands,
    using_instruction_set,
)
from support.marks import needs_engine

pytestmark = [
    pytest.mark.sample(4),
    pytest.mark.lenient,
    needs_engine,
]

SPECS = {
    "dense": ConvSpec(2, 40, 72, (6, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "1x1": ConvSpec(1, 200, 330, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "few channels": ConvSpec(1, 3, 33, (9, 8), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "few features": ConvSpec(1, 64, 3, (6, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "grouped": ConvSpec(2, 39, 57, (9,), (3,), (2,), ((5, 4),), (1,), 3),
    "narrow groups": ConvSpec(1, 32, 32, (4, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 8),
    # More panels than the workspace of one call holds.
    "large": ConvSpec(1, 520, 700, (4, 3), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
}
EPILOGUE = Epilogue(bias=True, activation="relu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECS)
def test_results_are_bit_identical_to_those_of_the_kernel(instruction_set, name, dtype):
    spec = SPECS[name]
    x, kernel = operands(Operator.CONV, spec, dtype)
    packed = bare_packed(spec, dtype, kernel)
    for epilogue in (Epilogue(), EPILOGUE, Epilogue(scale=True, residual=True, activation="silu")):
        values = epilogue_operands(spec, epilogue, dtype)
        for threads in (1, 3):
            expected = bare_fused(spec, epilogue, dtype, x, kernel, values, threads)
            result = bare_fused(spec, epilogue, dtype, x, packed, values, threads)
            assert result.tobytes() == expected.tobytes(), (epilogue, threads)


def test_panels_do_not_depend_on_the_number_of_threads():
    for name in ("large", "grouped"):
        kernel = operands(Operator.CONV, SPECS[name], "float32")[1]
        results = {bare_packed(SPECS[name], "float32", kernel, n).tobytes() for n in (1, 2, 5)}
        assert len(results) == 1


def test_one_packed_kernel_serves_every_batch_and_image_size():
    spec = SPECS["dense"]
    kernel = operands(Operator.CONV, spec, "float32")[1]
    packed = bare_packed(spec, "float32", kernel)
    for changes in ({"batch": 5}, {"input_spatial": (30, 31)}, {"strides": (2, 1)}):
        other = spec.replace(**changes)
        x = operands(Operator.CONV, other, "float32")[0]
        result = bare_fused(other, Epilogue(), "float32", x, packed, ())
        assert np.array_equal(result, bare_fused(other, Epilogue(), "float32", x, kernel, ()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_through_jax(dtype):
    spec = SPECS["1x1"]
    x, kernel = map(jnp.asarray, operands(Operator.CONV, spec, dtype))
    bias = jnp.asarray(epilogue_operands(spec, EPILOGUE, dtype)[0])
    packed = native.pack_kernel(kernel, spec)
    assert packed.shape == (native.packed_size(spec, dtype),)
    assert packed.dtype == jnp.uint8
    call = jax.jit(lambda x, k, b: native.fused_conv(x, k, (b,), spec, EPILOGUE, packed=True))
    expected = native.fused_conv(x, kernel, (bias,), spec, EPILOGUE)
    assert np.asarray(call(x, packed, bias)).tobytes() == np.asarray(expected).tobytes()


def test_a_kernel_packed_in_a_wider_dtype():
    spec = SPECS["1x1"]
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in operands(Operator.CONV, spec, "float32"))
    packed = native.pack_kernel(kernel, spec, jnp.float32)
    result = native.fused_conv(x, packed, (), spec, Epilogue(), dtype=jnp.float32, packed=True)
    expected = native.conv(x, kernel, spec, dtype=jnp.float32)
    assert np.array_equal(result, expected)


def test_depthwise_kernels_are_not_packed():
    spec = ConvSpec(1, 8, 16, (9,), (3,), (1,), ((1, 1),), (1,), 8)
    kernel = jnp.ones(spec.kernel_shape)
    assert native.packed_size(spec, jnp.float32) is None
    assert native.pack_kernel(kernel, spec) is None
    with pytest.raises(Exception, match="read in place"):
        call(spec, jnp.zeros(64, jnp.uint8))


def call(spec: ConvSpec, packed, dtype=jnp.float32) -> None:
    x = jnp.ones(spec.input_shape, dtype)
    native.fused_conv(x, packed, (), spec, Epilogue(), packed=True).block_until_ready()


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel_spatial": (2, 3)},
        {"kernel_spatial": (9, 1), "input_spatial": (12, 5)},
        {"in_features": 41},
        {"out_features": 73},
        {"groups": 2, "in_features": 80},
    ],
)
def test_a_kernel_packed_for_another_convolution(changes):
    spec = SPECS["dense"]
    packed = native.pack_kernel(jnp.ones(spec.kernel_shape), spec)
    call(spec, packed)
    with pytest.raises(Exception, match=r"packed for shape .* but the convolution has"):
        call(spec.replace(**changes), packed)


def test_a_kernel_packed_for_another_dtype():
    spec = SPECS["dense"]
    packed = native.pack_kernel(jnp.ones(spec.kernel_shape), spec)
    with pytest.raises(
        Exception, match="packed for float32, but the convolution computes bfloat16"
    ):
        call(spec, packed, jnp.bfloat16)


def test_a_kernel_packed_for_another_instruction_set():
    spec = SPECS["dense"]
    first, *others = instruction_sets()
    packed = native.pack_kernel(jnp.ones(spec.kernel_shape), spec)
    for name in others:
        with (
            using_instruction_set(name),
            pytest.raises(Exception, match=f"instruction set {first}, but {name} is in use"),
        ):
            call(spec, packed)
    call(spec, packed)


def test_bytes_that_are_no_packed_kernel():
    spec = SPECS["dense"]
    packed = native.pack_kernel(jnp.ones(spec.kernel_shape), spec)
    for wrong in (packed[:10], packed.at[0].set(0), jnp.zeros_like(packed), packed[:0]):
        with pytest.raises(Exception, match="not packed by this version"):
            call(spec, wrong)
    for wrong in (packed[:-1], jnp.append(packed, packed[:1])):
        with pytest.raises(Exception, match="packed for shape"):
            call(spec, wrong)
    with pytest.raises(Exception, match="element type"):
        call(spec, jnp.zeros(64, jnp.int8))
