"""The operators and the fused convolution on the CPU engine: bindings of the C++ code in ``csrc/``.

The engine runs on XLA's own threads. Results are bit-identical for any number of them.
"""

from __future__ import annotations

import ctypes
import functools

import jax.numpy as jnp
import numpy as np

from ...geometry.epilogue import ACTIVATIONS, Epilogue
from ...geometry.spec import ConvSpec, Operator
from . import library
from .engine_call import engine_call

ELEMENTS = ("float32", "float64", "bfloat16", "float16")  # in the order of csrc/geometry.h
OPERATORS = (Operator.CONV, Operator.INPUT_GRAD, Operator.FILTER_GRAD)  # likewise


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    return _call(Operator.CONV, x, kernel, spec, dtype)


def input_grad(g, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    return _call(Operator.INPUT_GRAD, g, kernel, spec, dtype)


def filter_grad(x, g, spec: ConvSpec, *, precision=None, dtype=None):
    return _call(Operator.FILTER_GRAD, x, g, spec, dtype)


def fused_conv(
    x,
    kernel,
    operands,
    spec: ConvSpec,
    epilogue: Epilogue,
    *,
    precision=None,
    dtype=None,
    packed: bool = False,
):
    """``activation(conv(x, kernel) * scale + bias + residual)`` in one call.

    ``operands`` are the arrays that ``epilogue.operands`` names. The epilogue is computed in the
    dtype of the sums: float32 for 16-bit types, whose results are rounded once. If ``packed``,
    ``kernel`` is a result of ``pack_kernel`` in the widest dtype of the other arrays and ``dtype``.
    """
    dtype, computed = _dtypes((x, *operands) if packed else (x, kernel, *operands), dtype)
    _check_supported(Operator.CONV, spec, computed)
    result = engine_call(
        library.FUSED_TARGET,
        spec,
        spec.output_shape,
        computed,
        x.astype(computed),
        kernel if packed else kernel.astype(computed),
        *(array.astype(computed) for array in operands),
        **_attributes(spec),
        **{f"has_{name}": name in epilogue.operands for name in ("scale", "bias", "residual")},
        activation=np.int64(activation_index(epilogue)),
        negative_slope=np.float64(epilogue.negative_slope),
        packed_shape=spec.kernel_shape if packed else (),
    )
    return result.astype(dtype)


def packed_size(spec: ConvSpec, dtype) -> int | None:
    """The bytes of the packed kernel, or None if the engine reads the kernel of ``spec`` in place.

    Depthwise kernels are read in place.
    """
    _check_supported(Operator.CONV, spec, dtype)
    values = np.array(sizes(spec), np.int64)
    size = library.load().jaxconv_packed_bytes(
        ctypes.c_int64(ELEMENTS.index(jnp.dtype(dtype).name)),
        ctypes.c_int64(spec.rank),
        values.ctypes.data_as(ctypes.c_void_p),
    )
    return size or None


def pack_kernel(kernel, spec: ConvSpec, dtype=None):
    """The kernel as ``fused_conv(..., packed=True)`` reads it, in bytes, or None (``packed_size``).

    It serves every batch and image size. It depends on ``dtype`` (by default the kernel's) and on
    the instruction set in use: a call with another one raises an error.
    """
    dtype = jnp.dtype(kernel.dtype if dtype is None else dtype)
    size = packed_size(spec, dtype)
    if size is None:
        return None
    return engine_call(
        library.PACK_TARGET,
        spec,
        (size,),
        np.uint8,
        kernel.astype(dtype),
        groups=np.int64(spec.groups),
    )


def unsupported_reason(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    """Why the engine does not support ``operator`` of ``spec`` in ``dtype``, or None if it does."""
    name = jnp.dtype(dtype).name
    if name not in ELEMENTS:
        return f"the CPU engine supports {', '.join(ELEMENTS)}, not {name}"
    if not all(isinstance(size, int) for size in sizes(spec)):
        return "the CPU engine needs sizes known at compile time, but some are symbolic"
    return library.unavailable_reason() or _unsupported_sizes(operator, spec, name)


def inject_threads(count: int) -> None:
    """Runs later calls on ``count`` threads of the engine's own; 0 returns to XLA's threads."""
    library.load().jaxconv_inject_threads(count)


def instruction_set() -> str:
    """The instruction set in use: ``"avx512"``, ``"avx2"`` or ``"baseline"``."""
    return library.load().jaxconv_instruction_set().decode()


def use_instruction_set(name: str) -> None:
    """Uses ``name`` instead of the best instruction set of this machine, for tests."""
    if not library.load().jaxconv_use_instruction_set(name.encode()):
        raise ValueError(f"this machine or this build of the CPU engine does not support {name!r}")


def sizes(spec: ConvSpec) -> tuple:
    """The integers that ``request_of`` in ``csrc/ffi/c_functions.cc`` reads."""
    return (
        spec.batch,
        spec.in_features,
        spec.out_features,
        spec.groups,
        *spec.input_spatial,
        *spec.output_spatial,
        *spec.kernel_spatial,
        *spec.strides,
        *spec.dilation,
        *(side for pair in spec.padding for side in pair),
    )


def activation_index(epilogue: Epilogue) -> int:
    """The number of its activation in ``csrc/epilogue.h``."""
    return 0 if epilogue.activation is None else 1 + ACTIVATIONS.index(epilogue.activation)


def _call(operator: Operator, a, b, spec: ConvSpec, dtype):
    dtype, computed = _dtypes((a, b), dtype)
    _check_supported(operator, spec, computed)
    target, shape = library.TARGETS[operator], spec.result_shape(operator)
    operands = a.astype(computed), b.astype(computed)
    return engine_call(target, spec, shape, computed, *operands, **_attributes(spec)).astype(dtype)


def _dtypes(arrays, dtype) -> tuple[np.dtype, np.dtype]:
    """The dtypes of the result and of the call: the widest, so that nothing is rounded to less."""
    common = functools.reduce(jnp.promote_types, (array.dtype for array in arrays))
    dtype = jnp.dtype(common if dtype is None else dtype)
    return dtype, jnp.promote_types(common, dtype)


def _check_supported(operator: Operator, spec: ConvSpec, dtype) -> None:
    reason = unsupported_reason(operator, spec, dtype)
    if reason is not None:
        raise ValueError(reason)


def _attributes(spec: ConvSpec) -> dict:
    return {
        "strides": spec.strides,
        "padding": tuple(side for pair in spec.padding for side in pair),
        "dilation": spec.dilation,
        "groups": np.int64(spec.groups),
    }


@functools.lru_cache(maxsize=4096)
def _unsupported_sizes(operator: Operator, spec: ConvSpec, dtype: str) -> str | None:
    values = np.array(sizes(spec), np.int64)
    message = ctypes.create_string_buffer(512)
    unsupported = library.load().jaxconv_unsupported_reason(
        ctypes.c_int64(OPERATORS.index(operator)),
        ctypes.c_int64(ELEMENTS.index(dtype)),
        ctypes.c_int64(spec.rank),
        values.ctypes.data_as(ctypes.c_void_p),
        message,
        ctypes.c_int64(len(message)),
    )
    return message.value.decode() if unsupported else None
