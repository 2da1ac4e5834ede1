"""Writes products with constant matrices as ``x [..., C] @ kernel [C, F]``, as dense layers are.

Libraries and ``vmap`` also write them as ``kernel [F, C] @ x [N, C].T``. Transposing a constant is
free, and the transposes of the activations cancel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from .edit import inlined_equations

Array = jax.Array


def with_regular_products(jaxpr: Jaxpr, constants: Mapping[Any, Any]) -> Jaxpr:
    eqns: list[JaxprEqn] = []
    for eqn in jaxpr.eqns:
        product = _product(eqn, constants)
        if product is None:
            eqns.append(eqn)
            continue
        with eqn.ctx.manager:
            program = jax.make_jaxpr(product)(*[atom.aval for atom in eqn.invars]).jaxpr
        eqns += inlined_equations(program, eqn.invars, eqn.outvars, eqn)
    return jaxpr.replace(eqns=eqns)


def _product(eqn: JaxprEqn, constants: Mapping[Any, Any]) -> Callable[..., Array] | None:
    """The product in regular form; None if it is that already, or cannot be."""
    if eqn.primitive.name != "dot_general" or eqn.params["out_sharding"] is not None:
        return None
    (lhs, rhs), batch = eqn.params["dimension_numbers"]
    constant = [not isinstance(a, Literal) and a in constants for a in eqn.invars]
    if any(batch) or len(lhs) != 1 or sum(constant) != 1:
        return None
    kernel, x = eqn.invars if constant[0] else eqn.invars[::-1]
    kernel_axis, x_axis = (lhs[0], rhs[0]) if constant[0] else (rhs[0], lhs[0])
    ranks = [len(atom.aval.shape) for atom in (kernel, x)]  # pyright: ignore[reportAttributeAccessIssue]
    if ranks[0] != 2 or ranks[1] < 2 or x_axis != ranks[1] - 1:
        return None
    if not constant[0] and kernel_axis == 0:
        return None
    params = {name: eqn.params[name] for name in ("precision", "preferred_element_type")}
    return functools.partial(_regular, constant[0], kernel_axis, params)


def _regular(kernel_first: bool, kernel_axis: int, params: dict, lhs: Array, rhs: Array) -> Array:
    kernel, x = (lhs, rhs) if kernel_first else (rhs, lhs)
    kernel = kernel if kernel_axis == 0 else kernel.T
    y = lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), **params)
    return jnp.moveaxis(y, -1, 0) if kernel_first else y
