"""Checks of arrays and dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .call import AXES, Call, shown

Array = jax.Array


def arrays(
    function: str, /, axes: Mapping[str, str] = AXES, *, bias: Any = None, **values: Any
) -> tuple[Call, list[Array], Array | None]:
    """The call, and its arrays as jax arrays of one floating or complex dtype.

    The bias, which may be None, is returned by itself.
    """
    if bias is not None:
        values["bias"] = bias
    converted = {name: array(function, name, value) for name, value in values.items()}
    call = Call(function, axes, **{name: value.shape for name, value in converted.items()})
    _check_dtypes(call, {name: value.dtype for name, value in converted.items()})
    bias = converted.pop("bias", None)
    return call, list(converted.values()), bias


def array(function: str, name: str, value: Any) -> Array:
    """The value as a jax array of any dtype."""
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{function}: {name} must be an array without a mask, but got a masked array; replace "
            f"the masked entries with {name}.filled(0)"
        )
    if isinstance(value, np.ndarray | np.generic):
        try:
            return jnp.asarray(value)
        except TypeError:
            raise TypeError(
                f"{function}: {name} must be of a floating or complex dtype that jax supports, "
                f"but its dtype is {value.dtype}; cast it with {name}.astype(np.float32)"
            ) from None
    if hasattr(value, "__jax_array__"):
        return _converted(function, name, value)
    raise TypeError(
        f"{function}: {name} must be an array (jax.Array or numpy.ndarray), but got "
        f"{type(value).__module__}.{type(value).__qualname__}; convert it with jnp.asarray"
    )


def _converted(function: str, name: str, value: Any) -> Array:
    """An object of another library, which converts itself."""
    try:
        return jnp.asarray(value)
    except Exception as error:  # whatever its conversion raises
        raise TypeError(
            f"{function}: {name}.__jax_array__() must return an array, but calling it failed with "
            f"{type(error).__name__}: {error}"
        ) from error


def _check_dtypes(call: Call, dtypes: dict[str, Any]) -> None:
    """One floating or complex dtype for all arrays."""
    distinct = set(dtypes.values())
    not_inexact = {dtype for dtype in distinct if not jnp.issubdtype(dtype, jnp.inexact)}
    if not_inexact:
        name = next(name for name, dtype in dtypes.items() if dtype in not_inexact)
        raise call.error(
            f"{name} must be floating or complex, but its dtype is {dtypes[name]}; "
            f"cast it with {name}.astype(jnp.float32)",
            TypeError,
        )
    if len(distinct) > 1:
        got = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        first = next(iter(dtypes))
        raise call.error(
            f"all arrays must have one dtype, but got {got}; cast them with "
            f".astype({first}.dtype), or request a wider result with preferred_element_type",
            TypeError,
        )


def result_dtype(call: Call, dtype: Any, preferred: Any) -> Any:
    """The dtype of the result: ``preferred`` under lax's rules, or the operands' own."""
    if preferred is None:
        return dtype
    result = dtype_of(call, "preferred_element_type", preferred)
    kind = jnp.complexfloating if jnp.issubdtype(dtype, jnp.complexfloating) else jnp.floating
    if not jnp.issubdtype(result, kind):
        raise call.error(
            f"preferred_element_type must be {'floating' if kind is jnp.floating else 'complex'}, "
            f"like the operands' {dtype}, but got {result}",
            TypeError,
        )
    if result.itemsize < np.dtype(dtype).itemsize:
        raise call.error(
            f"preferred_element_type must not be narrower than the operands' "
            f"{dtype}, but got {result}; cast the result instead",
            TypeError,
        )
    return result


def dtype_of(call: Call, name: str, value: Any) -> Any:
    """A dtype in jax's canonical form: 32 bits wide unless 64-bit types are enabled."""
    try:
        return jax.dtypes.canonicalize_dtype(value)
    except Exception:  # TypeError, ValueError or what the conversion of an object raises
        raise call.error(f"{name} must be a dtype, but got {shown(value)}", TypeError) from None


def inexact(call: Call, name: str, value: Any) -> Any:
    """A floating or complex dtype."""
    dtype = dtype_of(call, name, value)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise call.error(f"{name} must be floating or complex, but got {dtype}", TypeError)
    return dtype


def precision_of(function: str, precision: Any) -> Any:
    """``precision`` as lax takes it: None, one ``lax.Precision`` or a pair of them."""
    if precision is None:
        return None
    pair = isinstance(precision, tuple | list) and len(precision) == 2
    entries = tuple(precision) if pair else (precision,)
    try:
        # The enumeration itself also accepts None and the numbers of its members.
        if not all(isinstance(entry, str | jax.lax.Precision) for entry in entries):
            raise ValueError
        members = tuple(map(jax.lax.Precision, entries))
        return members if pair else members[0]
    except ValueError:
        raise ValueError(
            f"{function}: precision must be None, a jax.lax.Precision, its name "
            f'("default", "high", "highest") or a pair of these, but got {shown(precision)}'
        ) from None
