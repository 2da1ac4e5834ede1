"""Every implementation meets its error bound, element by element, and rounds narrow dtypes once."""

import random

import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv._src.geometry.spec import Operator
from jaxconv._src.primitives import rules
from support import accuracy, engine, oracle
from support.accuracy import CASES, REAL
from support.cases import DTYPES
from support.marks import needs_engine

SUMS = [name for name in accuracy.on_cpu() if name != "fft"]  # which has a bound of its own
NARROW = ("bfloat16", "float16")
by_dtype = pytest.mark.parametrize("dtype", REAL)

pytestmark = pytest.mark.lenient  # implementations are called as lowering calls them


@pytest.mark.sample(8)
@by_dtype
@pytest.mark.parametrize("name", SUMS)
def test_every_implementation_meets_the_bound(name, dtype, x64):
    """In one case each; ``support.accuracy`` measures them all, every night."""
    case = CASES[tuple(CASES)[SUMS.index(name)]]
    errors = list(accuracy.errors_of(name, case, np.dtype(DTYPES[dtype])))
    assert all(error.of_bound <= 1 for _, error in errors), errors


@pytest.mark.sample(4)
@by_dtype
def test_fused_convolutions_meet_the_bound(dtype, x64):
    errors = list(accuracy.fused_errors(CASES["dense"], np.dtype(DTYPES[dtype])))
    assert all(error.of_bound <= 1 for _, error in errors), errors


@needs_engine
def test_random_specs_of_the_engine_meet_the_bound(instruction_set):
    rng = random.Random(7)
    for index in range(60):
        spec, dtype = engine.random_spec(rng), ("float32", *NARROW)[index % 3]
        for operator in Operator:
            a, b = engine.operands(operator, spec, dtype, index)
            result = engine.bare(operator, spec, dtype, a, b)
            exact = engine.oracle(operator, spec, a, b)
            magnitude = engine.oracle(operator, spec, np.abs(a), np.abs(b))
            terms = engine.terms(operator, spec)
            assert accuracy.error_of(result, exact, magnitude, terms).of_bound <= 1


@pytest.mark.sample(4)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", SUMS)
def test_one_rounding(name, dtype):
    """The result is the exact sum, rounded to nearest: partial sums were not rounded."""
    case, dtype = CASES["strided"], np.dtype(DTYPES[dtype])
    rng = np.random.default_rng(3)
    arrays = {role: rng.integers(-16, 17, case.shape(role)).astype(dtype) for role in "xkg"}
    operators = accuracy.supported(name, case, dtype)
    calls = accuracy.compiled(name, operators, case, dtype)(arrays)
    for operator, result in zip(operators, calls, strict=True):
        role = rules.RESULT[operator]
        exact = oracle.compute(role, case, **{r: arrays[r] for r in rules.ROLES[operator]})
        assert np.abs(exact).max() < 2**24  # exact in float32
        np.testing.assert_array_equal(np.asarray(result), exact.astype(dtype))


@needs_engine
@pytest.mark.parametrize("dtype", NARROW)
def test_one_rounding_of_random_specs_of_the_engine(instruction_set, dtype):
    rng, rounded = random.Random(11), 0
    for _ in range(30):
        spec = engine.random_spec(rng)
        for operator in Operator:
            shapes = spec.operand_shapes(operator)
            state = np.random.default_rng(spec.macs)
            a, b = (state.integers(-24, 25, shape).astype(DTYPES[dtype]) for shape in shapes)
            exact = engine.oracle(operator, spec, a, b)
            result = engine.bare(operator, spec, dtype, a, b)
            np.testing.assert_array_equal(result, exact.astype(DTYPES[dtype]))
            rounded += (exact != exact.astype(DTYPES[dtype])).sum()
    assert rounded > 500


def test_the_bound_can_fail():
    case, dtype = CASES["depthwise"], np.dtype(np.float32)
    operator = Operator.CONV
    exact, magnitude = accuracy.expected(case, operator, dtype, False)
    terms = case.terms(rules.RESULT[operator])

    def of_bound(result):
        return accuracy.error_of(result, exact, magnitude, terms).of_bound

    assert of_bound(exact.astype(np.float32)) <= 1
    assert of_bound((exact * (1 + 1e-5)).astype(np.float32)) > 1
    assert of_bound(jnp.asarray(exact, jnp.bfloat16).astype(jnp.float32)) > 1
    one = exact.copy()
    one.flat[77] += 2 * terms * 2.0**-24 * magnitude.flat[77]
    assert of_bound(one.astype(np.float32)) > 1
    narrow = exact.astype(np.float16)
    narrow[0, 0, 0, 0] = np.nextafter(narrow[0, 0, 0, 0], np.float16(np.inf))
    assert of_bound(exact.astype(np.float16)) <= 1
    assert of_bound(narrow) > 1
