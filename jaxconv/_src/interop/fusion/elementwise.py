"""Evaluates elementwise equations on sample points, in NumPy and in float64.

JAX is not run, so that nothing is compiled. Shapes are ignored: every array is a vector of the
values at the sample points, or a scalar.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr"}


class NotElementwiseError(Exception):
    """An equation that is not elementwise."""


def is_elementwise(eqn: JaxprEqn) -> bool:
    """Whether the equation computes every entry of its result from those at the same place.

    Views, such as a transpose, count: they do not change the values.
    """
    name = eqn.primitive.name
    if name in CALLS:
        single = name == "jit" or len(eqn.outvars) == 1
        return single and all(map(is_elementwise, eqn.params[CALLS[name]].jaxpr.eqns))
    if name == "convert_element_type" and not jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
        return False
    return len(eqn.outvars) == 1 and name in _FUNCTIONS


def evaluate(eqns: Iterable[JaxprEqn], values: dict[Any, Any]) -> None:
    """Adds the results of the equations to ``values``, which has those of their operands."""
    with np.errstate(all="ignore"):
        for eqn in eqns:
            operands = [value_of(atom, values) for atom in eqn.invars]
            name = eqn.primitive.name
            if name in CALLS:
                results = evaluate_jaxpr(eqn.params[CALLS[name]].jaxpr, operands)
            elif is_elementwise(eqn):
                results = [_FUNCTIONS[name](eqn.params, *operands)]
            else:
                raise NotElementwiseError(name)
            values.update(zip(eqn.outvars, results, strict=True))


def evaluate_jaxpr(jaxpr: Jaxpr, arguments: Sequence[Any]) -> list[Any]:
    """The results of a jaxpr without constants."""
    values = dict(zip(jaxpr.invars, arguments, strict=True))
    evaluate(jaxpr.eqns, values)
    return [value_of(atom, values) for atom in jaxpr.outvars]


def value_of(atom: Any, values: Mapping[Any, Any]) -> Any:
    if not isinstance(atom, Literal):
        return values[atom]
    value = np.asarray(atom.val, atom.aval.dtype)  # pyright: ignore[reportAttributeAccessIssue]
    return value if value.dtype == bool else _exact(float(value), atom.aval)


def literals(eqns: Iterable[JaxprEqn]) -> Iterator[float]:
    """The constants in these equations and in their calls."""
    for eqn in eqns:
        yield from (float(atom.val) for atom in eqn.invars if isinstance(atom, Literal))
        if eqn.primitive.name in CALLS:
            yield from literals(eqn.params[CALLS[eqn.primitive.name]].jaxpr.eqns)


# Irrational and other constants of activations, which a program holds rounded to its dtype.
_CONSTANTS = (
    *(math.sqrt(2 / math.pi), math.sqrt(2 / math.pi) * 0.044715, 2 * math.sqrt(2 / math.pi)),
    *(math.sqrt(0.5), math.sqrt(2), 2 / math.sqrt(math.pi), 0.044715, 1 / 6, 1 / 3),
)


def _exact(value: float, aval: Any) -> float:
    """The constant of which ``value`` is the rounded form, or ``value`` itself."""
    for constant in _CONSTANTS if jnp.issubdtype(aval.dtype, jnp.floating) else ():
        if float(np.asarray(constant, aval.dtype)) == abs(value):
            return math.copysign(constant, value)
    return value


def _plain(function: Callable) -> Callable:
    return lambda _, *operands: function(*operands)


def _same(_, operand: Any, *_sizes: Any) -> Any:
    return operand


def _logistic(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _select(_, which: Any, *cases: Any) -> Any:
    if len(cases) != 2:
        raise NotElementwiseError("select_n")
    return np.where(which, cases[1], cases[0])


def _convert(params: Mapping[str, Any], operand: Any) -> Any:
    return np.asarray(operand, np.float64)


_erf = np.vectorize(math.erf, otypes=[float])
_erfc = np.vectorize(math.erfc, otypes=[float])

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: _plain(function)
    for name, function in {
        "abs": np.abs,
        "add": np.add,
        "add_any": np.add,
        "and": np.logical_and,
        "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
        "div": np.divide,
        "eq": np.equal,
        "erf": _erf,
        "erfc": _erfc,
        "exp": np.exp,
        "exp2": np.exp2,
        "expm1": np.expm1,
        "ge": np.greater_equal,
        "gt": np.greater,
        "le": np.less_equal,
        "log": np.log,
        "log1p": np.log1p,
        "logistic": _logistic,
        "lt": np.less,
        "max": np.maximum,
        "min": np.minimum,
        "mul": np.multiply,
        "ne": np.not_equal,
        "neg": np.negative,
        "not": np.logical_not,
        "one_minus_square": lambda x: (1 - x) * (1 + x),
        "or": np.logical_or,
        "pow": np.power,
        "rsqrt": lambda x: 1 / np.sqrt(x),
        "sign": np.sign,
        "sqrt": np.sqrt,
        "square": np.square,
        "sub": np.subtract,
        "tanh": np.tanh,
    }.items()
}
_FUNCTIONS |= {
    "convert_element_type": _convert,
    "integer_pow": lambda params, x: np.power(x, float(params["y"])),
    "select_n": _select,
}
_FUNCTIONS |= dict.fromkeys(("broadcast_in_dim", "copy", "reshape", "squeeze", "transpose"), _same)
