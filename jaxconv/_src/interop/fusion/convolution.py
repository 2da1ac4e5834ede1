"""The equations that a fusion starts from: convolutions, of lax or of jaxconv."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from ...dispatch import implementation
from ...geometry.spec import ConvSpec, Operator
from ...primitives.explicit_sharding import is_explicit
from ...primitives.rules import PRIMITIVES
from ..rearrangement import Rearrangement
from ..recognize import recognize_equation
from .dense import Reshaping, dense, dense_layers_are_fused

DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A forward convolution, the layouts of its arrays, and how it is to be computed."""

    spec: ConvSpec
    lhs: Rearrangement | Reshaping
    rhs: Rearrangement | Reshaping
    result: Rearrangement | Reshaping
    feature_axis: int  # in the equation's result
    dtype: Any
    precision: Any
    implementation: str | None

    @property
    def wide_dtype(self) -> Any:
        """The dtype in which implementations compute an epilogue."""
        return jnp.dtype("float32") if self.dtype.itemsize == 2 else self.dtype


def convolution(eqn: JaxprEqn) -> Convolution | str | None:
    """The convolution, the reason why it cannot be fused, or None if it is something else."""
    layouts = _layouts(eqn)
    if layouts is None:
        return None
    result: Any = eqn.outvars[0].aval
    if result.dtype.name not in DTYPES:
        return f"its result is {result.dtype.name}"
    if is_explicit(result):
        return "its sharding is explicit, so XLA propagates it from operation to operation"
    if isinstance(layouts, str):
        return layouts
    own = eqn.primitive is PRIMITIVES[Operator.CONV]
    return Convolution(
        *layouts,
        dtype=jnp.dtype(result.dtype),
        precision=eqn.params["precision"],
        implementation=eqn.params["implementation"] if own else implementation.resolve(None),
    )


def _layouts(eqn: JaxprEqn) -> tuple[Any, ...] | str | None:
    """The spec, the layouts of both operands and of the result, and its axis of features."""
    if eqn.primitive is PRIMITIVES[Operator.CONV]:
        spec = eqn.params["spec"]
        unchanged = Rearrangement(tuple(range(spec.rank + 2)))
        return spec, unchanged, unchanged, unchanged, spec.rank + 1
    if eqn.primitive.name == "dot_general" and dense_layers_are_fused():
        found = dense(eqn)
        if found is None:
            return None
        return found.spec, found.lhs, found.rhs, found.result, len(found.result.shape) - 1
    if eqn.primitive.name != "conv_general_dilated":
        return None
    recognized = recognize_equation(eqn)
    if isinstance(recognized, str):
        return recognized
    if recognized.operator is not Operator.CONV:
        return "it is a transposed convolution or a gradient"
    result = recognized.result
    return recognized.spec, recognized.lhs, recognized.rhs, result, result.permutation[-1]
