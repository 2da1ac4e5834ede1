"""Argument validation: the one place that words shape and dtype errors.

Every refusal names the function, the relation that failed with its numbers, the likely mend, and
all the arrays with their axes. Shapes and values raise ``ValueError``, dtypes and things that are
not arrays ``TypeError``. Symbolic dimensions pass every test that they do not decide.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .spec import Shape

SPATIAL = {1: ("W",), 2: ("H", "W"), 3: ("D", "H", "W")}


class Call:
    """One call of a public function, for wording: its name and its arrays' shapes."""

    def __init__(self, function: str, **shapes: Shape):
        self.function = function
        self.shapes = shapes

    def refuse(self, sentence: str) -> ValueError:
        arrays = ", ".join(_describe(name, shape) for name, shape in self.shapes.items())
        return ValueError(f"{self.function}: {sentence}. Got {arrays}.")


def _describe(name: str, shape: Shape) -> str:
    letters = _letters(name, len(shape))
    return f"{name} [{', '.join(letters)}] = {tuple(shape)}" if letters else f"{name} {shape}"


def _letters(name: str, ndim: int) -> tuple[str, ...] | None:
    """The names of an array's axes, or None where its rank is none that is known."""
    if name == "bias":
        return ("F",) if ndim == 1 else None
    if name == "state":
        return ("N", "(K-1)*d", "C") if ndim == 3 else None
    if name.endswith("kernel"):
        extents = SPATIAL.get(ndim - 2)
        return extents and (*(f"K{axis}" for axis in extents), "C/G", "F")
    extents = SPATIAL.get(ndim - 2)
    return extents and ("N", *extents, "F" if name == "g" else "C")


# --- arrays and dtypes ----------------------------------------------------------------------------


def arrays(function: str, **values: Any) -> list[Any]:
    """The given values as jax arrays of one floating or complex dtype; None passes."""
    converted = {name: _array(function, name, value) for name, value in values.items()}
    present = {name: value for name, value in converted.items() if value is not None}
    for name, value in present.items():
        _check_inexact(function, name, value.dtype)
    _check_one_dtype(function, {name: value.dtype for name, value in present.items()})
    return list(converted.values())


def _array(function: str, name: str, value: Any) -> Any:
    if isinstance(value, jax.Array):
        return value
    if value is None and name == "bias":
        return None
    if isinstance(value, np.ndarray | np.generic):
        try:
            return jnp.asarray(value)
        except TypeError:
            raise TypeError(
                f"{function}: {name} must be floating or complex, but its dtype is {value.dtype}"
            ) from None
    if hasattr(value, "__jax_array__"):
        return jnp.asarray(value)
    raise TypeError(
        f"{function}: {name} must be an array (jax.Array or numpy.ndarray), but got "
        f"{type(value).__module__}.{type(value).__qualname__}; convert it with jnp.asarray"
    )


def _check_inexact(function: str, name: str, dtype: Any) -> None:
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"{function}: {name} must be floating or complex, but its dtype is {dtype}; "
            f"cast it with {name}.astype(jnp.float32)"
        )


def _check_one_dtype(function: str, dtypes: dict[str, Any]) -> None:
    if len(set(dtypes.values())) > 1:
        given = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        first = next(iter(dtypes))
        raise TypeError(
            f"{function}: all arrays must have one dtype, but got {given}; cast them with "
            f".astype({first}.dtype), and ask for a wider result with preferred_element_type"
        )


def result_dtype(function: str, dtype: Any, preferred: Any) -> Any:
    """The dtype of the result: ``preferred`` under lax's rules, or the operands' own."""
    if preferred is None:
        return dtype
    try:
        wanted = jax.dtypes.canonicalize_dtype(preferred)
    except TypeError:
        raise TypeError(
            f"{function}: preferred_element_type must be a dtype, but got {preferred!r}"
        ) from None
    kinds = (jnp.complexfloating, jnp.floating)
    if not any(jnp.issubdtype(dtype, kind) and jnp.issubdtype(wanted, kind) for kind in kinds):
        raise TypeError(
            f"{function}: preferred_element_type must be of the operands' kind, {dtype}, "
            f"but got {wanted}"
        )
    if wanted.itemsize < np.dtype(dtype).itemsize:
        raise TypeError(
            f"{function}: preferred_element_type must not be narrower than the operands' "
            f"{dtype}, but got {wanted}; cast the result instead"
        )
    return wanted


