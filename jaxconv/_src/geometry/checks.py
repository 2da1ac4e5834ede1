"""Argument validation: the one place that words shape and dtype errors.

Every error names the function, the relation that failed with its numbers, the likely mend, and
all the arrays with their axes. Shapes and values raise ``ValueError``, dtypes and things that are
not arrays ``TypeError``. Symbolic dimensions pass every test that they do not decide.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .spec import Shape

SPATIAL = {1: ("W",), 2: ("H", "W"), 3: ("D", "H", "W")}


# The last axes of a kernel, by its name or by the function that takes it.
TAILS = {
    "bank": ("1", "M"),
    "depthwise_kernel": ("1", "C*M"),
    "depthwise_conv": ("1", "C*M"),
    "pointwise_kernel": ("C*M", "F"),
    "pointwise_conv": ("C", "F"),
    "conv_transpose": ("F/G", "C"),
    "ConvTranspose": ("C", "F"),
    "transposed_kernel": ("F", "C"),
}


class Call(tuple):
    """One call of a public function, for wording: its name, and its arrays' names and shapes.

    A tuple, so that what is derived from a call is cached by it.
    """

    def __new__(cls, function: str, **shapes: Shape):
        return super().__new__(cls, (function, *shapes.items()))

    @property
    def function(self) -> str:
        return self[0]

    def error(self, sentence: str, error: type[Exception] = ValueError) -> Exception:
        ranks = [len(shape) - 2 for name, shape in self[1:] if _is_kernel(name)]
        rank = next((rank for rank in ranks if rank in SPATIAL), None)
        arrays = [
            _describe(name, shape, self.letters(name, len(shape), rank)) for name, shape in self[1:]
        ]
        got = f". Got {', '.join(arrays)}." if arrays else ""
        return error(f"{self.function}: {sentence}{got}")

    def letters(self, name: str, ndim: int, rank: int | None = None) -> tuple[str, ...] | None:
        """The names of an array's axes beside a kernel of ``rank`` spatial axes, where known."""
        if name in ("lhs", "rhs"):  # lax's own arrays, in any layout
            return None
        if name == "bias":
            return ("F",) if ndim == 1 else None
        if name == "state":
            return ("N", "(K-1)*d", "C") if ndim == 3 else None
        if _is_kernel(name):
            return self._kernel_letters(name, ndim)
        rank = ndim - 2 if rank is None else rank
        if rank not in SPATIAL or ndim - rank not in (1, 2):
            return None
        return ("N", *self.spatial(rank), "F" if name == "g" else "C")[-ndim:]

    def spatial(self, rank: int) -> tuple[str, ...]:
        """The names of the spatial axes of an activation."""
        return ("L",) if "causal" in self.function else SPATIAL[rank]

    def _kernel_letters(self, name: str, ndim: int) -> tuple[str, ...] | None:
        extents = tuple(f"K{axis}" for axis in SPATIAL.get(ndim - 2, ()))
        flat = ndim == 2 and "pointwise" in f"{name} {self.function}"
        if not (extents or flat):
            return None
        return (*(("K",) if "causal" in self.function else extents), *self.tail(name))

    def tail(self, name: str) -> tuple[str, str]:
        """The last two axes of a kernel."""
        return TAILS.get(name) or TAILS.get(self.function) or ("C/G", "F")


def _is_kernel(name: str) -> bool:
    return name == "bank" or name.endswith("kernel")


def _describe(name: str, shape: Shape, letters: tuple[str, ...] | None) -> str:
    return f"{name} [{', '.join(letters)}] = {tuple(shape)}" if letters else f"{name} {shape}"


# --- arrays and dtypes ----------------------------------------------------------------------------


def arrays(function: str, **values: Any) -> list[Any]:
    """The call, and its values as jax arrays of one floating or complex dtype; None passes."""
    converted = {name: array(function, name, value) for name, value in values.items()}
    present = {name: value for name, value in converted.items() if value is not None}
    call = Call(function, **{name: value.shape for name, value in present.items()})
    for name, value in present.items():
        _check_inexact(call, name, value.dtype)
    _check_one_dtype(call, {name: value.dtype for name, value in present.items()})
    return [call, *converted.values()]


def array(function: str, name: str, value: Any) -> Any:
    """The given value as a jax array of any dtype."""
    if isinstance(value, jax.Array):
        return value
    if value is None and name == "bias":
        return None
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{function}: {name} must be an array without a mask, but it is a masked array; fill "
            f"what is masked with {name}.filled(0)"
        )
    if isinstance(value, np.ndarray | np.generic):
        try:
            return jnp.asarray(value)
        except TypeError:
            raise TypeError(
                f"{function}: {name} must be of a floating or complex dtype that jax has, but its "
                f"dtype is {value.dtype}; cast it with {name}.astype(np.float32)"
            ) from None
    if hasattr(value, "__jax_array__"):
        return jnp.asarray(value)
    raise TypeError(
        f"{function}: {name} must be an array (jax.Array or numpy.ndarray), but got "
        f"{type(value).__module__}.{type(value).__qualname__}; convert it with jnp.asarray"
    )


