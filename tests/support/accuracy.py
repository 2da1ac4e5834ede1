"""The error of every implementation, element by element, beside the bound that it must meet.

    PYTHONPATH=tests python -m support.accuracy --json benchmarks/results/accuracy.json

A sum of n products in any order is off by at most ``gamma_n * sum |a||b|``, where
``gamma_n = n u / (1 - n u)`` and ``u`` is half the epsilon of the accumulator (Higham, Accuracy and
Stability of Numerical Algorithms, section 3.1). float16 and bfloat16 are accumulated in float32, in
which their products are exact, and rounded once at the end.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

import jaxconv
from benchmarks.common import arguments, results
from benchmarks.common.machine import machine, versions
from benchmarks.cpu import tables
from jaxconv._src.dispatch import registry
from jaxconv._src.geometry.spec import Operator
from jaxconv._src.primitives import rules
from support import oracle
from support.cases import DTYPES, operand
from support.operators import as_spec
from support.oracle import Case

REAL = ("float32", "float64", "bfloat16", "float16")
CASES = {
    "dense": Case(2, 67, 35, (11, 13), (3, 3), (1, 1), ((1, 1), (0, 1)), (1, 1)),
    "strided": Case(2, 19, 24, (14, 9), (4, 3), (2, 1), ((1, 1), (1, 1)), (1, 2)),
    "grouped": Case(2, 24, 36, (9, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 3),
    "depthwise": Case(3, 40, 80, (13, 12), (5, 3), (2, 1), ((2, 2), (1, 1)), (1, 1), 40),
    "pointwise": Case(2, 129, 40, (9, 8), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "sequence": Case(3, 16, 8, (301,), (7,), (1,), ((6, 0),), (1,)),
}
QUICK = {"xla_backend_optimization_level": 0}  # halves the time to compile


@dataclasses.dataclass(frozen=True)
class Error:
    """The largest error of a result: of its bound, and in ulp of ``sum |a||b|``."""

    of_bound: float
    ulp: float


def error_of(result, exact: np.ndarray, magnitude: np.ndarray, terms: int) -> Error:
    """``exact`` is the sum of ``terms`` products, and ``magnitude`` that of their sizes."""
    result = np.asarray(result)
    unit = oracle.epsilon(result.dtype) / 2
    unit_of_sum = min(unit, oracle.epsilon(np.float32) / 2)
    gamma = terms * unit_of_sum / (1 - terms * unit_of_sum)
    bound = gamma * magnitude
    if unit_of_sum < unit:  # the sum is rounded to the dtype, which may be subnormal there
        least = float(ml_dtypes.finfo(result.dtype).smallest_subnormal)
        bound = bound + unit * (np.abs(exact) + bound) + least / 2
    error = np.abs(oracle.exact(result) - exact)
    used = magnitude > 0
    assert not error[~used].any(), "a sum without products is not zero"
    error, bound, magnitude = error[used], bound[used], magnitude[used]
    return Error(
        float(np.max(error / bound, initial=0)),
        float(np.max(error / (2 * unit * magnitude), initial=0)),
    )


def operands(case: Case, dtype, positive: bool) -> dict[str, np.ndarray]:
    """Random arrays by role. Sums of positive numbers do not cancel, and round most."""
    arrays = {role: operand(case.shape(role), np.float64, ord(role)) for role in "xkg"}
    return {
        role: (np.abs(array) + 0.5 if positive else array).astype(dtype)
        for role, array in arrays.items()
    }


@functools.cache
def expected(
    case: Case, operator: Operator, dtype, positive: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The exact result, and the sums of sizes."""
    arrays = operands(case, dtype, positive)
    wide = np.longdouble if dtype == np.float64 else np.float64
    pair = {role: arrays[role].astype(wide) for role in rules.ROLES[operator]}
    role = rules.RESULT[operator]
    sizes = {name: np.abs(array) for name, array in pair.items()}
    return oracle.compute(role, case, **pair), oracle.compute(role, case, **sizes)


