"""Assertions about jaxconv's primitives: values and gradients, adjointness, jaxprs."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
from jax.extend import core

import jaxconv
from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.primitives.rules import PRIMITIVES
from support import oracle
from support.oracle import Case

ROLES = {Operator.CONV: "g", Operator.INPUT_GRAD: "x", Operator.FILTER_GRAD: "k"}
NAMES = {primitive.name for primitive in PRIMITIVES.values()}


def as_spec(case: Case) -> ConvSpec:
    names = {field.name for field in dataclasses.fields(ConvSpec)} - {"examples"}
    return ConvSpec(**{name: getattr(case, name) for name in names})


def gradients(apply, x, k, g) -> tuple:
    """``apply(x, k)``, and the cotangents of x and k for the cotangent g."""
    y, pull = jax.vjp(apply, x, k)
    return y, *pull(g)


def training(case: Case):
    """The case's convolution and both of its gradients, of x, k and g."""
    return functools.partial(gradients, functools.partial(jaxconv.conv, **case.options()))


def assert_all_right(case: Case, arrays, results) -> None:
    """``results`` are the convolution and both gradients of x, k and g."""
    x, k, g = arrays
    y, dx, dk = results
    oracle.assert_right(y, "g", case, x=x, k=k)
    assert (dx.dtype, dk.dtype) == (x.dtype, k.dtype)
    oracle.assert_right(dx, "x", case, k=k, g=g)
    oracle.assert_right(dk, "k", case, x=x, g=g)


def assert_conv(apply, case: Case, x, k, g) -> None:
    """``apply(x, k)`` is the case's convolution: its value and both of its gradients."""
    assert_all_right(case, (x, k, g), gradients(apply, x, k, g))


def assert_adjoint(case: Case, y, dx, dk, x, k, g) -> None:
    """``<g, y> = <dx, x> = <dk, k>``: the three operators are derivatives of one form."""
    pairings = [
        np.vdot(oracle.exact(a).conj(), oracle.exact(b)) for a, b in ((g, y), (dx, x), (dk, k))
    ]
    size = np.linalg.norm(oracle.exact(g)) * np.linalg.norm(oracle.exact(y))
    allowed = 100 * oracle.epsilon(y.dtype) * max(size, np.abs(pairings[0]))
    assert np.max(np.abs(np.array(pairings) - pairings[0])) <= allowed, (pairings, case)


def primitives(fn, *args) -> list[str]:
    """The names of all primitives that ``fn`` binds, in sub-jaxprs too."""
    return [equation.primitive.name for equation in equations(jax.make_jaxpr(fn)(*args).jaxpr)]


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for sub in core.jaxprs_in_params(equation.params):
            yield from equations(sub)


def assert_uses_primitives(fn, *args, binds=()) -> None:
    """``fn`` binds jaxconv's primitives, including ``binds``, and none of lax's convolutions."""
    bound = set(primitives(fn, *args))
    assert "conv_general_dilated" not in bound
    assert bound & NAMES >= set(binds), bound
    assert bound & NAMES, bound
