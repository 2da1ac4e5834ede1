"""About 150 values that do not belong where they are put, each under a name that reproduces it."""

from __future__ import annotations

import array
import collections
import decimal
import fractions
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np


class Raises:
    """Every conversion of it raises an error that no caller expects."""

    def _raise(self, *_: Any) -> Any:
        raise ZeroDivisionError("from the object")

    __index__ = __int__ = __float__ = __bool__ = __len__ = __iter__ = __repr__ = __str__ = _raise
    __array__ = __jax_array__ = __getitem__ = __hash__ = _raise  # pyright: ignore


class Index:
    """An int to Python, and nothing else."""

    def __init__(self, value: int):
        self.value = value

    def __index__(self) -> int:
        return self.value


class JaxArray:
    """An object that jax converts itself."""

    def __init__(self, value: Any):
        self.value = value

    def __jax_array__(self) -> Any:
        return self.value


class Array:
    """An object that NumPy converts itself."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.ones((1, 5, 5, 4), np.float32)


class Shaped:
    """It has the attributes of an array, and is none."""

    shape, dtype, ndim, size = (1, 5, 5, 4), np.dtype("float32"), 4, 100


class Unhashable(list):
    __hash__ = None  # pyright: ignore


def nested(depth: int) -> list[Any]:
    """Not so deep that jax's own pytrees leave Python's count of recursions wrong."""
    value: list[Any] = [1]
    for _ in range(depth):
        value = [value]
    return value


def deleted() -> jax.Array:
    value = jnp.ones((1, 5, 5, 4))
    value.delete()
    return value


SCALARS = (
    *(0, 1, 2, 3, 5, 7, -1, -2, True, False, None, ..., NotImplemented),
    *(2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64, 2**100),
    *(-(2**31), -(2**40), -(2**63), -(2**100)),
    *(0.0, 1.0, 2.0, 1.5, -1.0, 1e300, float("nan"), float("inf"), -float("inf"), 1j),
    *("", "SAME", "same", "VALID", "Circular", "REFLECT", "CAUSAL", "SAMEE", "2"),
    *("é", "\0", "x" * 900),
    *("lax", "native", "pallas", "relu", "float32", "bfloat16", "int8", "highest", "cpu", "time"),
    *(b"SAME", bytearray(b"\1\2"), int, float, object, print, len, np, jnp.float32),
    *(decimal.Decimal(2), fractions.Fraction(2), fractions.Fraction(1, 2)),
    *(np.int32(2), np.int64(-1), np.uint8(2), np.bool_(True), np.float32(2), np.float64("nan")),
    *(np.str_("SAME"), np.datetime64("2020"), np.dtype("float16"), np.complex64(1)),
)
SEQUENCES = (
    *((), [], (1,), (2,), [2], (1, 2), [1, 2], (1, 1, 1), (1, 1, 1, 1), (0, 1), (-1, -1)),
    *(((1, 1), (1, 1)), [(0, 1)], [[1, 2], [3, 4]], [[1, [2]]], ((1, 2, 3),), [[]], ([], [])),
    *(("SAME", "VALID"), ["same"], ("CAUSAL", "SAME"), ("SAME",) * 3, ("a", 1), ("rows", None)),
    *((None, None), (1.0, 1), (True, 1), (2**40, 1), (2**64, 2**64), ((2**63, 0), (0, 0))),
    *({1: 2}, {}, {1, 2}, frozenset((1,)), collections.deque([1, 1]), "ab", {"a": (1, 2)}),
    *(range(0), range(2), range(1, 3)),
    *(array.array("i", [1, 1]), array.array("d", [1.0])),
)
ARRAYS = (
    *(np.array(2), np.array(2.0), np.array([2, 2]), np.array([2.0, 1.0])),
    np.array([[1, 1], [1, 1]]),
    *(np.array([]), np.array(["a"]), np.array([None]), np.array([True, False]), np.array("SAME")),
    *(np.ones(4, np.float32), np.ones((5, 4), np.float32), np.ones((5, 5, 4), np.float32)),
    *(np.ones((1, 5, 5, 4), np.float32), np.ones((3, 3, 4, 4), np.float32)),
    *(np.ones((1,) * 7, np.float32), np.ones((0, 5, 5, 4), np.float32), np.ones((1, 5, 5, 4))),
    *(np.ones((1, 5, 5, 4), np.int32), np.ones((1, 5, 5, 4), np.complex64)),
    *(np.ones((1, 5, 5, 4), np.float16), np.ones((1, 5, 5, 4), ml_dtypes.bfloat16)),
    *(np.ones((1, 5, 5, 4), ml_dtypes.float8_e4m3fn), np.ones((1, 5, 5, 4), ">f4")),
    *(np.ones((1, 5, 5, 4), object), np.ones((1, 5, 5, 4), [("a", "f4")]), np.ones((2, 2), "S3")),
    *(np.ma.ones((1, 5, 5, 4), np.float32), np.ones((4, 5, 5, 1), np.float32).T),
    *(np.broadcast_to(np.float32(1), (1, 5, 5, 4)), np.ones((2, 10, 5, 4), np.float32)[:, ::2]),
)
# Made anew for each call: iterators are used up, and some are arrays of jax.
MADE: dict[str, Callable[[], Any]] = {
    "10**5000": lambda: 10**5000,
    "-10**5000": lambda: -(10**5000),
    "object()": object,
    "Raises()": Raises,
    "Index(2)": lambda: Index(2),
    "Index(2**64)": lambda: Index(2**64),
    "JaxArray(ones)": lambda: JaxArray(jnp.ones((1, 5, 5, 4))),
    "JaxArray(int)": lambda: JaxArray(3),
    "JaxArray(None)": lambda: JaxArray(None),
    "Array()": Array,
    "Shaped()": Shaped,
    "Unhashable": lambda: Unhashable([1, 1]),
    "nested(100)": lambda: nested(100),
    "memoryview of bytes": lambda: memoryview(b"\1\1"),
    "memoryview of floats": lambda: memoryview(np.ones((5, 4), np.float32)),  # pyright: ignore
    "memoryview of a scalar": lambda: memoryview(np.array(2)),  # pyright: ignore
    "iterator": lambda: iter([1, 1]),
    "generator": lambda: (one for one in (1, 1)),
    "zip": lambda: zip((1, 1), (1, 1), strict=True),
    "count()": itertools.count,
    "range(2**40)": lambda: range(2**40),
    "range(2**100)": lambda: range(2**100),
    "jnp.int32(2)": lambda: jnp.int32(2),
    "jnp.float32(2)": lambda: jnp.float32(2),
    "jnp.array(True)": lambda: jnp.array(True),
    "jnp.array([1, 1])": lambda: jnp.array([1, 1]),
    "jnp.ones((2, 2))": lambda: jnp.ones((2, 2)),
    "jnp.ones((1, 5, 5, 4))": lambda: jnp.ones((1, 5, 5, 4)),
    "jnp.ones(())": lambda: jnp.ones(()),
    "key": lambda: jax.random.key(0),
    "keys": lambda: jax.random.split(jax.random.key(0), (1, 5, 5, 4)),
    "ShapeDtypeStruct": lambda: jax.ShapeDtypeStruct((1, 5, 5, 4), jnp.float32),
    "deleted array": deleted,
}

ENDLESS = ("count()", "range(2**40)", "range(2**100)")


def _named(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{type(value).__name__}{value.shape} {value.dtype}"
    text = repr(value)
    return text if len(text) < 60 else f"{text[:50]}… ({type(value).__name__})"


VALUES: dict[str, Callable[[], Any]] = {
    **{
        f"{at}: {_named(value)}": (lambda value=value: value)
        for at, value in enumerate((*SCALARS, *SEQUENCES, *ARRAYS))
    },
    **MADE,
}