def _check_inexact(call: Call, name: str, dtype: Any) -> None:
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise call.error(
            f"{name} must be floating or complex, but its dtype is {dtype}; "
            f"cast it with {name}.astype(jnp.float32)",
            TypeError,
        )


def _check_one_dtype(call: Call, dtypes: dict[str, Any]) -> None:
    if len(set(dtypes.values())) > 1:
        given = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        first = next(iter(dtypes))
        raise call.error(
            f"all arrays must have one dtype, but got {given}; cast them with "
            f".astype({first}.dtype), and ask for a wider result with preferred_element_type",
            TypeError,
        )


def result_dtype(call: Call, dtype: Any, preferred: Any) -> Any:
    """The dtype of the result: ``preferred`` under lax's rules, or the operands' own."""
    if preferred is None:
        return dtype
    wanted = dtype_of(call, "preferred_element_type", preferred)
    kinds = (jnp.complexfloating, jnp.floating)
    if not any(jnp.issubdtype(dtype, kind) and jnp.issubdtype(wanted, kind) for kind in kinds):
        raise call.error(
            f"preferred_element_type must be of the operands' kind, {dtype}, but got {wanted}",
            TypeError,
        )
    if wanted.itemsize < np.dtype(dtype).itemsize:
        raise call.error(
            f"preferred_element_type must not be narrower than the operands' "
            f"{dtype}, but got {wanted}; cast the result instead",
            TypeError,
        )
    return wanted


def dtype_of(call: Call, name: str, value: Any) -> Any:
    """A dtype as jax has it, 32 bits wide unless 64 are enabled."""
    try:
        return jax.dtypes.canonicalize_dtype(value)
    except TypeError:
        raise call.error(f"{name} must be a dtype, but got {value!r}", TypeError) from None


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
        # An enumeration also takes its members' numbers, and None.
        if not all(isinstance(entry, str | jax.lax.Precision) for entry in entries):
            raise ValueError
        known = tuple(map(jax.lax.Precision, entries))
        return known if pair else known[0]
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
        raise call.error(f"{name} must be {kind}, but got {value!r}")
    return number


def size(call: Call, name: str, value: Any) -> Any:
    """An extent: an int of at least 0, or a symbolic dimension."""
    return value if jax.export.is_symbolic_dim(value) else integer(call, name, value, least=0)


def sizes(call: Call, name: str, value: Any, rank: int) -> Shape:
    """One extent for each axis, or one for all."""
    entries: Any = value
    if jax.export.is_symbolic_dim(value):
        return (entries,) * rank
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == rank:
        return tuple(size(call, name, entry) for entry in entries)
    return per_axis(call, name, value, rank, least=0)


def per_axis(call: Call, name: str, value: Any, rank: int, least: int = 1) -> Shape:
    if isinstance(value, str) or not (isinstance(value, Sequence) or np.ndim(value) == 1):
        return (integer(call, name, value, least),) * rank
    if len(value) != rank:
        raise call.error(
            f"{name} must be an int or one int a spatial axis, {rank}, but got {len(value)}: "
            f"{tuple(value)}"
        )
    return tuple(integer(call, name, entry, least) for entry in value)


def spatial_rank(call: Call, kernel_ndim: int, name: str = "kernel") -> int:
    if kernel_ndim - 2 not in SPATIAL:
        raise call.error(
            f"{name} must be [*K, {', '.join(call.tail(name))}] with 1 to 3 spatial axes, so 3 to "
            f"5 axes in all, but it has {kernel_ndim}"
        )
    return kernel_ndim - 2


def batched(call: Call, name: str, shape: Shape, rank: int) -> Shape:
    """``shape`` with its batch axis, which a single example may leave out."""
    if len(shape) == rank + 2:
        return shape
    if len(shape) == rank + 1:
        return (1, *shape)
    letters = ", ".join(call.spatial(rank))
    last = "F" if name == "g" else "C"
    raise call.error(
        f"{name} must be [N, {letters}, {last}] or, unbatched, [{letters}, {last}] beside a kernel "
        f"of {rank} spatial axes, but it has {len(shape)} axes"
    )


def group_count(call: Call, groups: Any, out_features: int) -> int:
    groups = integer(call, "groups", groups)
    if known(out_features) and out_features % groups:
        raise call.error(
            f"out-features must be a multiple of groups, but F % groups = {out_features} % "
            f"{groups} = {out_features % groups}"
        )
    return groups


def known(*sizes: Any) -> bool:
    return all(isinstance(size, int) for size in sizes)


# --- what single functions add --------------------------------------------------------------------


def bias(call: Call, value: Any, out_features: int) -> None:
    if value is not None and tuple(value.shape) != (out_features,):
        raise call.error(f"bias must have one value an out-feature, [F] = ({out_features},)")


