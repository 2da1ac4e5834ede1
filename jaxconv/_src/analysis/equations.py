"""What one operation of a traced program is, how often it runs, and what it costs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from ..geometry.epilogue import NO_EPILOGUE, Epilogue
from ..geometry.spec import ConvSpec, Operator
from ..interop.fusion.fusions import Fusion
from ..interop.recognize import recognize_equation
from ..interop.recognized_operator import RecognizedOperator
from ..primitives.fused import fused_conv_p
from ..primitives.packed import packed_conv_p
from ..primitives.rules import OPERATORS

Shape = tuple[int, ...]


def intensity(macs: int, moved: int) -> float:
    """Floating-point operations, two per multiply-accumulate, for each byte moved."""
    return 2 * macs / moved if moved else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Equation:
    """One operation of a traced program, which runs ``count`` times.

    ``shapes`` and ``dtypes`` are those of the operands, followed by that of the result.
    """

    shapes: tuple[Shape, ...]
    dtypes: tuple[Any, ...]
    macs_per_run: int
    count: int

    @property
    def dtype(self) -> Any:
        """The result's."""
        return self.dtypes[-1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all runs; those on padding count, as is usual."""
        return self.count * self.macs_per_run

    @property
    def bytes(self) -> int:
        """Bytes of the operands and the result, each moved once per run."""
        arrays = zip(self.shapes, self.dtypes, strict=True)
        return self.count * sum(math.prod(s) * np.dtype(d).itemsize for s, d in arrays)

    @property
    def intensity(self) -> float:
        return intensity(self.macs, self.bytes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvEquation(Equation):
    """One convolution of a traced program.

    ``primitive`` is whether it is one of jaxconv's primitives; otherwise it is lax's convolution.
    A convolution of lax's that jaxconv cannot express, such as one of integers, has no ``operator``
    and no ``spec``. ``recognized`` is what a convolution of lax's is to jaxconv, or the reason why
    it is nothing; None for a primitive. ``forced`` is the implementation that the program asks for,
    if it does. ``epilogue`` is what a fused convolution computes after it; ``unfused_reason`` says
    why a convolution is not fused with what follows it. ``packed`` is whether the kernel is packed
    for the CPU engine already.
    """

    operator: Operator | None
    spec: ConvSpec | None
    primitive: bool
    forced: str | None = None
    recognized: RecognizedOperator | str | None = None
    epilogue: Epilogue = NO_EPILOGUE
    unfused_reason: str | None = None
    packed: bool = False

    @property
    def kind(self) -> str:
        """What the field calls this convolution, such as ``"dilated depthwise"``."""
        if self.operator is None or self.spec is None:
            return "convolution"
        return self.spec.kind + _SUFFIX[self.operator]

    @property
    def parameters(self) -> int:
        """Entries of the kernel, however often it is used; a filter gradient reads no kernel."""
        return 0 if self.operator is Operator.FILTER_GRAD else math.prod(self.shapes[1])


_SUFFIX = {
    Operator.CONV: "",
    Operator.INPUT_GRAD: " transposed",
    Operator.FILTER_GRAD: " filter gradient",
}


@dataclasses.dataclass(frozen=True)
class ConvResult:
    """A convolution of a program, with what an analysis found out about it."""

    equation: ConvEquation

    @property
    def operator(self) -> Operator | None:
        return self.equation.operator

    @property
    def spec(self) -> ConvSpec | None:
        return self.equation.spec

    @property
    def dtype(self) -> Any:
        return self.equation.dtype

    @property
    def epilogue(self) -> Epilogue:
        """What a fused convolution computes after the products; trivial for all others."""
        return self.equation.epilogue

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return self.equation.shapes

    @property
    def count(self) -> int:
        return self.equation.count


def conv_equation(eqn: JaxprEqn, count: int, fusion: Fusion | None = None) -> ConvEquation | None:
    """The convolution that an equation of a program is, or None if it is something else."""
    packed = eqn.primitive is packed_conv_p
    fused = packed or eqn.primitive is fused_conv_p
    operator = Operator.CONV if fused else OPERATORS.get(eqn.primitive)
    if operator is None and eqn.primitive.name != "conv_general_dilated":
        return None
    operands = eqn.invars[:-1] if packed else eqn.invars  # the packed kernel is read in place of it
    avals: list[Any] = [variable.aval for variable in (*operands, *eqn.outvars)]
    shapes = tuple(tuple(aval.shape) for aval in avals)
    common: dict[str, Any] = {
        "unfused_reason": None if fusion is None else _unfused_reason(fusion),
        "shapes": shapes,
        "dtypes": tuple(aval.dtype for aval in avals),
        "count": count,
        "primitive": operator is not None,
        "packed": packed,
        "epilogue": eqn.params["epilogue"] if fused else NO_EPILOGUE,
    }
    if operator is not None:
        spec, forced = eqn.params["spec"], eqn.params.get("implementation")
        return ConvEquation(
            operator=operator, spec=spec, macs_per_run=spec.macs, forced=forced, **common
        )
    recognized = recognize_equation(eqn)
    if isinstance(recognized, str):
        macs = _lax_macs(shapes, eqn.params["dimension_numbers"].rhs_spec[0])
        return ConvEquation(
            operator=None, spec=None, macs_per_run=macs, recognized=recognized, **common
        )
    spec = recognized.spec
    return ConvEquation(
        operator=recognized.operator,
        spec=spec,
        macs_per_run=spec.macs,
        recognized=recognized,
        **common,
    )


def _unfused_reason(fusion: Fusion) -> str | None:
    if fusion.epilogue is None:
        return fusion.reason
    return f"accelerate fuses it with {fusion.epilogue}, but was not applied"


def _lax_macs(shapes: tuple[Shape, ...], out_feature_axis: int) -> int:
    """Every entry of the result sums as many products as one filter has entries."""
    _, kernel, result = shapes
    filter_shape = (n for axis, n in enumerate(kernel) if axis != out_feature_axis)
    return math.prod(result) * math.prod(filter_shape)
