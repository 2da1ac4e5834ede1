"""The parameters of one of lax's convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..geometry.spec import Pairs, Shape, effective_extent, output_extent


class LaxConvolution(NamedTuple):
    """The parameters of one ``conv_general_dilated``, and the shapes of its operands.

    ``dimension_numbers`` are lax's integers: for each array its batch axis (for the kernel its
    out-feature axis), its feature axis (in-feature axis), and then its spatial axes.
    """

    lhs_shape: Shape
    rhs_shape: Shape
    window_strides: Shape
    padding: Pairs
    lhs_dilation: Shape
    rhs_dilation: Shape
    dimension_numbers: tuple[Sequence[int], Sequence[int], Sequence[int]]
    feature_group_count: int = 1
    batch_group_count: int = 1

    @property
    def lhs_spatial(self) -> Shape:
        return spatial_shape(self.lhs_shape, self.dimension_numbers[0])

    @property
    def rhs_spatial(self) -> Shape:
        return spatial_shape(self.rhs_shape, self.dimension_numbers[1])

    @property
    def result_spatial(self) -> Shape:
        axes = zip(
            self.lhs_spatial,
            self.rhs_spatial,
            self.window_strides,
            self.padding,
            self.rhs_dilation,
            self.lhs_dilation,
            strict=True,
        )
        return tuple(
            output_extent(effective_extent(n, e), k, s, pair, d) for n, k, s, pair, d, e in axes
        )


def spatial_shape(shape: Shape, axes: Sequence[int]) -> Shape:
    return tuple(shape[axis] for axis in axes[2:])
