"""The equations that a fusion starts from: convolutions, of lax or of jaxconv."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jax.sharding import AxisType

from ...dispatch import implementation
from ...geometry.spec import ConvSpec, Operator
from ...primitives.rules import PRIMITIVES
from ..rearrangement import Rearrangement
from ..recognize import recognize_equation

DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A forward convolution, the layouts of its arrays, and how it is to be computed."""

    spec: ConvSpec
    lhs: Rearrangement
    rhs: Rearrangement
    result: Rearrangement
    dtype: Any
    precision: Any
    implementation: str | None

    @property
    def feature_axis(self) -> int:
        """The axis of the features in the equation's result."""
        return self.result.permutation[-1]

    @property
    def wide_dtype(self) -> Any:
        """The dtype in which implementations compute an epilogue."""
        return jnp.dtype("float32") if self.dtype.itemsize == 2 else self.dtype


def convolution(eqn: JaxprEqn) -> Convolution | str | None:
    """The convolution, the reason why it cannot be fused, or None if it is something else."""
    own = eqn.primitive is PRIMITIVES[Operator.CONV]
    if not own and eqn.primitive.name != "conv_general_dilated":
        return None
    result: Any = eqn.outvars[0].aval
    if result.dtype.name not in DTYPES:
        return f"its result is {result.dtype.name}"
    if _is_explicit(result.sharding.mesh):
        return "its sharding is explicit, so XLA propagates it from operation to operation"
    if own:
        spec = eqn.params["spec"]
        lhs = rhs = rearranged = Rearrangement(tuple(range(spec.rank + 2)))
    else:
        recognized = recognize_equation(eqn)
        if isinstance(recognized, str):
            return recognized
        if recognized.operator is not Operator.CONV:
            return "it is a gradient"
        spec = recognized.spec
        lhs, rhs, rearranged = recognized.lhs, recognized.rhs, recognized.result
    return Convolution(
        spec=spec,
        lhs=lhs,
        rhs=rhs,
        result=rearranged,
        dtype=jnp.dtype(result.dtype),
        precision=eqn.params["precision"],
        implementation=eqn.params["implementation"] if own else implementation.resolve(None),
    )


def _is_explicit(mesh: Any) -> bool:
    return not mesh.empty and AxisType.Explicit in mesh.axis_types