def precision_of(function: str, precision: Any) -> Any:
    """``precision`` as lax takes it: None, one ``lax.Precision`` or a pair of them."""
    if precision is None:
        return None
    pair = isinstance(precision, tuple | list) and len(precision) == 2
    try:
        if pair:
            return tuple(jax.lax.Precision(entry) for entry in precision)
        return jax.lax.Precision(precision)
    except ValueError:
        raise ValueError(
            f"{function}: precision must be None, a jax.lax.Precision, its name "
            f'("default", "high", "highest") or a pair of these, but got {precision!r}'
        ) from None


# --- static arguments -----------------------------------------------------------------------------


def integer(call: Call, name: str, value: Any, least: int = 1) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        kind = "a positive int" if least == 1 else f"an int of at least {least}"
        raise call.refuse(f"{name} must be {kind}, but got {value!r}")
    return number


def per_axis(call: Call, name: str, value: Any, rank: int, least: int = 1) -> Shape:
    if isinstance(value, str) or not (isinstance(value, Sequence) or np.ndim(value) == 1):
        return (integer(call, name, value, least),) * rank
    if len(value) != rank:
        raise call.refuse(
            f"{name} must be an int or one int a spatial axis, {rank}, but got {len(value)}: "
            f"{tuple(value)}"
        )
    return tuple(integer(call, name, entry, least) for entry in value)


def spatial_rank(call: Call, kernel_ndim: int) -> int:
    if kernel_ndim - 2 not in SPATIAL:
        raise call.refuse(
            f"kernel must be [*K, C/G, F] with 1 to 3 spatial axes, so 3 to 5 axes in all, "
            f"but it has {kernel_ndim}"
        )
    return kernel_ndim - 2


def batched(call: Call, name: str, shape: Shape, rank: int) -> Shape:
    """``shape`` with its batch axis, which a single example may leave out."""
    if len(shape) == rank + 2:
        return shape
    if len(shape) == rank + 1:
        return (1, *shape)
    letters = ", ".join(SPATIAL[rank])
    last = "F" if name == "g" else "C"
    raise call.refuse(
        f"{name} must be [N, {letters}, {last}] or, unbatched, [{letters}, {last}] beside a kernel "
        f"of {rank} spatial axes, but it has {len(shape)} axes"
    )


def group_count(call: Call, groups: Any, out_features: int) -> int:
    groups = integer(call, "groups", groups)
    if known(out_features) and out_features % groups:
        raise call.refuse(
            f"out-features must be a multiple of groups, but F % groups = {out_features} % "
            f"{groups} = {out_features % groups}"
        )
    return groups


def known(*sizes: Any) -> bool:
    return all(isinstance(size, int) for size in sizes)


# --- what single functions add --------------------------------------------------------------------


def bias(function: str, value: Any, out_features: int) -> None:
    if value is None or tuple(value.shape) == (out_features,):
        return
    raise Call(function, bias=value.shape).refuse(
        f"bias must have one value an out-feature, [F] = ({out_features},)"
    )


def depthwise_kernel(function: str, name: str, x_shape: Shape, kernel_shape: Shape) -> None:
    """A depthwise kernel is ``[*K, 1, C*M]``; Keras and TensorFlow lay theirs out otherwise."""
    call = Call(function, x=x_shape, **{name: kernel_shape})
    spatial_rank(call, len(kernel_shape))
    features = x_shape[-1] if x_shape else 1
    group_in, out_features = kernel_shape[-2:]
    if not known(features, group_in, out_features):
        return
    if group_in != 1:
        keras = group_in == features
        mend = (
            f"; [*K, C, M] as in Keras becomes {name}.reshape(*{name}.shape[:-2], 1, -1)"
            if keras
            else ""
        )
        raise call.refuse(
            f"{name} must be [*K, 1, C*M], but its axis before last is {group_in}{mend}"
        )
    if features == 0 or out_features % features:
        raise call.refuse(
            f"{name}'s last axis must be a multiple of x's {features} features, one filter or more "
            f"for each, but got {out_features}"
        )