def implementation(name: str, operator: Operator, case: Case, dtype) -> Callable:
    """``operator`` of two arrays, as lowering computes it."""
    compute = getattr(registry.IMPLEMENTATIONS[name]["cpu"], operator.value)
    return functools.partial(compute, spec=as_spec(case), dtype=jnp.dtype(dtype))


def compiled(name: str, operators: list[Operator], case: Case, dtype) -> Callable:
    """The results of ``operators``, of arrays by role, in one program."""
    calls = {each: implementation(name, each, case, dtype) for each in operators}

    def compute(arrays):
        return [call(*(arrays[r] for r in rules.ROLES[each])) for each, call in calls.items()]

    return jax.jit(compute, compiler_options=QUICK)


def supported(name: str, case: Case, dtype) -> list[Operator]:
    reason = functools.partial(registry.unsupported_reason, name, spec=as_spec(case), dtype=dtype)
    return [operator for operator in Operator if reason(operator=operator) is None]


def errors_of(name: str, case: Case, dtype) -> Iterator[tuple[Operator, Error]]:
    """Of every operator that the implementation supports, with two sets of operands."""
    operators = supported(name, case, dtype)
    call = compiled(name, operators, case, dtype)
    for positive in (False, True):
        for operator, result in zip(operators, call(operands(case, dtype, positive)), strict=True):
            exact = expected(case, operator, dtype, positive)
            terms = case.terms(rules.RESULT[operator])
            yield operator, error_of(result, *exact, terms)


def fused_errors(case: Case, dtype) -> Iterator[tuple[Operator, Error]]:
    """Of ``conv * scale + bias + residual``, three operations more."""
    call = jax.jit(
        lambda x, k, bias, scale, residual: jaxconv.fused_conv(
            x, k, bias, scale=scale, residual=residual, **case.options()
        )
    )
    for positive in (False, True):
        arrays = operands(case, dtype, positive)
        residual = arrays["g"]
        bias, scale = residual.reshape(-1, case.out_features)[:2]
        result = call(arrays["x"], arrays["k"], bias, scale, residual)
        exact, magnitude = expected(case, Operator.CONV, dtype, positive)
        bias, scale, residual = (each.astype(exact.dtype) for each in (bias, scale, residual))
        exact = exact * scale + bias + residual
        magnitude = magnitude * np.abs(scale) + np.abs(bias) + np.abs(residual)
        yield Operator.CONV, error_of(result, exact, magnitude, case.terms("g") + 3)


def measure(name: str, dtype_name: str) -> Iterator[results.Row]:
    """A row for every operator: the largest errors over all cases."""
    dtype = np.dtype(DTYPES[dtype_name])
    found: dict[Operator, list[Error]] = {}
    for case in CASES.values():
        errors = fused_errors(case, dtype) if name == "fused" else errors_of(name, case, dtype)
        for operator, error in errors:
            found.setdefault(operator, []).append(error)
    for operator, errors in found.items():
        yield {
            "implementation": name,
            "operator": operator.value,
            "dtype": dtype_name,
            "ulp": max(error.ulp for error in errors),
            "of_bound": None if name == "fft" else max(error.of_bound for error in errors),
        }


def on_cpu() -> list[str]:
    return [name for name, modules in registry.IMPLEMENTATIONS.items() if "cpu" in modules]


def main() -> None:
    parser = arguments.parser(__doc__)
    arguments.add_json(parser)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = [row for name in (*on_cpu(), "fused") for dtype in REAL for row in measure(name, dtype)]
    report = results.report(rows, machine(), versions("jax"))
    if args.json:
        results.write(args.json, report)
    print(tables.accuracy(rows), report.source, sep="\n\n")
    raise SystemExit(any((row["of_bound"] or 0) > 1 for row in rows))


if __name__ == "__main__":
    main()
