"""One sharded spatial axis of a convolution, as one device sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..geometry.spec import ConvSpec, Operator, effective_extent

Range = tuple[int, int]  # half-open, counted from the first entry of the shard


class AxisSharding(NamedTuple):
    """How a spatial axis is sharded: over one mesh axis or several, into this number of shards;
    and whether the axis wraps around."""

    mesh_axes: Any
    shards: int
    wrap: bool = False


@dataclasses.dataclass(frozen=True)
class ShardAxis:
    """One shard of an axis on which output ``o`` reads input ``stride*o + dilation*tap - low``.

    The source of an operator is the activation that neighbors exchange: x, or g for an input
    gradient. Its target stays in place: the result, or g for a filter gradient. ``two_shards`` says
    whether the axis has exactly two shards, so that each has one neighbor.
    """

    operator: Operator
    inputs: int
    outputs: int
    stride: int
    dilation: int
    taps: int
    low: int
    two_shards: bool = False

    @staticmethod
    def of(operator: Operator, spec: ConvSpec, axis: int, shards: int) -> ShardAxis:
        """One of ``shards``, with extents rounded up if they do not divide evenly."""
        return ShardAxis(
            operator,
            -(-spec.input_spatial[axis] // shards),
            -(-spec.output_spatial[axis] // shards),
            spec.strides[axis],
            spec.dilation[axis],
            spec.kernel_spatial[axis],
            spec.padding[axis][0],
            shards == 2,
        )

    @property
    def effective_kernel(self) -> int:
        return effective_extent(self.taps, self.dilation)

    @property
    def is_input_grad(self) -> bool:
        return self.operator is Operator.INPUT_GRAD

    @property
    def sources(self) -> int:
        return self.outputs if self.is_input_grad else self.inputs

    @property
    def targets(self) -> int:
        return self.inputs if self.is_input_grad else self.outputs

    def sources_of(self, targets: Range) -> Range:
        """The sources that meet these targets in a product."""
        return self._outputs_of(targets) if self.is_input_grad else self._inputs_of(targets)

    def targets_of(self, sources: Range) -> Range:
        """The targets that meet these sources in a product."""
        return self._inputs_of(sources) if self.is_input_grad else self._outputs_of(sources)

    def _inputs_of(self, outputs: Range) -> Range:
        first, last = outputs[0], outputs[1] - 1
        return self.stride * first - self.low, self.stride * last - self.low + self.effective_kernel

    def _outputs_of(self, inputs: Range) -> Range:
        first, last = inputs[0], inputs[1] - 1
        reach = self.effective_kernel - 1
        return -((reach - first - self.low) // self.stride), (last + self.low) // self.stride + 1


class LocalGeometry(NamedTuple):
    """One axis of the spec that a device computes with."""

    inputs: int
    padding: tuple[int, int]
    taps: int


def with_local_geometry(spec: ConvSpec, geometry: Mapping[int, LocalGeometry]) -> ConvSpec:
    """``spec`` with the local geometry of some spatial axes."""
    inputs, padding, taps = (
        list(each) for each in (spec.input_spatial, spec.padding, spec.kernel_spatial)
    )
    for axis, local in geometry.items():
        inputs[axis], padding[axis], taps[axis] = local
    return spec.replace(
        input_spatial=tuple(inputs), padding=tuple(padding), kernel_spatial=tuple(taps)
    )
