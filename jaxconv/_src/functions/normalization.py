"""Normalized kernels, as functions of a kernel: parameters are read, never changed."""

from __future__ import annotations

import math
import sys
from types import MappingProxyType
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from ..geometry import checks
from ..geometry.checks import AXES, Call
from ..keywords import checks_keywords

Array = jax.Array
MAX = sys.float_info.max
_AXES = MappingProxyType({**AXES, "scale": "F", "u": "F"})


@checks_keywords("weight_norm")
def weight_norm(kernel: ArrayLike, scale: ArrayLike, *, epsilon: float = 1e-12) -> Array:
    """Weight normalization: filters with the directions of ``kernel`` and the lengths ``scale``.

        w[..., f] = scale[f] * kernel[..., f] / sqrt(sum(|kernel[..., f]|**2) + epsilon)

    Args:
        kernel: ``[..., F]``, for example ``[*K, C/groups, F]``; floating or complex.
        scale: ``[F]``, of the dtype of ``kernel``.
        epsilon: A number of at least 0; above 0, filters of zeros stay zeros and have a gradient.

    Returns:
        The shape and dtype of ``kernel``. Float16 and bfloat16 are computed in float32.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> weight_norm(jnp.array([[3.0, 1.0], [4.0, 0.0]]), jnp.array([10.0, 2.0]))
    Array([[6., 2.],
           [8., 0.]], dtype=float32)

    Source: T. Salimans, D. Kingma, "Weight normalization" (2016), equation 2;
    ``torch.nn.utils.parametrizations.weight_norm``.
    """
    call, (kernel, scale), _ = checks.arrays("weight_norm", _AXES, kernel=kernel, scale=scale)
    features = _features(call, kernel)
    checks.per_feature(call, "scale", scale, features)
    epsilon = _epsilon(call, epsilon)
    wide, wide_scale = _wide(kernel), _wide(scale)
    squared = jnp.sum(_squared(wide), axis=_inputs(kernel), keepdims=True)
    lengths = wide_scale.reshape(squared.shape) * lax.rsqrt(squared + epsilon).astype(wide.dtype)
    return (wide * lengths).astype(kernel.dtype)


@checks_keywords("weight_standardization")
def weight_standardization(kernel: ArrayLike, *, epsilon: float = 1e-10) -> Array:
    """Weight standardization: every filter with mean 0 and variance 1.

        w[..., f] = (kernel[..., f] - mean) / sqrt(variance + epsilon)

    Mean and (biased) variance are those of one filter, over all axes but the last.

    Args:
        kernel: ``[..., F]``, for example ``[*K, C/groups, F]``; floating or complex.
        epsilon: A number of at least 0; above 0, constant filters become zeros and have a gradient.

    Returns:
        The shape and dtype of ``kernel``. Float16 and bfloat16 are computed in float32.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: ``kernel`` is not an array, or neither floating nor complex.

    >>> import jax.numpy as jnp
    >>> weight_standardization(jnp.array([[1.0, 5.0], [3.0, 5.0]]))
    Array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)

    Source: S. Qiao et al., "Micro-batch training with batch-channel normalization and weight
    standardization" (2019), equations 3 to 5.
    """
    call, (kernel,), _ = checks.arrays("weight_standardization", _AXES, kernel=kernel)
    _features(call, kernel)
    epsilon = _epsilon(call, epsilon)
    wide, inputs = _wide(kernel), _inputs(kernel)
    # Of an empty filter the mean would be NaN; there is nothing to standardize.
    count = max(math.prod(kernel.shape[:-1]), 1)
    centered = wide - jnp.sum(wide, axis=inputs, keepdims=True) / count
    variance = jnp.sum(_squared(centered), axis=inputs, keepdims=True) / count
    return (centered * lax.rsqrt(variance + epsilon).astype(wide.dtype)).astype(kernel.dtype)


