"""The static description of one convolution: all of its sizes, and the arithmetic on them.

The shape letters of the whole package are defined here:

    N   batch                               S   input spatial extents, one to three
    C   channels (in)                       K   kernel extents, one per spatial axis
    F   features (out)                      O   output spatial extents, one per spatial axis
    G   groups; G divides C and F           M   multiplier F/G, when every group has one channel
    E   examples, each with its own x, kernel and y; only ``vmap`` makes them

Arrays are channels-last: ``x [N, *S, C]``, ``kernel [*K, C/G, F]``, ``y [N, *O, F]``. With examples
each has a leading axis: ``x [E, N, *S, C]``, ``kernel [E, *K, C/G, F]``, ``y [E, N, *O, F]``.
Features are group-major, as in ``lax``: group ``j`` reads channels ``j*C/G … (j+1)*C/G`` and writes
features ``j*F/G … (j+1)*F/G``.

Any size may be a symbolic dimension of ``jax.export``; then the kernel is assumed to fit.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

Shape = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]

# Positions are computed in 64 bits, by XLA and by the CPU engine. They cannot overflow if strides,
# dilation and padding are at most MAX_STEP and arrays have at most MAX_ELEMENTS (128 TiB of
# complex128).
MAX_STEP = 2**31 - 1
MAX_ELEMENTS = 2**43


class Operator(enum.Enum):
    """The three partial derivatives of ``T(x, k, g) = <g, conv(x, k)>``."""

    CONV = "conv"
    INPUT_GRAD = "input_grad"
    FILTER_GRAD = "filter_grad"


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """Every size of one convolution, shared by the three operators; static and hashable.

    ``in_features`` and ``out_features`` are C and F. ``padding`` has one ``(low, high)`` pair per
    spatial axis; negative entries crop. ``examples`` is None unless there is an axis of examples;
    all other sizes are those of one example.

    >>> spec = ConvSpec(batch=1, in_features=8, out_features=32, input_spatial=(20, 20),
    ...                 kernel_spatial=(3, 3), strides=(1, 1), padding=((0, 0), (0, 0)),
    ...                 dilation=(1, 1), groups=1)
    >>> spec.output_shape, spec.parameters
    ((1, 18, 18, 32), 2304)
    """

    batch: int
    in_features: int
    out_features: int
    input_spatial: Shape
    kernel_spatial: Shape
    strides: Shape
    padding: Pairs
    dilation: Shape
    groups: int
    examples: int | None = None

    def replace(self, **changes: Any) -> ConvSpec:
        return dataclasses.replace(self, **changes)

    # A frozen dataclass hashes every field on each call, and every eager bind hashes its spec.
    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in dataclasses.fields(self)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def leading(self) -> Shape:
        """The axis of examples, if there is one."""
        return () if self.examples is None else (self.examples,)

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel_spatial)

    @property
    def group_in(self) -> int:
        """C/G."""
        return self.in_features // self.groups if self.groups else 0

    @property
    def group_out(self) -> int:
        """F/G."""
        return self.out_features // self.groups if self.groups else 0

    @property
    def depthwise(self) -> bool:
        """Whether every group has one channel (so C = G, and F/G is the multiplier)."""
        return self.groups == self.in_features

    @property
    def pointwise(self) -> bool:
        """Whether every output reads one input pixel: extents of 1 and no padding or cropping."""
        return all(k == 1 for k in self.kernel_spatial) and not any(map(any, self.padding))

    @property
    def kind(self) -> str:
        """What the field calls a layer of this kind, such as ``"dilated depthwise"``."""
        if self.depthwise and self.in_features > 1:
            kind = "depthwise"
        elif self.groups > 1:
            kind = "grouped"
        else:
            kind = "pointwise" if self.pointwise else "standard"
        axes = zip(self.dilation, self.kernel_spatial, strict=True)
        dilated = any(d > 1 and k > 1 for d, k in axes)
        return f"dilated {kind}".removesuffix(" standard") if dilated else kind

    @property
    def label(self) -> str:
        """The kind and the kernel's extents, such as ``"depthwise 3x3"``, for names in profiles."""
        return f"{self.kind} {'x'.join(map(str, self.kernel_spatial))}"

    @property
    def disjoint(self) -> bool:
        """Whether no two outputs read the same input pixel, as with 1x1 kernels and patches."""
        axes = zip(self.kernel_spatial, self.strides, self.dilation, strict=True)
        return all(k == 1 or (k <= s and d == 1) for k, s, d in axes)

    @property
    def unstrided(self) -> bool:
        return all(s == 1 for s in self.strides)

    @property
    def taps(self) -> int:
        """The number of kernel positions, the product of K."""
        return math.prod(self.kernel_spatial)

    @cached_property
    def effective_kernel(self) -> Shape:
        """The extent of the dilated kernel on each axis: ``d*(k-1) + 1``."""
        return tuple(
            effective_extent(k, d) for k, d in zip(self.kernel_spatial, self.dilation, strict=True)
        )

    @cached_property
    def padded_spatial(self) -> Shape:
        return tuple(
            n + lo + hi for n, (lo, hi) in zip(self.input_spatial, self.padding, strict=True)
        )

    @cached_property
    def output_spatial(self) -> Shape:
        axes = zip(
            self.input_spatial,
            self.kernel_spatial,
            self.strides,
            self.padding,
            self.dilation,
            strict=True,
        )
        return tuple(output_extent(*axis) for axis in axes)

    def _axes(self) -> Iterator[tuple[int, int, int, int, int]]:
        """``(S, O, effective kernel, stride, low padding)`` of each spatial axis."""
        lows = (low for low, _ in self.padding)
        return zip(
            self.input_spatial,
            self.output_spatial,
            self.effective_kernel,
            self.strides,
            lows,
            strict=True,
        )

    @property
    def input_grad_padding(self) -> Pairs:
        """The padding of ``g`` for which the input gradient is a convolution of it.

        ``g`` is dilated by the strides and the kernel reversed. The low padding lets the first
        pixel meet the last tap; the high padding gives as many outputs as the input has pixels.
        """
        return tuple(
            (extent - 1 - low, n + low - effective_extent(o, s))
            for n, o, extent, s, low in self._axes()
        )

    @property
    def filter_grad_padding(self) -> Pairs:
        """The padding of ``x`` for which the filter gradient is its convolution with ``g``.

        ``g`` is dilated by the strides and takes the place of the kernel. The low padding is that
        of the forward convolution; the high one covers what the last tap of the last output reads.
        """
        return tuple(
            (low, effective_extent(o, s) + extent - 1 - n - low)
            for n, o, extent, s, low in self._axes()
        )

    @property
    def input_shape(self) -> Shape:
        """``[N, *S, C]``"""
        return (*self.leading, self.batch, *self.input_spatial, self.in_features)

    @property
    def kernel_shape(self) -> Shape:
        """``[*K, C/G, F]``"""
        return (*self.leading, *self.kernel_spatial, self.group_in, self.out_features)

    @property
    def output_shape(self) -> Shape:
        """``[N, *O, F]``"""
        return (*self.leading, self.batch, *self.output_spatial, self.out_features)

    @property
    def one_example(self) -> ConvSpec:
        """The spec of each example."""
        return self if self.examples is None else self.replace(examples=None)

    @property
    def examples_as_groups(self) -> ConvSpec:
        """The spec of one convolution that has the groups of all examples, example by example."""
        if self.examples is None:
            return self
        return self.replace(
            in_features=self.examples * self.in_features,
            out_features=self.examples * self.out_features,
            groups=self.examples * self.groups,
            examples=None,
        )

    def result_shape(self, operator: Operator) -> Shape:
        match operator:
            case Operator.CONV:
                return self.output_shape
            case Operator.INPUT_GRAD:
                return self.input_shape
            case Operator.FILTER_GRAD:
                return self.kernel_shape

    def operand_shapes(self, operator: Operator) -> tuple[Shape, Shape]:
        match operator:
            case Operator.CONV:
                return self.input_shape, self.kernel_shape
            case Operator.INPUT_GRAD:
                return self.output_shape, self.kernel_shape
            case Operator.FILTER_GRAD:
                return self.input_shape, self.output_shape

    @property
    def parameters(self) -> int:
        """The number of kernel entries."""
        return math.prod(self.kernel_shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of each of the three operators, including those on padding."""
        return math.prod(self.output_shape) * self.taps * self.group_in

    @property
    def empty(self) -> bool:
        """Whether there are no products at all, so that every result is empty or zero."""
        sizes = (*self.input_shape, *self.kernel_shape, *self.output_shape)
        return any(isinstance(size, int) and size == 0 for size in sizes)


def effective_extent(k: int, d: int) -> int:
    """The extent of ``k`` taps that are ``d`` apart: ``d*(k-1) + 1``."""
    return d * (k - 1) + 1


def output_extent(n: int, k: int, s: int, padding: tuple[int, int], d: int) -> int:
    """The output extent of one axis; 0 if the axis or the kernel is empty or does not fit.

    >>> output_extent(4, 3, 1, (0, 0), 1), output_extent(7, 3, 2, (1, 1), 1)
    (2, 4)
    """
    if any(isinstance(size, int) and size == 0 for size in (n, k)):
        return 0
    extent = (n + padding[0] + padding[1] - effective_extent(k, d)) // s + 1
    return max(extent, 0) if isinstance(extent, int) else extent


def transposed_extent(
    n: int, k: int, s: int, padding: tuple[int, int], d: int, output_padding: int = 0
) -> int:
    """The output extent of a transposed convolution on an axis of ``n`` pixels.

    It is the input extent of the convolution that has ``n`` outputs, and 0 if the axis or the
    kernel is empty.

    >>> transposed_extent(14, 4, 2, (1, 1), 1)
    28
    """
    if any(isinstance(size, int) and size == 0 for size in (n, k)):
        return 0
    return (n - 1) * s + effective_extent(k, d) - padding[0] - padding[1] + output_padding
