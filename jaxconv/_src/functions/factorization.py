"""Spatially separable factorization: one kernel as a sequence of kernels along single axes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ..geometry import checks
from ..keywords import checks_keywords

Array = jax.Array


@checks_keywords("separate")
def separate(
    kernel: ArrayLike, rank: int = 1, *, groups: int = 1
) -> tuple[tuple[Array, ...], Array]:
    """Factors a kernel into kernels along one spatial axis each, by singular value decomposition.

        kernel[i, j, c, f] ~ sum over r of  first[i, 0, c, r] * second[0, j, r, f]

    Convolving with the factors one after the other, with the same groups, approximates the
    convolution with ``kernel``: a 5×5 kernel of rank 1 costs 10 taps instead of 25. Strides,
    dilation and padding belong to the factor of their axis. For each group the matrix of shape
    ``[KH*C/G, KW*F/G]`` is truncated after its largest ``rank`` singular values, which no other
    factors of that rank approximate better. In three dimensions the remainder is factored again.

    Args:
        kernel: ``[KH, KW, C/groups, F]`` or ``[KD, KH, KW, C/groups, F]``; floating or complex.
        rank: The number of features between the factors, per group: a positive int. Ranks above
            that of the matrix are lowered to it.
        groups: The groups of the convolution; for a depthwise kernel ``[*K, 1, C*M]``, the number
            of channels.

    Returns:
        The factors, ``[KH, 1, C/groups, groups*rank]`` and ``[1, KW, rank, F]`` in two dimensions,
        of the dtype of ``kernel``; and the relative error, a real scalar: the root of the sum of
        squares of ``kernel`` minus its approximation, divided by that of ``kernel``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: ``kernel`` is not an array, or neither floating nor complex.

    >>> import jax.numpy as jnp
    >>> from jaxconv import conv
    >>> kernel = jnp.outer(jnp.array([1.0, 2.0, 1.0]), jnp.array([-1.0, 0.0, 1.0]))
    >>> (first, second), error = separate(kernel[:, :, None, None])
    >>> first.shape, second.shape, bool(error < 1e-6)
    ((3, 1, 1, 1), (1, 3, 1, 1), True)
    >>> y = conv(conv(jnp.ones((1, 8, 8, 1)), first, strides=(2, 1)), second, strides=(1, 2))
    >>> y.shape
    (1, 4, 4, 1)

    Source: R. Rigamonti et al., "Learning separable filters" (2013); C. Tai et al., "Convolutional
    neural networks with low-rank regularization" (2016), theorem 1.
    """
    call, (kernel,), _ = checks.arrays("separate", kernel=kernel)
    axes = kernel.ndim - 2
    if axes not in (2, 3):
        raise call.error(
            f"kernel must be [*K, C/G, F] with 2 or 3 spatial axes, but it has {kernel.ndim} axes; "
            f"with one spatial axis there is nothing to separate"
        )
    if not kernel.size:
        raise call.error("kernel must have at least one entry")
    count = checks.group_count(call, groups, kernel.shape[-1])
    rank = checks.integer(call, "rank", rank)
    wide = kernel.astype(jnp.float32) if kernel.dtype.itemsize < 4 else kernel
    remainder, factors, lost = wide, list[Array](), list[Array]()
    for axis in range(axes - 1):
        factor, remainder, squares = _split(remainder, axis, rank, count)
        factors.append(factor)
        lost.append(squares)
    total = jnp.sum(jnp.real(wide * wide.conj()))
    error = jnp.sqrt(jnp.sum(jnp.stack(lost)) / jnp.where(total == 0, 1, total))
    return tuple(each.astype(kernel.dtype) for each in (*factors, remainder)), error


def _split(kernel: Array, axis: int, rank: int, groups: int) -> tuple[Array, Array, Array]:
    """The factor along ``axis``, what remains, and the sum of squares that is lost.

    Earlier axes have extent 1. The factor's columns are orthonormal, so that what later splits
    lose adds to this one's without a cross term.
    """
    *extents, channels, features = kernel.shape
    k, rest = extents[axis], extents[axis + 1 :]
    grouped = kernel.reshape(k, *rest, channels, groups, features // groups)
    # [G, K*C/G, rest*F/G]
    matrix = jnp.moveaxis(grouped, (-2, 0, -3), (0, 1, 2)).reshape(groups, k * channels, -1)
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    kept = min(rank, values.shape[-1])
    lost = jnp.sum(values[:, kept:] ** 2)
    first = left[:, :, :kept].reshape(groups, k, channels, kept)
    first = jnp.moveaxis(first, 0, 2).reshape(k, channels, groups * kept)
    second = (values[:, :kept, None].astype(right.dtype) * right[:, :kept]).reshape(
        groups, kept, *rest, features // groups
    )
    second = jnp.moveaxis(second, (0, 1), (-2, -3)).reshape(*rest, kept, features)
    ones = [1] * len(extents)
    along = [*ones[:axis], k, *ones[axis + 1 :]]
    return (
        first.reshape(*along, channels, -1),
        second.reshape(*ones[: axis + 1], *rest, kept, -1),
        lost,
    )
