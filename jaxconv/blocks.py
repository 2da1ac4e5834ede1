"""One cut axis of one shard: which of its products need a neighbour's entries.

The form ``T(x, k, g)`` is a sum of products of an input and an output that lie a tap apart. A shard
whose outputs begin where its inputs do (inputs = stride * outputs) has the same products as every
other, and they fall into blocks of some inputs with some outputs:

    own      all of its inputs with all of its outputs: no neighbour, so no wait and no copy
    borders  the results at either end that need a halo, with all that they read
    whole    all results with all that they read

A block is a convolution, of the same form. Source is what is exchanged (x, or g for an input
gradient), target what stays in place: the result, or g for a filter gradient.
"""

from __future__ import annotations

import dataclasses

from .spec import ConvSpec, Operator

Range = tuple[int, int]  # first, and past the last, counted from the shard's own first


@dataclasses.dataclass(frozen=True)
class Block:
    source: Range
    target: Range


@dataclasses.dataclass(frozen=True)
class Line:
    """One axis of one shard: output ``o`` reads inputs ``stride*o - low … + extent - 1``."""

    operator: Operator
    inputs: int
    outputs: int
    stride: int
    extent: int
    low: int

    @staticmethod
    def of(operator: Operator, spec: ConvSpec, axis: int, parts: int) -> Line:
        """The line of one of ``parts``, rounded up where they are not even."""
        return Line(
            operator,
            -(-spec.input_spatial[axis] // parts),
            -(-spec.output_spatial[axis] // parts),
            spec.strides[axis],
            spec.effective_kernel[axis],
            spec.padding[axis][0],
        )

    @property
    def sources(self) -> int:
        return self.outputs if self._inverse else self.inputs

    @property
    def targets(self) -> int:
        return self.inputs if self._inverse else self.outputs

    @property
    def own(self) -> Block:
        return Block((0, self.sources), (0, self.targets))

    @property
    def whole(self) -> Block:
        return self._reading((0, self.targets))

    @property
    def borders(self) -> list[Block]:
        """What to put in place of the own block's results; or to add, for a filter gradient."""
        blocks = [self._reading(target) for target in self._borders() if target[0] < target[1]]
        if self.operator is not Operator.FILTER_GRAD:
            return blocks
        n = self.sources
        return [
            Block((b.source[0], 0) if b.source[0] < 0 else (n, b.source[1]), b.target)
            for b in blocks
        ]

    @property
    def halo(self) -> tuple[int, int]:
        """The entries that the whole block reads before the shard and after."""
        first, end = self.whole.source
        return max(-first, 0), max(end - self.sources, 0)

    @property
    def splits(self) -> bool:
        """Whether the blocks hold, with halos of the next shards alone, and are worth their calls.

        Worth: where what the borders read is at most half of the shard. Copying it whole, as a
        window that is as wide takes, costs more than the depthwise kernels themselves.
        """
        lower, upper = self._borders()
        read = sum(end - first for first, end in (b.source for b in self.borders))
        return (
            self.inputs == self.stride * self.outputs
            and max(self.halo) <= self.sources
            and lower[1] <= upper[0]
            and 2 * read <= self.sources
        )

    def local(self, block: Block) -> tuple[int, tuple[int, int]]:
        """The input extent and the padding of the convolution of one block."""
        inputs, outputs = block.source, block.target
        if self._inverse:
            inputs, outputs = outputs, inputs
        extent = inputs[1] - inputs[0]
        low = self.low + inputs[0] - self.stride * outputs[0]
        reach = self.stride * (outputs[1] - outputs[0] - 1) + self.extent
        return extent, (low, reach - extent - low)

    @property
    def _inverse(self) -> bool:
        return self.operator is Operator.INPUT_GRAD

    def _borders(self) -> tuple[Range, Range]:
        """The targets that sources before the shard have products with, and those after it."""
        n, m = self.targets, self.sources
        _, end = self._across((-1, 0), self._inverse)
        first, _ = self._across((m, m + 1), self._inverse)
        return (0, min(max(end, 0), n)), (min(max(first, 0), n), n)

    def _reading(self, target: Range) -> Block:
        return Block(self._across(target, not self._inverse), target)

    def _across(self, some: Range, outputs: bool) -> Range:
        """The inputs that these outputs read; or the outputs that read these inputs."""
        first, last = some[0], some[1] - 1
        if outputs:
            return self.stride * first - self.low, self.stride * last - self.low + self.extent
        reach = self.extent - 1
        return -((reach - first - self.low) // self.stride), (last + self.low) // self.stride + 1
