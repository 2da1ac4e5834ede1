"""Patches: the pixels under each position of a kernel, and the sum of patches into an image."""

from __future__ import annotations

import jax
from jax.typing import ArrayLike

from ..geometry import checks, resolve
from ..geometry.checks import AXES, Call
from ..geometry.padding import PaddingLike
from ..geometry.resolve import ResolvedConv
from ..geometry.spec import Shape
from ..geometry.types import Ints
from ..kernels.xla import patches as kernels
from ..keywords import checks_keywords
from ..primitives.call import with_borders, without_borders

Array = jax.Array
_AXES = {**AXES, "patches": "N *O *K C or *O *K C"}


@checks_keywords("unfold")
def unfold(
    x: ArrayLike,
    kernel_spatial: Ints,
    *,
    strides: Ints = 1,
    padding: PaddingLike = "SAME",
    dilation: Ints = 1,
) -> Array:
    """The patches of ``x``: for each output of a convolution, the pixels that it reads.

        patches[n, o, t, c] = x[n, s*o + d*t - low, c]

    A convolution is the product of the patches and the kernel: ``conv(x, kernel)`` equals
    ``jnp.tensordot(unfold(x, K), kernel, rank + 1)``, with ``rank`` spatial axes.

    Args:
        x: ``[N, *S, C]``, or ``[*S, C]`` for one example; of any dtype.
        kernel_spatial: The spatial extents of a patch, one per axis; an int for one axis.
        strides, padding, dilation: As in ``conv``; every padding is supported.

    Returns:
        ``[N, *O, *K, C]``, of the dtype of ``x``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: ``x`` is not an array.

    >>> import jax.numpy as jnp
    >>> unfold(jnp.arange(5.0)[None, :, None], 3, strides=2, padding="VALID")[0, ..., 0]
    Array([[0., 1., 2.],
           [2., 3., 4.]], dtype=float32)

    Source: im2col, in K. Chellapilla, S. Puri, P. Simard, "High performance convolutional neural
    networks for document processing" (2006), section 3; ``torch.nn.functional.unfold``, which
    returns ``[N, C*prod(K), prod(O)]``.
    """
    x = checks.array("unfold", "x", x)
    call = Call("unfold", x=x.shape)
    resolved = _resolve(call, x.shape, kernel_spatial, strides, padding, dilation)
    x = with_borders(x if resolved.batched else x[None], resolved.borders)
    patches = kernels.unfold(x, resolved.spec)
    return patches if resolved.batched else patches[0]


@checks_keywords("fold")
def fold(
    patches: ArrayLike,
    input_spatial: Ints,
    *,
    strides: Ints = 1,
    padding: PaddingLike = "SAME",
    dilation: Ints = 1,
) -> Array:
    """Adds patches up, each at its place: the adjoint of ``unfold``.

        x[n, i, c] = sum over o, t with s*o + d*t - low = i of  patches[n, o, t, c]

    Divide by the fold of ones to average overlapping patches. With a border mode as padding, what
    lies in the border is added to the pixels that it repeats.

    Args:
        patches: ``[N, *O, *K, C]``, or ``[*O, *K, C]`` for one example, as ``unfold`` returns them;
            floating or complex.
        input_spatial: The spatial extents of the result, one per axis; an int for one axis.
        strides, padding, dilation: Those of ``unfold``.

    Returns:
        ``[N, *S, C]`` with ``S = input_spatial``, of the dtype of ``patches``.

    Raises:
        ValueError: A shape or value does not fit, for example if there are not as many patches as
            ``unfold`` would return.
        TypeError: ``patches`` are not an array, or neither floating nor complex.

    >>> import jax.numpy as jnp
    >>> patches = unfold(jnp.arange(6.0)[:, None], 3, padding="VALID")
    >>> fold(patches, 6, padding="VALID")[:, 0]
    Array([0., 2., 6., 9., 8., 5.], dtype=float32)
    >>> counts = fold(jnp.ones_like(patches), 6, padding="VALID")
    >>> (fold(patches, 6, padding="VALID") / counts)[:, 0]
    Array([0., 1., 2., 3., 4., 5.], dtype=float32)

    Source: ``torch.nn.functional.fold``, which takes ``[N, C*prod(K), prod(O)]``.
    """
    call, (patches,), _ = checks.arrays("fold", axes=_AXES, patches=patches)
    rank = _rank(call, "input_spatial", input_spatial)
    if patches.ndim - 2 * rank not in (1, 2):
        raise call.error(
            f"patches must be [N, *O, *K, C] or, unbatched, [*O, *K, C], with as many axes O and K "
            f"as input_spatial has extents ({rank}), but they have {patches.ndim} axes"
        )
    spatial = checks.sizes(call, "input_spatial", input_spatial, rank)
    *leading, channels = (*patches.shape[: -2 * rank - 1], patches.shape[-1])
    x_shape = (*leading, *spatial, channels)
    resolved = _resolve(call, x_shape, patches.shape[-1 - rank : -1], strides, padding, dilation)
    expected = (*leading, *resolved.spec.output_spatial, *patches.shape[-1 - rank :])
    if checks.known(*expected, *patches.shape) and expected != patches.shape:
        raise call.error(
            f"patches must have the shape that unfold returns for an input of shape {x_shape}, "
            f"which is {expected}; pass the strides, padding and dilation of unfold"
        )
    batched = patches if resolved.batched else patches[None]
    x = kernels.fold(batched, resolved.spec)
    if resolved.bordered:
        x = without_borders(x, resolved)
    return x if resolved.batched else x[0]


def _rank(call: Call, name: str, extents: Ints) -> int:
    """The number of spatial axes: an int is for one."""
    entries = checks.sequence(extents)
    rank = 1 if entries is None else len(entries)
    if not 1 <= rank <= 3:
        raise call.error(f"{name} must have 1 to 3 extents, but got {checks.shown(extents)}")
    return rank


def _resolve(
    call: Call,
    x_shape: Shape,
    kernel_spatial: Ints,
    strides: Ints,
    padding: PaddingLike,
    dilation: Ints,
) -> ResolvedConv:
    """The convolution of one feature that reads the patches."""
    rank = _rank(call, "kernel_spatial", kernel_spatial)
    extents = checks.sizes(call, "kernel_spatial", kernel_spatial, rank)
    channels = x_shape[-1] if x_shape else 0
    resolved = resolve.conv(call, x_shape, (*extents, channels, 1), strides, padding, dilation, 1)
    spec = resolved.spec
    shape = (spec.batch, *spec.output_spatial, *extents, channels)
    checks.elements(call, "the patches", shape)
    return resolved
