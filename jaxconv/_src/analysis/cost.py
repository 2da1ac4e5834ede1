"""What the convolutions of a function cost: parameters, multiply-accumulates and bytes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..geometry.spec import ConvSpec, Operator
from .jaxprs import Found, convolutions, trace
from .tables import Rows, Tabled, format_shape
from .tracing import check_function


@dataclasses.dataclass(frozen=True)
class ConvCost:
    """One convolution, with the sums of all its ``count`` runs.

    ``macs`` counts those on padding too, as is usual; ``bytes`` is operands plus result, each
    moved once; ``parameters`` are the kernel's entries, whether it runs once or often. A
    convolution by lax that the family does not have, as of integers, has no operator and no spec.
    """

    kind: str
    operator: Operator | None
    spec: ConvSpec | None
    shapes: tuple[tuple[int, ...], ...]
    parameters: int
    macs: int
    bytes: int
    count: int

    @property
    def intensity(self) -> float:
        """Floating-point operations, two a multiply-accumulate, for each byte moved."""
        return intensity(self.macs, self.bytes)


def intensity(macs: int, moved: int) -> float:
    return 2 * macs / moved if moved else 0.0


@dataclasses.dataclass(frozen=True)
class Cost(Tabled):
    """The convolutions of a function in program order, and totals; a table, in notebooks too."""

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

    @property
    def intensity(self) -> float:
        return intensity(self.macs, self.bytes)

    def as_dict(self) -> dict[str, Any]:
        """The convolutions and totals as plain lists, dicts and numbers."""
        convs = [
            dict(zip(ENTRIES, (c.kind, _name(c.operator), c.shapes, *_sums(c)), strict=True))
            for c in self.convs
        ]
        totals = {"parameters": self.parameters, "macs": self.macs, "bytes": self.bytes}
        return {"convs": convs, **totals, "intensity": self.intensity}

    def table(self) -> tuple[Sequence[str], Rows]:
        count = sum(conv.count for conv in self.convs)
        sums = (count, self.parameters, self.macs, self.bytes, f"{self.intensity:.1f}")
        return HEADER, [*map(_row, self.convs), ("total", "", "", *sums)]


HEADER = ("kind", "operands", "result", "runs", "parameters", "MACs", "bytes", "FLOP/byte")
ENTRIES = (
    *("kind", "operator", "shapes"),
    *("count", "parameters", "macs", "bytes", "intensity"),
)


def _name(operator: Operator | None) -> str | None:
    return None if operator is None else operator.value


def _sums(conv: ConvCost) -> tuple:
    return conv.count, conv.parameters, conv.macs, conv.bytes, conv.intensity


def _row(conv: ConvCost) -> tuple[object, ...]:
    a, b, result = map(format_shape, conv.shapes)
    *sums, each = _sums(conv)
    return conv.kind, f"{a} {b}", result, *sums, f"{each:.1f}"


def cost(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Cost:
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
    check_function("cost", fn)
    return Cost(tuple(map(_cost, convolutions(trace(fn, *args, **kwargs)))))


def _cost(found: Found) -> ConvCost:
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
        parameters=math.prod(found.shapes[1]) if reads_kernel else 0,
        macs=found.macs * found.count,
        bytes=sum(sizes) * found.count,
        count=found.count,
    )


def kind(operator: Operator | None, spec: ConvSpec | None) -> str:
    """What the field calls this convolution, such as ``"dilated depthwise"``."""
    if operator is None or spec is None:
        return "convolution"
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
