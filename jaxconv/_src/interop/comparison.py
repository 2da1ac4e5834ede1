"""Compares an optimized program with the original on the examples, and names what differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from .frozen import NAME
from .optimized_program import OptimizedProgram

# The largest difference allowed, as a part of the largest value of an output or of a layer. Each
# of some hundred layers rounds anew; float32 networks of 50 layers were seen to differ by 1e-5.
BOUNDS = {"float64": 1e-9, "float32": 1e-3, "float16": 3e-2, "bfloat16": 1e-1}


def bound_of(jaxpr: Jaxpr) -> float:
    """That of the narrowest floating dtype in the program."""
    avals: list[Any] = [variable.aval for eqn in jaxpr.eqns for variable in eqn.outvars]
    dtypes = {str(aval.dtype) for aval in avals if hasattr(aval, "dtype")}
    return max((BOUNDS[dtype] for dtype in dtypes if dtype in BOUNDS), default=BOUNDS["float32"])


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference, as a part of the largest value; of integers, 0 or infinity."""
    a, b = (_numpy(array) for array in (ours, theirs))
    if a.size == 0 or np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"):
        return 0.0
    if a.dtype.kind not in "fc" or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return np.inf
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    largest = np.max(np.abs(b[finite]), initial=0.0)
    error = np.max(np.abs(a[finite] - b[finite]), initial=0.0)
    return float(error / largest) if largest else np.inf


def _numpy(array: Any) -> np.ndarray:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    inexact = jnp.issubdtype(array.dtype, jnp.inexact)
    wide = "complex128" if jnp.issubdtype(array.dtype, jnp.complexfloating) else "float64"
    return np.asarray(array).astype(wide) if inexact else np.asarray(array)


def check_equal(
    ours: Sequence[Any],
    theirs: Sequence[Any],
    program: OptimizedProgram,
    arrays: Sequence[Any],
    names: dict[Any, str],
) -> None:
    """Raises a ValueError that names a layer if the outputs differ by more than the bound.

    ``arrays`` are the arguments other than the parameters; ``names`` has the parameters' names.
    """
    bound = bound_of(program.original)
    errors = [difference(a, b) for a, b in zip(ours, theirs, strict=True)]
    at = int(np.argmax(errors)) if errors else 0
    if not errors or errors[at] <= bound:
        return
    raise ValueError(
        f"{NAME}: on the example arguments, output {at} of the optimized function differs from "
        f"that of the original by {errors[at]:.2g} of its largest value, where {bound:g} is "
        f"allowed; {_first_difference(program, arrays, names, bound)}. The original is unchanged"
    )


def _first_difference(
    program: OptimizedProgram, arrays: Sequence[Any], names: dict[Any, str], bound: float
) -> str:
    """Where the two programs start to differ."""
    produced = {v for eqn in program.original.eqns for v in eqn.outvars}
    layers = [layer for layer in program.layers if layer.result in produced]
    results = [layer.result for layer in layers]
    ours, theirs = (
        jax.jit(jaxpr_as_fun(ClosedJaxpr(jaxpr.replace(outvars=results), ())))(
            *program.values, *arrays
        )
        for jaxpr in (program.optimized, program.original)
    )
    for layer, a, b in zip(layers, ours, theirs, strict=True):
        if difference(a, b) > bound:
            origins = program.origins.get(layer.kernel, frozenset())
            found = sorted(names[variable] for variable in origins if names.get(variable))
            kernel = " and ".join(found) or f"a kernel of shape {layer.spec.kernel_shape}"
            return f"the first layer that differs is the convolution by {kernel}"
    return (
        "no layer differs on its own, so fn is not a function of its arguments alone, or it "
        "amplifies rounding errors"
    )
