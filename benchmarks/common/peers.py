"""The peers of a benchmark: lax, PyTorch, and jaxconv by dispatch or by a named implementation.

A peer is made for one operator and its operands. It is a call that returns once its result is
there, and a function that makes a NumPy array of that result.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv._src.dispatch.registry import check_name
from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.kernels.xla import lax as reference
from jaxconv._src.primitives import rules

Peer = tuple[Callable[[], Any], Callable[[Any], np.ndarray]]


def operands(operator: Operator, spec: ConvSpec, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random float32 operands, scaled so that results are of order 1."""
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal(shape) for shape in spec.operand_shapes(operator))
    terms = spec.macs / np.prod(spec.result_shape(operator))
    return a.astype(np.float32), (b / np.sqrt(terms)).astype(np.float32)


def compiled(fn: Callable, *operands) -> Any:
    """The compiled program; ``operands`` are arrays, or their shapes and dtypes."""
    return jax.jit(fn).lower(*operands).compile()


def _jitted(fn: Callable, a: np.ndarray, b: np.ndarray) -> Peer:
    a, b = jax.device_put(a), jax.device_put(b)
    program = compiled(fn, a, b)
    return (lambda: jax.block_until_ready(program(a, b))), np.asarray


def lax(operator: Operator, spec: ConvSpec, a: np.ndarray, b: np.ndarray) -> Peer:
    """``lax.conv_general_dilated`` and its transposes, as jax itself differentiates it."""
    compute = getattr(reference, operator.value)
    return _jitted(lambda a, b: compute(a, b, spec), a, b)


def jaxconv(
    operator: Operator, spec: ConvSpec, a: np.ndarray, b: np.ndarray, implementation=None
) -> Peer:
    """jaxconv's primitive, with the implementation that dispatch chooses or a named one."""
    return _jitted(primitive(operator, spec, jnp.float32, implementation), a, b)


def primitive(operator: Operator, spec: ConvSpec, dtype, implementation=None) -> Callable:
    """jaxconv's primitive as a function of its two operands."""

    def fn(a, b):
        return rules.bind(operator, a, b, spec, dtype=dtype, implementation=implementation)

    return fn


def torch(
    operator: Operator, spec: ConvSpec, a: np.ndarray, b: np.ndarray, device="cpu", dtype="float32"
) -> Peer:
    """PyTorch's convolution on channels-last memory, and ATen's own backward pass."""
    import torch as framework

    first, second = (
        _to_torch(framework, array, role, spec.rank).to(device, getattr(framework, dtype))
        for array, role in zip((a, b), rules.ROLES[operator], strict=True)
    )
    call = _torch_call(framework, operator, spec, first, second)
    result_role = rules.RESULT[operator]

    def run():
        with framework.no_grad():
            return call()

    return run, lambda result: _from_torch(result, result_role)


def _torch_call(framework, operator: Operator, spec: ConvSpec, first, second) -> Callable:
    functional = framework.nn.functional
    symmetric = all(low == high for low, high in spec.padding)
    widths = [width for pair in reversed(spec.padding) for width in pair]
    padding = [low for low, _ in spec.padding] if symmetric else [0] * spec.rank
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[spec.rank - 1]

    def padded(x):
        return x if symmetric else functional.pad(x, widths)

    def backward(g, x, kernel, mask):
        return framework.ops.aten.convolution_backward(
            g,
            padded(x),
            kernel,
            None,
            list(spec.strides),
            padding,
            list(spec.dilation),
            False,
            [0] * spec.rank,
            spec.groups,
            mask,
        )

    if operator is Operator.CONV:
        return lambda: convolve(
            padded(first), second, None, spec.strides, padding, spec.dilation, spec.groups
        )
    if operator is Operator.INPUT_GRAD:
        x = _to_torch(framework, np.zeros(spec.input_shape, np.float32), "x", spec.rank).to(first)
        crop = [slice(None), slice(None)]
        if not symmetric:
            extents = zip(spec.padding, spec.input_spatial, strict=True)
            crop += [slice(low, low + n) for (low, _), n in extents]
        return lambda: backward(first, x, second, [True, False, False])[0][tuple(crop)]
    kernel = _to_torch(framework, np.zeros(spec.kernel_shape, np.float32), "k", spec.rank).to(first)
    return lambda: backward(second, first, kernel, [False, True, False])[1]


def _to_torch(framework, array: np.ndarray, role: str, rank: int):
    """In PyTorch's order of axes, and in its channels-last memory format if the rank has one."""
    spatial = range(rank) if role == "k" else range(1, rank + 1)
    order = (rank + 1, rank, *spatial) if role == "k" else (0, rank + 1, *spatial)
    tensor = framework.from_numpy(np.ascontiguousarray(array.transpose(order)))
    formats = {2: framework.channels_last, 3: framework.channels_last_3d}
    return tensor.contiguous(memory_format=formats[rank]) if rank in formats else tensor


def _from_torch(tensor, role: str) -> np.ndarray:
    array = tensor.float().cpu().numpy()
    spatial = range(2, array.ndim)
    return array.transpose((*spatial, 1, 0) if role == "k" else (0, *spatial, 1))


def available(implementations: list[str]) -> dict[str, Callable[..., Peer]]:
    """lax, torch (if installed, on the CPU), jaxconv, and jaxconv with forced implementations."""
    peers: dict[str, Callable[..., Peer]] = {"lax": lax}
    if jax.default_backend() == "cpu" and importlib.util.find_spec("torch") is not None:
        peers["torch"] = torch
    peers["jaxconv"] = jaxconv
    for name in implementations:
        check_name(name)

        def forced(operator, spec, a, b, name=name):
            return jaxconv(operator, spec, a, b, name)

        peers[f"jaxconv:{name}"] = forced
    return peers