@checks_keywords("spectral_norm")
def spectral_norm(
    kernel: ArrayLike, u: ArrayLike, *, iterations: int = 1, epsilon: float = 1e-12
) -> tuple[Array, Array]:
    """Spectral normalization: the kernel divided by the largest singular value of its matrix.

        W = kernel.reshape(-1, F)
        u = unit(W^H unit(W u))            (in every iteration)
        w = kernel / (v^H W u)  with  v = unit(W u)

    The singular value is estimated by power iteration from ``u``. Nothing is changed in place: the
    new vector is returned, to be passed to the next call, so that one iteration per training step
    is enough. As in the paper, ``u`` and ``v`` are constants in every derivative, so the gradient
    is that of the singular value once they have converged, and higher derivatives are those of
    this expression.

    Args:
        kernel: ``[..., F]``, for example ``[*K, C/groups, F]``; floating or complex.
        u: ``[F]``, of the dtype of ``kernel``: the vector of the call before; at first random, for
            example ``jax.random.normal(key, (F,))``.
        iterations: The number of power iterations, an int of at least 0. With 0, as for inference,
            the returned vector is the given one, normalized.
        epsilon: The minimum length by which vectors are divided, a number of at least 0.

    Returns:
        The normalized kernel, and the new vector ``[F]``; both of the dtype of ``kernel``. Float16
        and bfloat16 are computed in float32.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> kernel = jnp.array([[0.0, 4.0], [2.0, 0.0]])
    >>> normalized, u = spectral_norm(kernel, jnp.array([0.6, 0.8]), iterations=20)
    >>> normalized
    Array([[0. , 1. ],
           [0.5, 0. ]], dtype=float32)

    Source: T. Miyato et al., "Spectral normalization for generative adversarial networks" (2018),
    algorithm 1; ``torch.nn.utils.parametrizations.spectral_norm``.
    """
    call, (kernel, u), _ = checks.arrays("spectral_norm", _AXES, kernel=kernel, u=u)
    checks.per_feature(call, "u", u, _features(call, kernel))
    steps = checks.integer(call, "iterations", iterations, minimum=0)
    epsilon = _epsilon(call, epsilon)
    matrix = _wide(kernel).reshape(math.prod(kernel.shape[:-1]), kernel.shape[-1])
    fixed = lax.stop_gradient(matrix)

    def step(_: Any, u: Array) -> Array:
        v = _unit(_product(fixed, u), epsilon)
        return _unit(_product(fixed.conj().T, v), epsilon)

    start = _unit(lax.stop_gradient(_wide(u)), epsilon)
    new = cast(Array, lax.fori_loop(0, steps, step, start))  # pyright: ignore[reportUnknownMemberType] (jax's stub)
    v = _unit(_product(fixed, new), epsilon)
    value = jnp.real(_product(v.conj(), _product(matrix, new)))
    scale = jnp.where(value == 0, 1, value).astype(matrix.dtype)
    return (_wide(kernel) / scale).astype(kernel.dtype), new.astype(kernel.dtype)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _features(call: Call, kernel: Array) -> int:
    """The number of filters."""
    if kernel.ndim < 2:
        raise call.error(
            f"kernel must be [*K, C/G, F] or [C, F], but it has {kernel.ndim} "
            f"{'axis' if kernel.ndim == 1 else 'axes'}"
        )
    return kernel.shape[-1]


def _inputs(kernel: Array) -> tuple[int, ...]:
    """The axes of one filter: all but the last."""
    return tuple(range(kernel.ndim - 1))


def _epsilon(call: Call, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX:
        raise call.error(
            f"epsilon must be a number of at least 0 known at trace time, but got "
            f"{checks.shown(value)}"
        )
    return float(value)


def _wide(array: Array) -> Array:
    """In at least float32: sums of squares overflow float16, and lose digits in bfloat16."""
    return array.astype(jnp.float32) if array.dtype.itemsize < 4 else array


def _squared(array: Array) -> Array:
    """The squares of absolute values, real."""
    return jnp.real(array * array.conj())


def _unit(vector: Array, epsilon: float) -> Array:
    length = jnp.sqrt(jnp.sum(_squared(vector)))
    safe = jnp.maximum(length, epsilon)
    return vector / jnp.where(safe == 0, 1, safe).astype(vector.dtype)
