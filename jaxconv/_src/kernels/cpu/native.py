"""The three operators by the CPU engine: bindings of the C++ in ``csrc/``.

The library is loaded and its handlers registered at the first use; importing this module does
neither, and starts no thread. The engine runs on XLA's own threads, and its results are the same
bit for bit for any number of them.
"""

from __future__ import annotations

import ctypes
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from ...geometry.spec import ConvSpec, Operator

LIBRARY = "_native.so"
ELEMENTS = ("float32", "float64", "bfloat16", "float16")  # as csrc/geometry.h numbers them
OPERATORS = (Operator.CONV, Operator.INPUT_GRAD, Operator.FILTER_GRAD)  # likewise


def conv(x, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    return _call(Operator.CONV, x, kernel, spec, dtype)


def input_grad(g, kernel, spec: ConvSpec, *, precision=None, dtype=None):
    return _call(Operator.INPUT_GRAD, g, kernel, spec, dtype)


def filter_grad(x, g, spec: ConvSpec, *, precision=None, dtype=None):
    return _call(Operator.FILTER_GRAD, x, g, spec, dtype)


def unsupported_reason(operator: Operator, spec: ConvSpec, dtype) -> str | None:
    """Why the engine cannot compute ``operator`` of ``spec`` in ``dtype``, or None if it can."""
    name = jnp.dtype(dtype).name
    if name not in ELEMENTS:
        return f"the CPU engine computes {', '.join(ELEMENTS)}, not {name}"
    if not all(isinstance(size, int) for size in _sizes(spec)):
        return "the CPU engine needs sizes known at compile time, but some are symbolic"
    library = _library()
    if isinstance(library, str):
        return library
    return _engine_unsupported_reason(operator, spec, name)


def missing() -> str | None:
    """Why there is no engine here, or None if there is."""
    library = _library()
    return library if isinstance(library, str) else None


def inject_threads(count: int) -> None:
    """Runs later calls on ``count`` threads of the engine's own; 0 goes back to XLA's."""
    _loaded().jaxconv_inject_threads(count)


def instruction_set() -> str:
    """The instruction set in use: ``"avx512"``, ``"avx2"`` or ``"baseline"``."""
    return _loaded().jaxconv_instruction_set().decode()


def use_instruction_set(name: str) -> None:
    """Uses another instruction set than the best one, for tests."""
    if not _loaded().jaxconv_use_instruction_set(name.encode()):
        raise ValueError(f"this machine or this build of the CPU engine has no {name!r}")


def _call(operator: Operator, a, b, spec: ConvSpec, dtype):
    """One FFI call, in the widest of the dtypes: float32 results of bfloat16 are never rounded."""
    common = jnp.promote_types(a.dtype, b.dtype)
    dtype = jnp.dtype(common if dtype is None else dtype)
    computed = jnp.promote_types(common, dtype)
    reason = unsupported_reason(operator, spec, computed)
    if reason is not None:
        raise ValueError(reason)
    call = jax.ffi.ffi_call(
        _target(operator), jax.ShapeDtypeStruct(spec.result_shape(operator), computed)
    )
    result = call(
        a.astype(computed),
        b.astype(computed),
        strides=np.array(spec.strides, np.int64),
        padding=np.array(spec.padding, np.int64).reshape(-1),
        dilation=np.array(spec.dilation, np.int64),
        groups=np.int64(spec.groups),
    )
    return result.astype(dtype)


def _target(operator: Operator) -> str:
    return f"jaxconv_{operator.value}"


def _sizes(spec: ConvSpec) -> tuple:
    """The integers that csrc/native.cc's ``request_of`` reads."""
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


@functools.lru_cache(maxsize=4096)
def _engine_unsupported_reason(operator: Operator, spec: ConvSpec, dtype: str) -> str | None:
    sizes = np.array(_sizes(spec), np.int64)
    words = ctypes.create_string_buffer(512)
    refused = _loaded().jaxconv_refusal(
        ctypes.c_int64(OPERATORS.index(operator)),
        ctypes.c_int64(ELEMENTS.index(dtype)),
        ctypes.c_int64(spec.rank),
        sizes.ctypes.data_as(ctypes.c_void_p),
        words,
        ctypes.c_int64(len(words)),
    )
    return words.value.decode() if refused else None


def _loaded() -> ctypes.CDLL:
    library = _library()
    if isinstance(library, str):
        raise RuntimeError(library)
    return library


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The library with its handlers registered, or a sentence that says why there is none."""
    path = _library_path()
    if path is None:
        return (
            "the CPU engine was not built: no C++ compiler was found when jaxconv was installed; "
            "install one and reinstall jaxconv from source"
        )
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f"the CPU engine could not be loaded: {error}"
    library.jaxconv_instruction_set.restype = ctypes.c_char_p
    library.jaxconv_inject_threads.argtypes = [ctypes.c_int64]
    library.jaxconv_inject_threads.restype = None
    for operator in OPERATORS:
        handler = jax.ffi.pycapsule(getattr(library, _target(operator)))
        jax.ffi.register_ffi_target(_target(operator), handler, platform="cpu")
    return library


def _library_path() -> pathlib.Path | None:
    """Where the library is: an editable install keeps it apart from the sources."""
    package = sys.modules[__name__.rpartition(".")[0]]
    for directory in package.__path__:
        path = pathlib.Path(directory) / LIBRARY
        if path.exists():
            return path
    return None
