"""Recognizes an activation by its values.

Libraries write the same activation in many ways, so the equations are not compared: they are
evaluated at sample points, and so are the definitions of the activations. The equations are few and
elementwise, and piecewise functions change only where their constants say, so that functions which
agree at all of these points are the same function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn

from ...geometry.epilogue import ACTIVATIONS, Epilogue
from ...kernels.xla.epilogue import activate
from . import elementwise

_MAGNITUDES = np.geomspace(1e-6, 60, 25)
_POINTS = np.concatenate([np.linspace(-12, 12, 385), _MAGNITUDES, -_MAGNITUDES])
_VALUE_TOLERANCE = 1e-11
_DERIVATIVE_TOLERANCE = 1e-6  # constants in derivatives are rounded to the program's dtype


class Activation(NamedTuple):
    """``same_derivative`` is whether jaxconv's derivative is the program's, also at kinks.

    At exactly 0, for example, the derivative of ``jax.nn.relu`` is 0, but that of
    ``jnp.maximum(x, 0)`` is one half.
    """

    epilogue: Epilogue
    same_derivative: bool


def recognize_activation(
    eqns: Sequence[JaxprEqn], argument: Any, result: Any, function: Callable[[Any], Any]
) -> Activation | None:
    """The activation that the equations compute, from one variable to another.

    ``function`` computes the same by JAX, for its derivative.
    """
    points = _sample_points(eqns)
    try:
        values: dict[Any, Any] = {argument: points}
        elementwise.evaluate(eqns, values)
    except elementwise.NotElementwiseError:
        return None
    candidates = [Epilogue(activation=name) for name in ACTIVATIONS if name != "leaky_relu"]
    candidates += _leaky_relu(points, values[result], argument.aval.dtype)
    for epilogue in candidates:
        dtype = argument.aval.dtype
        if _equal(values[result], _values(epilogue, dtype, points), points, _VALUE_TOLERANCE):
            ours = _derivatives(epilogue, dtype, points)
            theirs = _derivative(function, argument.aval, points)
            known = ours is not None and theirs is not None
            same = known and _equal(ours, theirs, points, _DERIVATIVE_TOLERANCE)
            return Activation(epilogue, same)
    return None


def same_comparison(
    activation: Sequence[JaxprEqn],
    argument: Any,
    result: Any,
    comparison: Sequence[JaxprEqn],
    outcome: Any,
) -> bool:
    """Whether the outcome of comparing ``argument`` is that of comparing ``result`` instead.

    ``z > 0``, for example, is ``relu(z) > 0``.
    """
    points = _sample_points([*activation, *comparison])
    values: dict[Any, Any] = {argument: points}
    elementwise.evaluate([*activation, *comparison], values)
    swapped: dict[Any, Any] = {argument: values[result]}
    elementwise.evaluate(comparison, swapped)
    return bool(np.all(values[outcome] == swapped[outcome]))


def _sample_points(eqns: Sequence[JaxprEqn]) -> np.ndarray:
    """Points at which all activations differ, and points around the constants in the equations."""
    constants = np.array([0.0, *elementwise.literals(eqns)])
    constants = np.concatenate([constants, -constants])
    near = [constants + step for step in (-1.0, -1e-3, 0.0, 1e-3, 1.0)]
    points = np.concatenate([_POINTS, *near])
    return points[np.isfinite(points)]


def _equal(ours: Any, theirs: Any, points: np.ndarray, tolerance: float) -> bool:
    scale = tolerance * np.maximum(1.0, np.abs(points))
    return bool(np.all(np.abs(ours - theirs) <= scale))  # NaN is not equal


def _leaky_relu(points: np.ndarray, values: Any, dtype: Any) -> list[Epilogue]:
    """The leaky ReLU that has the value at the most negative point, in the shortest decimals."""
    at = int(np.argmin(points))
    slope = float(np.broadcast_to(values, points.shape)[at] / points[at])
    rounded = float(str(np.asarray(slope, jnp.dtype(dtype))))
    slope = rounded if np.asarray(rounded, dtype) == np.asarray(slope, dtype) else slope
    return [Epilogue(activation="leaky_relu", negative_slope=slope)] if 0 < slope < 1 else []


def _derivative(function: Callable[[Any], Any], aval: Any, points: np.ndarray) -> Any:
    """The derivative as JAX computes it, or None if it is not made of known operations."""
    try:
        return _jvp(_jvp_of(function, aval), points)[1]
    except elementwise.NotElementwiseError:
        return None


def _jvp(program: Jaxpr, points: np.ndarray) -> list[Any]:
    return elementwise.evaluate_jaxpr(program, (points, np.ones_like(points)))


def _jvp_of(function: Callable[[Any], Any], aval: Any) -> Jaxpr:
    def jvp(z, dz):
        return jax.jvp(function, (z,), (dz,))

    z = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    return jax.make_jaxpr(jvp)(z, z).jaxpr


def _values(epilogue: Epilogue, dtype: Any, points: np.ndarray) -> Any:
    """The values of jaxconv's activation."""
    return elementwise.evaluate_jaxpr(_programs(epilogue, dtype)[0], (points,))[0]


def _derivatives(epilogue: Epilogue, dtype: Any, points: np.ndarray) -> Any:
    """The derivative of jaxconv's activation, or None if it is not made of known operations."""
    try:
        return _jvp(_programs(epilogue, dtype)[1], points)[1]
    except elementwise.NotElementwiseError:
        return None


@functools.cache
def _programs(epilogue: Epilogue, dtype: Any) -> tuple[Jaxpr, Jaxpr]:
    """Jaxconv's activation, and its JVP."""
    aval = jax.ShapeDtypeStruct((1,), dtype)
    function = functools.partial(activate, epilogue=epilogue)
    return jax.make_jaxpr(function)(aval).jaxpr, _jvp_of(function, aval)
