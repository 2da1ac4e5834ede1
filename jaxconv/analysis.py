"""What the convolutions of a function cost: parameters, multiply-accumulates and bytes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .spec import ConvSpec, Operator
from .table import format_shape, format_table
from .walk import Found, convolutions, trace


@dataclasses.dataclass(frozen=True)
class ConvCost:
    """One convolution, with the sums of all its ``count`` runs.

    ``macs`` counts those on padding too, as is usual; ``bytes`` is operands plus result, each
    moved once; ``parameters`` are the kernel's entries, whether it runs once or often.
    """

    kind: str
    operator: Operator
    spec: ConvSpec
    shapes: tuple[tuple[int, ...], ...]
    parameters: int
    macs: int
    bytes: int
    count: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """The convolutions of a function in program order, and their totals; prints as a table."""

    convs: tuple[ConvCost, ...]

    @property
    def parameters(self) -> int:
        return sum(conv.parameters for conv in self.convs)

    @property
    def macs(self) -> int:
        return sum(conv.macs for conv in self.convs)

    @property
    def bytes(self) -> int:
        return sum(conv.bytes for conv in self.convs)

    def __str__(self) -> str:
        header = ("kind", "operands", "result", "runs", "parameters", "MACs", "bytes")
        rows = [_row(conv) for conv in self.convs]
        total = ("total", "", "", sum(conv.count for conv in self.convs))
        return format_table(header, [*rows, (*total, self.parameters, self.macs, self.bytes)])


def _row(conv: ConvCost) -> tuple[object, ...]:
    a, b, result = map(format_shape, conv.shapes)
    sums = (conv.count, conv.parameters, conv.macs, conv.bytes)
    return conv.kind, f"{a} {b}", result, *sums


def cost(fn: Callable, *args: Any, **kwargs: Any) -> Cost:
    """Counts parameters, multiply-accumulates and bytes of every convolution in ``fn(*args)``.

    The function is traced, not run. Convolutions of lax count like the family's; a scan's count
    once an iteration, a while loop's once, and all branches of a cond are listed.

    Args:
        fn: Any JAX function, or a module of Flax (nnx or linen) or Equinox.
        *args: Its arguments: arrays, ``jax.ShapeDtypeStruct`` or pytrees of them.
        **kwargs: Its keyword arguments.

    Returns:
        A ``Cost`` with one entry in ``convs`` for each convolution, and totals.

    Raises:
        TypeError: ``fn`` is not callable.

    >>> import jax.numpy as jnp, jaxconv
    >>> x, kernel = jnp.ones((1, 20, 20, 8)), jnp.ones((3, 3, 8, 32))
    >>> counted = cost(lambda x, kernel: jaxconv.conv(x, kernel, padding="VALID"), x, kernel)
    >>> counted.parameters, counted.macs
    (2304, 746496)

    Source: A. Howard et al., "MobileNets" (2017), section 3.1, counts in the same way.
    """
    return Cost(tuple(filter(None, map(_cost, convolutions(trace(fn, *args, **kwargs))))))


def _cost(found: Found) -> ConvCost | None:
    if found.operator is None or found.spec is None:
        return None
    dtypes = (*found.operand_dtypes, found.dtype)
    sizes = [
        math.prod(shape) * np.dtype(dtype).itemsize
        for shape, dtype in zip(found.shapes, dtypes, strict=True)
    ]
    reads_kernel = found.operator is not Operator.FILTER_GRAD
    return ConvCost(
        kind=kind(found.operator, found.spec),
        operator=found.operator,
        spec=found.spec,
        shapes=found.shapes,
        parameters=found.spec.parameters if reads_kernel else 0,
        macs=found.spec.macs * found.count,
        bytes=sum(sizes) * found.count,
        count=found.count,
    )


def kind(operator: Operator, spec: ConvSpec) -> str:
    """What the field calls this convolution, such as ``"dilated depthwise"``."""
    if spec.depthwise and spec.in_features > 1:
        words = "depthwise"
    elif spec.groups > 1:
        words = "grouped"
    else:
        words = "pointwise" if spec.pointwise else "standard"
    if any(d > 1 and k > 1 for d, k in zip(spec.dilation, spec.kernel_spatial, strict=True)):
        words = f"dilated {words}".removesuffix(" standard")
    suffix = {
        Operator.CONV: "",
        Operator.INPUT_GRAD: " transposed",
        Operator.FILTER_GRAD: " filter gradient",
    }
    return words + suffix[operator]