def depthwise_kernel(call: Call, name: str, x_shape: Shape, kernel_shape: Shape) -> None:
    """A depthwise kernel is ``[*K, 1, C*M]``; Keras and TensorFlow lay theirs out otherwise."""
    batched(call, "x", x_shape, spatial_rank(call, len(kernel_shape), name))
    features, (group_in, out_features) = x_shape[-1], kernel_shape[-2:]
    if not known(features, group_in, out_features):
        return
    if group_in != 1:
        keras = group_in == features
        mend = (
            f"; [*K, C, M] as in Keras becomes {name}.reshape(*{name}.shape[:-2], 1, -1)"
            if keras
            else ""
        )
        raise call.error(
            f"{name} must be [*K, 1, C*M], but its axis before last is {group_in}{mend}"
        )
    if out_features % features if features else out_features:
        raise call.error(
            f"{name}'s last axis must be a multiple of x's {features} features, one filter or more "
            f"for each, but got {out_features}"
        )


def pointwise_kernel(call: Call, x_shape: Shape, kernel_shape: Shape, strides: Any) -> None:
    """A pointwise kernel is ``[1, …, 1, C, F]``, or ``[C, F]`` where the stride is 1."""
    if len(kernel_shape) == 2:
        if not x_shape:
            raise call.error("x must have a feature axis, but it is a scalar")
        several = isinstance(strides, Sequence) or np.ndim(strides) == 1
        given = strides if several else (strides,)
        if any(integer(call, "strides", entry) != 1 for entry in given):
            raise call.error(
                f"strides need spatial axes: with strides {strides} write kernel as "
                f"[1, …, 1, C, F], not [C, F]"
            )
    elif any(k != 1 for k in kernel_shape[: spatial_rank(call, len(kernel_shape))]):
        raise call.error("kernel must be [1, …, 1, C, F] or [C, F]; wider kernels go to conv")


def separable_kernel(call: Call, depthwise_shape: Shape, pointwise_shape: Shape) -> None:
    """The pointwise kernel of a separable convolution reads what the depthwise one returns."""
    ranks = (2, len(depthwise_shape))
    if len(pointwise_shape) not in ranks or any(extent != 1 for extent in pointwise_shape[:-2]):
        raise call.error("pointwise_kernel must be [1, …, 1, C*M, F] or [C*M, F]")
    if known(pointwise_shape[-2], depthwise_shape[-1]) and (
        pointwise_shape[-2] != depthwise_shape[-1]
    ):
        raise call.error(
            f"pointwise_kernel must read the C*M features that depthwise_kernel returns, but "
            f"{pointwise_shape[-2]} != {depthwise_shape[-1]}"
        )


def causal_kernel(call: Call, kernel_shape: Shape) -> None:
    if len(kernel_shape) != 3:
        raise call.error(
            f"a causal convolution has one spatial axis, so kernel must be [K, C/G, F], but it has "
            f'{len(kernel_shape)} axes; in more dimensions use conv with padding=("CAUSAL", "SAME")'
        )


def causal_state_shape(
    call: Call, kernel_shape: Shape, batch_size: Any, dilation: Any, groups: Any
) -> Shape:
    """``[N, (K-1)*dilation, C]``: the inputs that the next output still needs."""
    causal_kernel(call, kernel_shape)
    dilation = per_axis(call, "dilation", dilation, 1)[0]
    features = kernel_shape[1] * group_count(call, groups, kernel_shape[2])
    length = max(kernel_shape[0] - 1, 0) * dilation
    return size(call, "batch_size", batch_size), length, features


def causal_state(
    call: Call, state_shape: Shape, x_shape: Shape, kernel_shape: Shape, dilation, groups
) -> None:
    """The relations of one streaming step."""
    causal_kernel(call, kernel_shape)
    if len(x_shape) != 3 or (known(x_shape[1]) and x_shape[1] < 1):
        raise call.error("x must be [N, L, C] with L at least 1")
    wanted = causal_state_shape(call, kernel_shape, x_shape[0], dilation, groups)
    if len(state_shape) != 3 or any(
        known(got, size) and got != size for got, size in zip(state_shape, wanted, strict=True)
    ):
        raise call.error(
            f"state must be [N, (K-1)*dilation, C] = {wanted}, but got {tuple(state_shape)}; make "
            f"it with causal_conv_init with the same kernel, dilation and groups"
        )
    if known(x_shape[2]) and x_shape[2] != wanted[2]:
        raise call.error(
            f"x must have the C = {wanted[2]} features of the state, but has {x_shape[2]}"
        )


def filter_bank(call: Call, x_shape: Shape, bank_shape: Shape) -> None:
    """A bank ``[*K, 1, M]`` has as many spatial axes as ``x``."""
    if len(bank_shape) < 3 or bank_shape[-2] != 1 or len(x_shape) - len(bank_shape) not in (0, -1):
        raise call.error("bank must be [*K, 1, M], with as many spatial axes as x")
