"""Arrays of more than 2**31 elements: indices have 64 bits. Little of the memory is touched."""

from __future__ import annotations

import math
import mmap
import sys

import ml_dtypes
import numpy as np
import pytest

from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.kernels.cpu import library
from support.engine import close, operands, oracle, run_engine

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None or sys.platform != "linux",
    reason="the CPU engine is not built, or memory cannot be reserved here",
)

STRIDE = 2**28 + 1
MAP_NORESERVE = 0x4000  # on Linux; mmap.MAP_NORESERVE since Python 3.13


def sparse(shape) -> np.ndarray:
    """Zeros that use memory only where they are written."""
    size = math.prod(shape) * np.dtype(ml_dtypes.bfloat16).itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    return np.frombuffer(memory, ml_dtypes.bfloat16).reshape(shape)


def run(operator: Operator, spec: ConvSpec, a, b) -> np.ndarray:
    result = np.empty(spec.result_shape(operator), ml_dtypes.bfloat16)
    run_engine(operator, spec, "bfloat16", a, b, result)
    return result


@pytest.mark.parametrize("groups", [1, 3], ids=["dense", "depthwise"])
@pytest.mark.parametrize("operator", [Operator.CONV, Operator.FILTER_GRAD])
def test_inputs_with_more_than_32_bit_indices(operator, groups):
    """Eight strides of 2**28 pixels of 3 features: 2**32.6 elements; 20 pixels are read."""
    small = ConvSpec(1, 3, 6, (30,), (2,), (4,), ((0, 0),), (1,), groups)
    large = small.replace(input_spatial=(7 * STRIDE + 2,), strides=(STRIDE,))
    assert math.prod(large.input_shape) > 2**32
    a, b = operands(operator, small, "bfloat16")
    x = sparse(large.input_shape)
    for window in range(large.output_spatial[0]):
        x[:, window * STRIDE : window * STRIDE + 2] = a[:, 4 * window : 4 * window + 2]
    assert large.result_shape(operator) == small.result_shape(operator)
    result = run(operator, large, x, b)
    assert close(operator, small, result, oracle(operator, small, a, b), "bfloat16")


@pytest.mark.parametrize("groups", [1, 3], ids=["dense", "depthwise"])
def test_cotangents_with_more_than_32_bit_indices(groups):
    """Padding of almost 2**31 before and after; the few outputs that read an input lie between."""
    far, near = 2**31 - 2, 4
    small = ConvSpec(1, 3, 6, (9,), (3,), (1,), ((near, near),), (1,), groups)
    large = small.replace(padding=((far, near),))
    assert (far - near) * large.out_features > 2**33
    a, kernel = operands(Operator.INPUT_GRAD, small, "bfloat16")
    g = sparse(large.output_shape)
    g[:, far - near :] = a
    result = run(Operator.INPUT_GRAD, large, g, kernel)
    expected = oracle(Operator.INPUT_GRAD, small, a, kernel)
    assert close(Operator.INPUT_GRAD, small, result, expected, "bfloat16")
