"""One cut axis of one shard: which of its products need a neighbour's entries.

The form ``T(x, k, g)`` is a sum of products of an input and an output that lie a tap apart. A shard
whose outputs begin where its inputs do (inputs = stride * outputs) has the same products as every
other, and their sum falls into blocks of some inputs with some outputs:

    own      all of the shard's inputs with all of its outputs: no neighbour, no wait, no copy
    borders  the halo before the shard, and that after it, with what has products with them
    whole    all of them: targets with all that they read

Each is a convolution of the same form. Source is what is exchanged (x, or g for an input gradient),
target what stays in place: the result, or g for a filter gradient.

Of two shards each has one neighbour, and so one border: the lower one after it, the upper one
before it. Where these differ in their place and by a number of taps alone they are one block, whose
place depends on the shard.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ..geometry.spec import ConvSpec, Operator, effective_extent

Range = tuple[int, int]  # first, and past the last, counted from the shard's own first


@dataclasses.dataclass(frozen=True)
class Block:
    """Sources, and the targets that they have products with by these taps.

    On the upper of two shards the targets lie ``moved[0]`` further, and the taps ``moved[1]``.
    Taps outside of the kernel are zeros.
    """

    source: Range
    target: Range
    taps: Range
    moved: tuple[int, int] = (0, 0)


class Local(NamedTuple):
    """One axis of the spec of one block's convolution."""

    inputs: int
    padding: tuple[int, int]
    taps: int


@dataclasses.dataclass(frozen=True)
class Line:
    """One axis of one shard: output ``o`` reads inputs ``stride*o + dilation*tap - low``.

    ``pair``: whether it is one of two shards, which have one neighbour each.
    """

    operator: Operator
    inputs: int
    outputs: int
    stride: int
    dilation: int
    taps: int
    low: int
    pair: bool = False

    @staticmethod
    def of(operator: Operator, spec: ConvSpec, axis: int, parts: int) -> Line:
        """The line of one of ``parts``, rounded up where they are not even."""
        return Line(
            operator,
            -(-spec.input_spatial[axis] // parts),
            -(-spec.output_spatial[axis] // parts),
            spec.strides[axis],
            spec.dilation[axis],
            spec.kernel_spatial[axis],
            spec.padding[axis][0],
            parts == 2,
        )

    @property
    def extent(self) -> int:
        return effective_extent(self.taps, self.dilation)

    @property
    def sources(self) -> int:
        return self.outputs if self._inverse else self.inputs

    @property
    def targets(self) -> int:
        return self.inputs if self._inverse else self.outputs

    @property
    def own(self) -> Block:
        return Block((0, self.sources), (0, self.targets), (0, self.taps))

    @property
    def whole(self) -> Block:
        target = (0, self.targets)
        return Block(self._across(target), target, (0, self.taps))

    @property
    def borders(self) -> list[Block]:
        """The blocks of the halo, which is read as it is held: on the upper of two shards, where
        one block serves both, after the shard too."""
        swapped = self._swapped()
        if swapped:
            return [swapped]
        return [block for block in self._sides() if block.target[0] < block.target[1]]

    @property
    def cover(self) -> list[Block]:
        """Blocks with all products between them."""
        return [self.own, *self.borders] if self.swaps else [self.whole]

    @property
    def swaps(self) -> bool:
        """Whether one block serves either of two shards."""
        return self._swapped() is not None

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

    def local(self, block: Block) -> Local:
        """The input extent, the padding and the taps of the convolution of one block."""
        first, extent, outputs = self._place(block)
        taps = block.taps[1] - block.taps[0]
        low = first - self.dilation * block.taps[0]
        reach = self.stride * (outputs - 1) + effective_extent(taps, self.dilation)
        return Local(extent, (low, reach - extent - low), taps)

    def _place(self, block: Block) -> tuple[int, int, int]:
        """Where the block's first output begins to read, counted back from its first input; and how
        many inputs and outputs it has."""
        inputs, outputs = block.source, block.target
        if self._inverse:
            inputs, outputs = outputs, inputs
        first = self.low + inputs[0] - self.stride * outputs[0]
        return first, inputs[1] - inputs[0], outputs[1] - outputs[0]

    @property
    def _inverse(self) -> bool:
        return self.operator is Operator.INPUT_GRAD

    def _sides(self) -> tuple[Block, Block]:
        """The blocks of the halo before the shard and of that after it, if there is one."""
        lower, upper = self._borders()
        (first, _), (_, end) = self._across(lower), self._across(upper)
        every = (0, self.taps)
        return Block((first, 0), lower, every), Block((self.sources, end), upper, every)

    def _swapped(self) -> Block | None:
        """The one block of a pair: both are of the same extents and lie whole taps apart."""
        before, after = self._sides()
        (low, *extents), (high, *others) = self._place(before), self._place(after)
        apart, rest = divmod(high - low, self.dilation)
        if not self.pair or min(extents) < 1 or extents != others or rest:
            return None
        inputs, outputs = extents
        # The taps by which any of the outputs reads any of the inputs: d*t = i - s*o + high.
        first = -((self.stride * (outputs - 1) - high) // self.dilation)
        taps = first, (inputs - 1 + high) // self.dilation + 1
        moved = before.target[0] - after.target[0], -apart
        return Block(after.source, after.target, taps, moved)

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
        choices = [
            line.borders if other == axis else line.cover if other > axis else [line.own]
            for other, line in lines.items()
        ]
        for blocks in itertools.product(*choices):
            yield dict(zip(lines, blocks, strict=True))