def pointwise_kernel(
    function: str, name: str, x_shape: Shape, kernel_shape: Shape, strides: Any
) -> None:
    """A pointwise kernel is ``[1, …, 1, C, F]``, or ``[C, F]`` where the stride is 1."""
    call = Call(function, x=x_shape, **{name: kernel_shape})
    if len(kernel_shape) == 2:
        if not x_shape:
            raise call.refuse("x must have a feature axis, but it is a scalar")
        if math.prod(np.atleast_1d(strides).tolist()) != 1:
            raise call.refuse(
                f"strides need spatial axes: with strides {strides} write {name} as "
                f"[1, …, 1, C, F], not [C, F]"
            )
    elif any(k != 1 for k in kernel_shape[: spatial_rank(call, len(kernel_shape))]):
        raise call.refuse(f"{name} must be [1, …, 1, C, F] or [C, F]; wider kernels go to conv")


def separable_kernel(function: str, depthwise_shape: Shape, pointwise_shape: Shape) -> None:
    """The pointwise kernel of a separable convolution reads what the depthwise one returns."""
    call = Call(function, depthwise_kernel=depthwise_shape, pointwise_kernel=pointwise_shape)
    ranks = (2, len(depthwise_shape))
    if len(pointwise_shape) not in ranks or any(extent != 1 for extent in pointwise_shape[:-2]):
        raise call.refuse("pointwise_kernel must be [1, …, 1, C*M, F] or [C*M, F]")
    if known(pointwise_shape[-2], depthwise_shape[-1]) and (
        pointwise_shape[-2] != depthwise_shape[-1]
    ):
        raise call.refuse(
            f"pointwise_kernel must read the C*M features that depthwise_kernel returns, but "
            f"{pointwise_shape[-2]} != {depthwise_shape[-1]}"
        )


def causal(function: str, x_shape: Shape, kernel_shape: Shape) -> None:
    _check_causal_kernel(Call(function, x=x_shape, kernel=kernel_shape), kernel_shape)


def _check_causal_kernel(call: Call, kernel_shape: Shape) -> None:
    if len(kernel_shape) != 3:
        raise call.refuse(
            f"a causal convolution has one spatial axis, so kernel must be [K, C/G, F], but it has "
            f'{len(kernel_shape)} axes; in more dimensions use conv with padding=("CAUSAL", "SAME")'
        )


def causal_state_shape(
    function: str, kernel_shape: Shape, batch_size: Any, dilation: Any, groups: Any
) -> Shape:
    """``[N, (K-1)*dilation, C]``: the inputs that the next output still needs."""
    call = Call(function, kernel=kernel_shape)
    _check_causal_kernel(call, kernel_shape)
    dilation = per_axis(call, "dilation", dilation, 1)[0]
    features = kernel_shape[1] * group_count(call, groups, kernel_shape[2])
    length = max(kernel_shape[0] - 1, 0) * dilation
    return integer(call, "batch_size", batch_size, least=0), length, features


def causal_state(
    function: str, state_shape: Shape, x_shape: Shape, kernel_shape: Shape, dilation, groups
) -> None:
    """The relations of one streaming step."""
    call = Call(function, state=state_shape, x=x_shape, kernel=kernel_shape)
    _check_causal_kernel(call, kernel_shape)
    if len(x_shape) != 3 or (known(x_shape[1]) and x_shape[1] < 1):
        raise call.refuse("x must be [N, L, C] with L at least 1")
    if not known(x_shape[0]):
        return
    wanted = causal_state_shape(function, kernel_shape, x_shape[0], dilation, groups)
    if tuple(state_shape) != wanted:
        raise call.refuse(
            f"state must be [N, (K-1)*dilation, C] = {wanted}, but got {tuple(state_shape)}; make "
            f"it with causal_conv_init with the same kernel, dilation and groups"
        )


def filter_bank(function: str, x_shape: Shape, bank_shape: Shape) -> None:
    """A bank ``[*K, 1, M]`` has as many spatial axes as ``x``."""
    if len(bank_shape) < 3 or bank_shape[-2] != 1 or len(x_shape) - len(bank_shape) not in (0, -1):
        raise Call(function, x=x_shape, bank=bank_shape).refuse(
            "bank must be [*K, 1, M], with as many spatial axes as x"
        )
