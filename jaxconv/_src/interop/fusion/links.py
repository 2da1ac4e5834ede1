"""What is known of a value that follows a convolution: its layout, and how it is computed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

from jax.extend.core import JaxprEqn

from ...geometry.epilogue import Epilogue
from .flat import shape_of, variables

VIEWS = ("reshape", "squeeze", "transpose", "broadcast_in_dim")


class NotFusibleError(Exception):
    """Its message is the reason, which completes "not fused, because …"."""


class View(NamedTuple):
    """A change of shape that keeps the values: a transpose, or else a reshape."""

    shape: tuple[Any, ...]
    new_shape: tuple[Any, ...]
    permutation: tuple[int, ...] | None = None


class Step(NamedTuple):
    """One operation with a value per feature or a single value: ``operation(value, vector)``.

    ``vector`` is an atom of the program or a float. ``operation`` is ``"mul"``, ``"div"``,
    ``"add"`` or ``"sub"``, or ``"rsub"`` for the vector minus the value.
    """

    operation: str
    vector: Any


@dataclasses.dataclass(frozen=True)
class Affine:
    """The steps since the convolution, and the array that is added last."""

    steps: tuple[Step, ...] = ()
    residual: Any = None
    residual_views: tuple[View, ...] = ()

    def then(self, operation: str, vector: Any) -> Affine:
        if operation not in ("add", "sub") and self.residual is not None:
            raise NotFusibleError("the sum with the residual is scaled")
        return dataclasses.replace(self, steps=(*self.steps, Step(operation, vector)))

    def plus(self, residual: Any, views: tuple[View, ...]) -> Affine:
        if self.residual is not None:
            raise NotFusibleError("a second array is added")
        return dataclasses.replace(self, residual=residual, residual_views=views)

    def epilogue(self, activation: Epilogue) -> Epilogue:
        """The epilogue of all steps and an activation."""
        operations = {step.operation for step in self.steps}
        return activation.replace(
            scale=bool(operations & {"mul", "div", "rsub"}),
            bias=bool(operations & {"add", "sub", "rsub"}),
            residual=self.residual is not None,
        )


@dataclasses.dataclass(frozen=True)
class Link:
    """A value computed from the convolution's result.

    ``views`` lead from the result's shape to ``shape``. ``affine`` is None if the value is another
    function of the result.
    """

    shape: tuple[Any, ...]
    feature_axis: int
    views: tuple[View, ...] = ()
    affine: Affine | None = Affine()


def viewed(eqn: JaxprEqn, link: Link) -> Link:
    """The value after a view."""
    name, new_shape = eqn.primitive.name, shape_of(eqn.outvars[0])
    if name == "transpose":
        permutation = tuple(int(axis) for axis in eqn.params["permutation"])
        view, axis = View(link.shape, new_shape, permutation), permutation.index(link.feature_axis)
    else:
        found = _axis_after_reshape(link.shape, new_shape, link.feature_axis)
        plain = eqn.params.get("dimensions") is None or name == "squeeze"
        if found is None or not plain or len(variables(eqn.invars)) != 1:
            raise NotFusibleError(f"{name} changes the axis of features")
        view, axis = View(link.shape, new_shape), found
    return Link(new_shape, axis, (*link.views, view), link.affine)


def _axis_after_reshape(
    shape: tuple[Any, ...], new_shape: tuple[Any, ...], axis: int
) -> int | None:
    """Where a reshape leaves an axis; None if it does not keep it."""
    if math.prod(shape) != math.prod(new_shape):
        return None
    before = math.prod(shape[:axis])
    for at, n in enumerate(new_shape):
        if n == shape[axis] and math.prod(new_shape[:at]) == before:
            return at
    return None
