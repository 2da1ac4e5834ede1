"""One traced program of a frozen function, optimized for inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from ..primitives.fused import fused_conv_p
from .constants import constant_variables
from .edit import edited
from .fusion.dense import fuse_dense_layers
from .inlined import body_of_jit, inlined
from .packing import Layer, with_packed_kernels
from .products import with_regular_products


class OptimizedProgram(NamedTuple):
    """A program before and after, both of ``parameters`` followed by the other arguments.

    ``values`` are those of the parameters. ``origins`` has the parameters that each constant
    depends on.
    """

    original: Jaxpr
    optimized: Jaxpr
    parameters: tuple[Any, ...]
    values: list[Any]
    layers: list[Layer]
    origins: dict[Any, frozenset[Any]]


def optimize(program: ClosedJaxpr, held: Sequence[Any], platform: str) -> OptimizedProgram:
    """The optimized form of a program whose first arguments are the arrays ``held``."""
    original, consts = inlined(program, body_of_jit)
    parameters = tuple(original.invars[: len(consts) + len(held)])
    regular = with_regular_products(original, constant_variables(original, parameters))
    fused = _fused(regular, platform)
    origins = constant_variables(fused, parameters)
    packed, layers = with_packed_kernels(fused, origins, platform)
    return OptimizedProgram(original, packed, parameters, [*consts, *held], layers, origins)


def _fused(jaxpr: Jaxpr, platform: str) -> Jaxpr:
    """With convolutions, and on CPU dense layers, fused with what follows them."""
    if platform == "cpu":
        with fuse_dense_layers():
            fused = edited(jaxpr)
    else:
        fused = edited(jaxpr)
    return inlined(ClosedJaxpr(fused, ()), _body_of_fused).jaxpr


def _body_of_fused(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """A fused convolution that has the derivative of the original's equations is called so."""
    if eqn.primitive.name != "custom_jvp_call":
        return None
    body: ClosedJaxpr = eqn.params["call_jaxpr"]
    fused = any(inner.primitive is fused_conv_p for inner in body.jaxpr.eqns)
    return body if fused else None
