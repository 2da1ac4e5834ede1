"""How jaxconv lays out an array of one of lax's convolutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True)
class Rearrangement:
    """From lax's layout of an array to jaxconv's: transpose, reverse the spatial axes, regroup.

    ``permutation[i]`` is lax's axis that becomes axis ``i``. Regrouping transposes the two feature
    axes of a kernel within each group: ``[..., A, groups*B]`` becomes ``[..., B, groups*A]``.
    """

    permutation: tuple[int, ...]
    reverse: bool = False
    groups: int | None = None

    def apply(self, array, spatial_axes: Sequence[int]):
        """lax's array in jaxconv's layout, where these are the spatial axes."""
        array = _transpose(array, self.permutation)
        array = lax.rev(array, tuple(spatial_axes)) if self.reverse else array
        return _regroup(array, self.groups)

    def apply_to_result(self, array, spatial_axes: Sequence[int]):
        """A result in lax's layout, from jaxconv's: regroup, reverse, transpose back."""
        array = _regroup(array, self.groups)
        array = lax.rev(array, tuple(spatial_axes)) if self.reverse else array
        inverse = sorted(range(array.ndim), key=self.permutation.__getitem__)
        return _transpose(array, tuple(inverse))


def _transpose(array, permutation: tuple[int, ...]):
    identity = permutation == tuple(range(array.ndim))
    return array if identity else lax.transpose(array, permutation)


def _regroup(kernel, groups: int | None):
    if groups is None:
        return kernel
    *extents, a, grouped = kernel.shape
    kernel = kernel.reshape(*extents, a, groups, grouped // groups)
    return jnp.moveaxis(kernel, -1, -3).swapaxes(-1, -2).reshape(*extents, -1, groups * a)
