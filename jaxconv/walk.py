"""Every convolution of a traced program, the family's and lax's, wherever it stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn

from .primitives import OPERATORS
from .recognise import LaxConvolution, Recognised, recognise
from .spec import ConvSpec, Operator


@dataclasses.dataclass(frozen=True)
class Found:
    """One convolution: what it is, how often it runs, and its operands' and result's dtypes.

    ``family`` says whether it is one of the family's primitives or lax's. What the family cannot
    express has no ``operator`` and no ``spec``, but a ``reason``.
    """

    operator: Operator | None
    spec: ConvSpec | None
    dtype: Any
    operand_dtypes: tuple[Any, Any]
    shapes: tuple[tuple[int, ...], ...]
    count: int
    family: bool
    implementation: str | None = None
    reason: str | None = None


def trace(fn: Callable, *args: Any, **kwargs: Any) -> Jaxpr:
    """The program of ``fn`` on these arguments; nothing is computed."""
    if not callable(fn):
        raise TypeError(f"fn must be callable, but got {type(fn).__qualname__}")
    return jax.make_jaxpr(lambda *a, **k: fn(*a, **k))(*args, **kwargs).jaxpr


def convolutions(jaxpr: Jaxpr, count: int = 1) -> Iterator[Found]:
    """All convolutions in program order; those in a scan count once an iteration."""
    for eqn in jaxpr.eqns:
        found = _found(eqn, count)
        if found is not None:
            yield found
        repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        for inner in inner_jaxprs(eqn):
            yield from convolutions(inner, count * repeats)


def inner_jaxprs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs inside an equation: of a jit, a loop's body, every branch of a cond."""
    for value in eqn.params.values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            inner: Any = getattr(entry, "jaxpr", entry)
            if hasattr(inner, "eqns"):
                yield inner


def _found(eqn: JaxprEqn, count: int) -> Found | None:
    operator = OPERATORS.get(eqn.primitive)
    avals: list[Any] = [variable.aval for variable in (*eqn.invars, *eqn.outvars)]
    if operator is None and eqn.primitive.name != "conv_general_dilated":
        return None
    common = {
        "dtype": avals[-1].dtype,
        "operand_dtypes": (avals[0].dtype, avals[1].dtype),
        "shapes": tuple(tuple(aval.shape) for aval in avals),
        "count": count,
        "family": operator is not None,
    }
    if operator is not None:
        params = eqn.params
        return Found(operator, params["spec"], implementation=params["implementation"], **common)
    recognised = recognise_equation(eqn)
    if isinstance(recognised, str):
        return Found(None, None, reason=recognised, **common)
    return Found(recognised.operator, recognised.spec, **common)


def recognise_equation(eqn: JaxprEqn) -> Recognised | str:
    """The family's member that a ``conv_general_dilated`` equation is, or why it is none."""
    lhs, rhs = eqn.invars
    return recognise_convolution(lhs.aval, rhs.aval, eqn.params)


def recognise_convolution(lhs: Any, rhs: Any, params: Mapping[str, Any]) -> Recognised | str:
    """The same of the primitive's operand types and parameters."""
    if not jax.numpy.issubdtype(lhs.dtype, jax.numpy.inexact):
        return f"{lhs.dtype} operands; the family has floating and complex ones"
    names = LaxConvolution._fields[2:]
    return recognise(
        LaxConvolution(tuple(lhs.shape), tuple(rhs.shape), *(params[name] for name in names))
    )
