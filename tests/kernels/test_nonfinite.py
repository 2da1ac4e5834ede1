"""NaN and infinity reach what reads them, in every implementation of sums and operator."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxconv._src.dispatch import registry
from jaxconv._src.geometry.spec import Operator
from jaxconv._src.primitives import rules
from support import nonfinite
from support.cases import BASIC, operands
from support.nonfinite import assert_confined
from support.operators import as_spec
from support.oracle import Case

# Those that sum products; the transforms of "fft" mix everything in a block.
ON_CPU = [
    name for name, modules in registry.IMPLEMENTATIONS.items() if "cpu" in modules and name != "fft"
]
QUICK = {"xla_backend_optimization_level": 0}  # halves the time to compile
CASES = {
    "grouped": BASIC[1],
    "depthwise": Case(2, 5, 10, (9, 6), (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 2), 5),
    "dense": Case(2, 9, 17, (7, 6), (3, 3), (1, 1), ((1, 1), (2, 0)), (1, 1)),
    "patches": Case(2, 8, 8, (9, 7), (3, 3), (3, 3), ((0, 0), (1, 1)), (1, 1)),
    "deep": BASIC[3],
}
by_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
by_operator = pytest.mark.parametrize("operator", Operator, ids=lambda operator: operator.value)

pytestmark = pytest.mark.lenient  # implementations are called as lowering calls them


def implementation(name: str, operator: Operator, case: Case, dtype):
    """The result of one implementation, of arrays by role."""
    compute = getattr(registry.IMPLEMENTATIONS[name]["cpu"], operator.value)
    call = functools.partial(compute, spec=as_spec(case), dtype=jnp.dtype(dtype))
    jitted = jax.jit(lambda a, b: call(a, b), compiler_options=QUICK)
    return lambda values: jitted(*[values[role] for role in rules.ROLES[operator]])


@pytest.mark.sample(7)
@by_case
@by_operator
@pytest.mark.parametrize("name", ON_CPU)
def test_every_implementation(name, operator, case):
    if registry.unsupported_reason(name, operator, as_spec(case), np.float32) is None:
        grouped = case.groups > 1 and operator is Operator.FILTER_GRAD
        compute = implementation(name, operator, case, np.float32)
        assert_confined(operator, case, compute, mixes_groups=grouped and name == "lax")


@pytest.mark.sample(5)
@by_case
@by_operator
@pytest.mark.parametrize("dtype", [np.float64, ml_dtypes.bfloat16, np.float16])
def test_every_dtype_of_the_engine(dtype, operator, case, x64):
    if registry.unsupported_reason("native", operator, as_spec(case), dtype) is None:
        assert_confined(operator, case, implementation("native", operator, case, dtype), dtype)


@pytest.mark.sample(4)
@by_operator
def test_every_instruction_set(instruction_set, operator):
    for case in (CASES["dense"], CASES["depthwise"]):
        if registry.unsupported_reason("native", operator, as_spec(case), np.float32) is None:
            assert_confined(operator, case, implementation("native", operator, case, np.float32))


@pytest.mark.parametrize("operator", [Operator.CONV, Operator.FILTER_GRAD], ids=["conv", "filter"])
@pytest.mark.parametrize("name", ON_CPU)
def test_a_convolution_without_padding_spreads_nothing(name, operator):
    """There are no zeros to multiply, so no entry of either array spreads."""
    case = CASES["dense"].replace(padding=((0, 0), (0, 0)))
    if registry.unsupported_reason(name, operator, as_spec(case), np.float32) is None:
        compute = implementation(name, operator, case, np.float32)
        for role, values in nonfinite.with_nonfinite(operator, case, np.float32):
            wanted = nonfinite.reads(operator, case, role, values[role])
            np.testing.assert_array_equal(~np.isfinite(compute(values)), wanted)


def test_a_nan_that_met_padding_only():
    """The exception: the first tap of the first pixel's cotangent lies in the padding."""
    case = CASES["dense"]
    x, _, g = operands(case)
    g[0, 0, 0, 3] = np.nan
    gradients = [
        implementation(name, Operator.FILTER_GRAD, case, np.float32)({"x": x, "g": g})
        for name in ("lax", "native")
    ]
    for gradient in gradients:
        assert np.isnan(gradient[1:, 2:, :, 3]).all()  # of the taps that read a pixel
        assert np.isfinite(np.delete(gradient, 3, axis=-1)).all()
