"""The factors of a convolution: the dimensions along which it can be partitioned.

Each factor is an axis of two or three arrays of the trilinear form ``T(x, k, g)`` that
``primitives/rules.py`` describes:

    n          the batch                         x, g
    s0, s1, …  each spatial axis                 x, g
    c          in-features, without groups       x, k
    f          out-features, without groups      k, g
    j          groups, if there are several      x, k, g
"""

from __future__ import annotations

from ..geometry.spec import ConvSpec, Operator
from ..primitives.rules import RESULT


def factor_roles(spec: ConvSpec) -> dict[str, str]:
    """Every factor, with the roles of the arrays that have it as an axis."""
    spatial = {f"s{axis}": "xg" for axis in range(spec.rank)}
    features = {"c": "xk", "f": "kg"} if spec.groups == 1 else {"j": "xkg"}
    return {"n": "xg", **spatial, **features}


def axis_factors(role: str, spec: ConvSpec) -> tuple[str | None, ...]:
    """The factor of each axis of the array ``role``; None for an axis that has no factor."""
    spatial = tuple(f"s{axis}" for axis in range(spec.rank))
    ungrouped = spec.groups == 1
    match role:
        case "x":
            return ("n", *spatial, "c" if ungrouped else "j")
        case "g":
            return ("n", *spatial, "f" if ungrouped else "j")
        case _:
            features = ("c", "f") if ungrouped else (None, "j")
            return (*(None,) * spec.rank, *features)


def summed_factors(operator: Operator, spec: ConvSpec) -> list[str]:
    """The factors that ``operator`` sums over: those that are no axis of its result."""
    return [factor for factor, roles in factor_roles(spec).items() if RESULT[operator] not in roles]


def factor_sizes(factor: str, spec: ConvSpec) -> tuple[int, ...]:
    """The size of a factor; for a spatial factor the input size and the output size."""
    if factor.startswith("s"):
        axis = int(factor[1:])
        return spec.input_spatial[axis], spec.output_spatial[axis]
    sizes = {"n": spec.batch, "c": spec.in_features, "f": spec.out_features, "j": spec.groups}
    return (sizes[factor],)
