"""What the convolutions of a function cost: parameters, multiply-accumulates and bytes."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from .equations import ConvEquation, intensity
from .jaxprs import convolutions, trace
from .tables import Table, Tabled, format_shape
from .tracing import check_function

HEADER = ("kind", "operands", "result", "runs", "parameters", "MACs", "bytes", "FLOP/byte")
FIGURES = ("parameters", "macs", "bytes", "intensity")


class Totals(Tabled):
    """A result that lists parts of a program and sums up what they cost."""

    @abc.abstractmethod
    def entries(self) -> Sequence[Any]:
        """What is summed, in program order."""

    @property
    def parameters(self) -> int:
        return sum(entry.parameters for entry in self.entries())

    @property
    def macs(self) -> int:
        return sum(entry.macs for entry in self.entries())

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries())

    @property
    def intensity(self) -> float:
        """Floating-point operations, two per multiply-accumulate, for each byte moved."""
        return intensity(self.macs, self.bytes)

    def totals(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in FIGURES}


@dataclasses.dataclass(frozen=True, repr=False)
class Cost(Totals):
    """The convolutions of a function in program order, with their cost, and totals.

    Each of ``convs`` has ``kind``, ``operator``, ``spec``, ``shapes``, ``count``, and, summed over
    all its ``count`` runs, ``macs`` (those on padding included, as is usual) and ``bytes``
    (operands plus result, each moved once per run). ``parameters`` are the entries of its kernel,
    however often it runs. Prints as a table.
    """

    convs: tuple[ConvEquation, ...]

    def entries(self) -> Sequence[ConvEquation]:
        return self.convs

    def as_dict(self) -> dict[str, Any]:
        """The convolutions and totals as plain lists, dicts and numbers."""
        return {"convs": [_as_dict(conv) for conv in self.convs], **self.totals()}

    def parts(self) -> list[Table]:
        runs = sum(conv.count for conv in self.convs)
        sums = (runs, self.parameters, self.macs, self.bytes, f"{self.intensity:.1f}")
        return [Table(HEADER, [*map(_row, self.convs), ("total", "", "", *sums)])]


def _as_dict(conv: ConvEquation) -> dict[str, Any]:
    operator = None if conv.operator is None else conv.operator.value
    head = {"kind": conv.kind, "operator": operator, "shapes": conv.shapes, "count": conv.count}
    return head | {name: getattr(conv, name) for name in FIGURES}


def _row(conv: ConvEquation) -> tuple[object, ...]:
    a, b, result = map(format_shape, conv.shapes)
    figures = (conv.parameters, conv.macs, conv.bytes, f"{conv.intensity:.1f}")
    return conv.kind, f"{a} {b}", result, conv.count, *figures


def cost(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Cost:
    """Counts parameters, multiply-accumulates and bytes of every convolution in ``fn(*args)``.

    The function is traced, not run. Convolutions by ``lax`` count as well as jaxconv's. Those in a
    scan count once per iteration, those in a while loop once, and all branches of a cond are
    listed.

    Args:
        fn: Any JAX function, or a module of Flax (nnx or linen) or Equinox.
        *args: Its arguments: arrays, ``jax.ShapeDtypeStruct`` or pytrees of them.
        **kwargs: Its keyword arguments.

    Returns:
        A ``Cost`` with one entry in ``convs`` per convolution, and totals.

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
    return Cost(tuple(convolutions(trace(fn, *args, **kwargs))))
