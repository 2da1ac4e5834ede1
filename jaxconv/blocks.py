"""One cut axis of one shard: which of its products need a neighbour's entries.

The form ``T(x, k, g)`` is a sum of products of an input and an output that lie a tap apart. A shard
whose outputs begin where its inputs do (inputs = stride * outputs) has the same products as every
other, and their sum falls into blocks of some inputs with some outputs:

    own      all of the shard's inputs with all of its outputs: no neighbour, no wait, no copy
    borders  the halo before the shard, and that after it, with what has products with them
    whole    all of them: targets with all that they read

Each is a convolution of the same form. Source is what is exchanged (x, or g for an input gradient),
target what stays in place: the result, or g for a filter gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

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
        target = (0, self.targets)
        return Block(self._across(target), target)

    @property
    def borders(self) -> list[Block]:
        lower, upper = self._borders()
        (first, _), (_, end) = self._across(lower), self._across(upper)
        blocks = Block((first, 0), lower), Block((self.sources, end), upper)
        return [block for block in blocks if block.target[0] < block.target[1]]

    @property
    def halo(self) -> tuple[int, int]:
        """The entries that the whole block reads before the shard and after."""
        first, end = self.whole.source
        return max(-first, 0), max(end - self.sources, 0)

    @property
    def splits(self) -> bool:
        """Whether the blocks hold, of the next shards alone, and are worth a call each.

        Windows are copied whole, which took depthwise 3x3 8x14x14x512 with both gradients over two
        devices from 1.4 to 2.5 ms, and 8x4x8x256 from 0.4 to 0.5.
        """
        return self.inputs == self.stride * self.outputs and sum(self.halo) <= self.sources

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
        """The targets that have products with sources before the shard, and with those after it."""
        n, m = self.targets, self.sources
        _, end = self._back((-1, 0))
        first, _ = self._back((m, m + 1))
        return (0, min(max(end, 0), n)), (min(max(first, 0), n), n)

    def _across(self, target: Range) -> Range:
        """The sources that these targets read."""
        return self._reading(target) if self._inverse else self._read(target)

    def _back(self, source: Range) -> Range:
        """The targets that read these sources."""
        return self._read(source) if self._inverse else self._reading(source)

    def _read(self, outputs: Range) -> Range:
        """The inputs that these outputs read."""
        first, last = outputs[0], outputs[1] - 1
        return self.stride * first - self.low, self.stride * last - self.low + self.extent

    def _reading(self, inputs: Range) -> Range:
        """The outputs that read these inputs."""
        first, last, reach = inputs[0], inputs[1] - 1, self.extent - 1
        return -((reach - first - self.low) // self.stride), (last + self.low) // self.stride + 1


def pieces(lines: Mapping[int, Line]) -> Iterator[dict[int, Block]]:
    """For each convolution that a shard's is the sum of, the block of every axis that is cut.

    The shard's own comes first. Where the halos of two axes meet, the earlier axis has the products
    of both.
    """
    yield {axis: line.own for axis, line in lines.items()}
    for axis in lines:
        for border in lines[axis].borders:
            yield {
                other: border if other == axis else line.whole if other > axis else line.own
                for other, line in lines.items()
            }
