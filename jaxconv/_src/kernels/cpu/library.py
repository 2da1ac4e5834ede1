"""Loads the compiled CPU engine (``csrc/``) and registers its handlers with XLA.

This happens when the module is imported, so that a process that only imports jaxconv can run the
executables that another one has serialized. It takes less than a millisecond and starts no thread.
"""

from __future__ import annotations

import ctypes
import functools
import pathlib
import sys

import jax

from ...geometry.spec import Operator

FILE = "_native.so"
REASON_FILE = "_native_missing.txt"  # installed instead, with the reason
TARGETS = {operator: f"jaxconv_{operator.value}" for operator in Operator}  # XLA's custom calls
FUSED_TARGET = "jaxconv_fused_conv"
PACK_TARGET = "jaxconv_pack_kernel"
CAUSAL_TARGET = "jaxconv_causal_conv"


def load() -> ctypes.CDLL:
    """The library; RuntimeError if it is unavailable."""
    library = _load()
    if isinstance(library, str):
        raise RuntimeError(library)
    return library


def unavailable_reason() -> str | None:
    """Why the CPU engine is unavailable, or None if it can be used."""
    library = _load()
    return library if isinstance(library, str) else None


def has(target: str) -> bool:
    """Whether the library has this handler: one that was built from older sources may not."""
    return hasattr(load(), target)


def find() -> pathlib.Path | None:
    """The library's path."""
    return _installed(FILE)


def _installed(file: str) -> pathlib.Path | None:
    """What the build installed. An editable install keeps it apart from the sources."""
    package = sys.modules[__name__.rpartition(".")[0]]
    for directory in package.__path__:
        path = pathlib.Path(directory) / file
        if path.exists():
            return path
    return None


def _missing_reason() -> str:
    reason = _installed(REASON_FILE)
    why = reason.read_text() if reason else "jaxconv was not installed, or without its build"
    return f"the CPU engine was not built: {why}; to build it, reinstall jaxconv from source"


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library, or the reason why it is unavailable."""
    path = find()
    if path is None:
        return _missing_reason()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f"the CPU engine could not be loaded: {error}"
    library.jaxconv_instruction_set.restype = ctypes.c_char_p
    library.jaxconv_inject_threads.argtypes = [ctypes.c_int64]
    library.jaxconv_inject_threads.restype = None
    library.jaxconv_packed_bytes.restype = ctypes.c_int64
    return library


def _register() -> None:
    """Registers the handlers with XLA, if there is a library."""
    if unavailable_reason() is not None:
        return
    for target in (*TARGETS.values(), FUSED_TARGET, PACK_TARGET, CAUSAL_TARGET):
        if not has(target):
            continue
        handler = jax.ffi.pycapsule(getattr(load(), target))
        jax.ffi.register_ffi_target(target, handler, platform="cpu")


_register()
