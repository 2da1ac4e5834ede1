"""Every implementation against the oracle, which one runs, and what it costs to compile."""

import functools
import math
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxconv
from benchmarks.common.workloads import WORKLOADS
from jaxconv._src.dispatch import registry
from jaxconv._src.dispatch.choose import choose_implementation
from jaxconv._src.geometry.spec import Operator
from jaxconv._src.primitives import rules
from support import oracle
from support.cases import BASIC, DTYPES, KINDS, operands, random_cases
from support.operators import ROLES, as_spec
from support.oracle import Case

# Implementations are called as lowering calls them, which promotes mixed operands.
pytestmark = pytest.mark.lenient

ON_CPU = [name for name, modules in registry.IMPLEMENTATIONS.items() if "cpu" in modules]
by_name = pytest.mark.parametrize("name", ON_CPU)
by_operator = pytest.mark.parametrize("operator", Operator, ids=lambda operator: operator.value)
QUICK = {"xla_backend_optimization_level": 0}  # halves the time to compile

DEPTHWISE = BASIC[2].replace(groups=6, out_features=12)
POINTWISE = BASIC[2].replace(kernel_spatial=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1))


def supported(name: str, operator: Operator, case: Case, dtype=np.float32) -> bool:
    return registry.unsupported_reason(name, operator, as_spec(case), dtype) is None


def run(name: str, operator: Operator, case: Case, operands: dict, dtype):
    """The result of one implementation."""
    compute = getattr(registry.IMPLEMENTATIONS[name]["cpu"], operator.value)
    call = functools.partial(compute, spec=as_spec(case), precision=None, dtype=jnp.dtype(dtype))
    ordered = [operands[role] for role in rules.ROLES[operator]]
    return jax.jit(lambda a, b: call(a, b), compiler_options=QUICK)(*ordered)


def assert_right(name, operator, case, values, dtype):
    role = ROLES[operator]
    others = {name: array for name, array in values.items() if name != role}
    got = run(name, operator, case, others, dtype)
    assert got.dtype == dtype
    oracle.assert_right(got, role, case, **others)


@pytest.mark.sample(25)
@pytest.mark.parametrize("kind", KINDS)
@by_operator
@by_name
def test_random_specs(name, operator, kind, x64):
    cases = [c for c in random_cases(31, 6, kind=kind) if supported(name, operator, c)]
    for case in cases:
        values = dict(zip("xkg", operands(case, np.float64), strict=True))
        assert_right(name, operator, case, values, np.float64)


@pytest.mark.sample(10)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@by_operator
@by_name
def test_dtypes(name, operator, dtype, x64):
    for case in (DEPTHWISE, BASIC[2], POINTWISE):
        if supported(name, operator, case, dtype):
            values = dict(zip("xkg", operands(case, dtype), strict=True))
            assert_right(name, operator, case, values, dtype)
            return


PARTS = {
    "images one by one": Case(3, 70, 70, (7, 9), (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 1), 70),
    "tiles of taps": Case(2, 41, 41, (11, 13), (3, 2), (1, 1), ((1, 1), (0, 1)), (1, 2), 41),
    "several images at a time": Case(
        6, 150, 300, (2, 5), (2, 3), (1, 2), ((1, 0),) * 2, (1, 1), 150
    ),
    "two images and some channels": Case(
        4, 256, 256, (8, 9), (3, 3), (2, 1), ((1, 1), (0, 2)), (1, 1), 256
    ),
    "some channels with filters": Case(
        3, 128, 256, (7, 6), (2, 3), (1, 1), ((0, 1), (1, 1)), (2, 1), 128
    ),
    "pixels as channels": Case(2, 16, 32, (51, 161), (2, 3), (2, 1), ((1, 0), (0, 3)), (1, 2), 16),
    "batch and channels": Case(3, 6, 12, (4, 5), (7, 8), (1, 1), ((3, 3), (4, 3)), (1, 1), 6),
    "channels": Case(1, 6, 6, (4, 5), (7, 8), (1, 2), ((3, 3), (4, 3)), (1, 1), 6),
}


@pytest.mark.sample(5)
@pytest.mark.parametrize("case", PARTS.values(), ids=PARTS)
@by_operator
def test_parts_of_the_batch_and_the_channels(operator, case):
    """Loops of the depthwise implementation that smaller cases do not enter."""
    if operator is Operator.FILTER_GRAD:
        assert "stablehlo.while" in lowered(operator, case, "taps")
    values = dict(zip("xkg", operands(case, np.float32), strict=True))
    assert_right("taps", operator, case, values, np.float32)


MIXED = [
    (ml_dtypes.bfloat16, np.float32),
    (np.float16, np.float32),
    (np.float32, np.float64),
    (np.complex64, np.complex128),
]


@pytest.mark.sample(12)
@pytest.mark.parametrize(("narrow", "wide"), MIXED, ids=lambda dtype: np.dtype(dtype).name)
@by_operator
@by_name
def test_mixed_operands(name, operator, narrow, wide, x64):
    """A cotangent of a wide result beside a narrow residual, and results of either dtype."""
    case = next((c for c in (DEPTHWISE, BASIC[2]) if supported(name, operator, c, wide)), None)
    if case is None:  # the engine, if it is built, has no complex arithmetic
        assert name == "native"
        assert np.dtype(wide).kind == "c" or not supported(name, operator, DEPTHWISE)
        return
    x, k = operands(case, narrow, "xk")
    values = {"x": x, "k": k, "g": operands(case, wide, "g")[0]}
    for dtype in (narrow, wide):
        assert_right(name, operator, case, values, dtype)


def lowered(operator: Operator, case: Case, implementation) -> str:
    """The StableHLO of a public function."""
    spec = as_spec(case)
    shapes = [jax.ShapeDtypeStruct(s, np.float32) for s in spec.operand_shapes(operator)]
    options = case.options() | {"implementation": implementation}
    call = {
        Operator.CONV: functools.partial(jaxconv.conv, **options),
        Operator.INPUT_GRAD: lambda g, k: jaxconv.conv_input_grad(
            g, k, case.input_spatial, **options
        ),
        Operator.FILTER_GRAD: lambda x, g: jaxconv.conv_filter_grad(
            x, g, case.kernel_spatial, **options
        ),
    }[operator]
    return jax.jit(call).lower(*shapes).as_text()


@by_operator
@by_name
def test_the_forced_implementation_runs(name, operator):
    """The program shows it: lax convolves, dots multiplies matrices, fft transforms."""
    if name == "native" and not supported(name, operator, DEPTHWISE):
        pytest.skip("the engine is not built")
    text = lowered(operator, DEPTHWISE, name)
    assert ("stablehlo.convolution" in text) == (name == "lax")
    assert ("stablehlo.fft" in text) == (name == "fft")
    assert ("stablehlo.dot_general" in text) == (name == "dots")


@by_operator
@pytest.mark.parametrize("case", [DEPTHWISE, BASIC[2], POINTWISE], ids=["dw", "grouped", "1x1"])
def test_the_chosen_implementation_runs(case, operator):
    """Without a name, the program is that of the implementation that dispatch reports."""
    choice = choose_implementation(operator, "cpu", as_spec(case), np.float32)
    assert lowered(operator, case, None) == lowered(operator, case, choice.implementation)


@by_operator
@pytest.mark.parametrize("platform", ["cuda", "tpu", "rocm"])
def test_other_platforms_run_pallas_on_depthwise_and_lax_on_the_rest(platform, operator):
    pallas = "pallas" if platform in registry.IMPLEMENTATIONS["pallas"] else "lax"
    choice = functools.partial(choose_implementation, operator, platform, dtype=np.float32)
    wide = as_spec(DEPTHWISE.replace(in_features=128, out_features=128, groups=128))
    assert choice(spec=wide).implementation == pallas
    assert choice(spec=wide, plain_xla_reason="for export").implementation == "lax"
    assert choice(spec=as_spec(BASIC[2])).implementation == "lax"


@by_operator
def test_pointwise_is_a_matrix_product_on_cuda(operator):
    case = POINTWISE.replace(groups=1, strides=(1, 1))
    name = "lax" if operator is Operator.FILTER_GRAD else "dots"
    assert choose_implementation(operator, "cuda", as_spec(case), np.float32).implementation == name
    strided = as_spec(case.replace(strides=(2, 2)))
    assert choose_implementation(operator, "cuda", strided, np.float32).implementation == "lax"


@by_operator
def test_an_implementation_of_another_platform_raises_with_the_reason(operator):
    text = f'^{operator.value} of .*: implementation "pallas" .*: it runs on .*, not on cpu'
    with pytest.raises(ValueError, match=text):
        choose_implementation(operator, "cpu", as_spec(DEPTHWISE), np.float32, "pallas")
    with pytest.raises(ValueError, match=text):
        lowered(operator, DEPTHWISE, "pallas")


# --- compiling ------------------------------------------------------------------------------------


def compiled(operator: Operator, spec, dtype=np.float32):
    """The operator of a spec as dispatch chooses it, compiled for abstract operands."""
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in spec.operand_shapes(operator)]
    call = functools.partial(rules.bind, operator, spec=spec, dtype=dtype)
    return jax.jit(lambda a, b: call(a, b)).lower(*shapes).compile()


LARGE = {
    "31x31 depthwise": Case(1, 16, 16, (40, 40), (31, 31), (1, 1), ((15, 15),) * 2, (1, 1), 16),
    "31x31 depthwise s2": Case(1, 8, 8, (40, 40), (31, 31), (2, 2), ((15, 15),) * 2, (1, 1), 8),
    "7x7x7 depthwise": Case(1, 8, 8, (9, 10, 11), (7,) * 3, (1,) * 3, ((3, 3),) * 3, (1,) * 3, 8),
    "7x7x7 dense": Case(1, 4, 6, (9, 10, 11), (7,) * 3, (1,) * 3, ((3, 3),) * 3, (1,) * 3),
    "7x7x7 s2 grouped": Case(1, 4, 6, (9,) * 3, (7,) * 3, (2,) * 3, ((3, 3),) * 3, (1,) * 3, 2),
    "1x1023 depthwise": Case(1, 8, 8, (2048,), (1023,), (1,), ((511, 511),), (1,), 8),
}


@by_operator
@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)
def test_any_kernel_size_compiles_in_three_seconds(case, operator):
    """Unrolling is bounded. Wall or processor time, whichever is less: the machine may be busy."""
    wall, cpu = time.perf_counter(), time.process_time()
    compiled(operator, as_spec(case))
    assert min(time.perf_counter() - wall, time.process_time() - cpu) < 3


@by_operator
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_temporaries_are_bounded(workload, operator):
    """At most twice the larger of inputs and outputs."""
    spec = workload.spec
    results = 4 * math.prod(spec.result_shape(operator))
    inputs = 4 * sum(math.prod(shape) for shape in spec.operand_shapes(operator))
    temporary = compiled(operator, spec).memory_analysis().temp_size_in_bytes
    assert temporary <= 2 * max(inputs, results), temporary / max(inputs, results)


LARGEST = ("5x5 8x7x7x960", "7x7 8x14x14x384", "31x31 1x28x28x128")


@pytest.mark.sample(3)
@by_operator
@pytest.mark.parametrize("name", LARGEST)
def test_temporaries_of_plain_xla_are_bounded(name, operator):
    """Depthwise kernels as wide as their images; padding them whole would need 2.0 to 4.3 times."""
    spec = next(workload.spec for workload in WORKLOADS if workload.name == f"depthwise {name}")
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in spec.operand_shapes(operator)]
    call = functools.partial(rules.bind, operator, spec=spec, dtype=np.float32)
    taps = jax.jit(lambda a, b: call(a, b, implementation="taps")).lower(*shapes).compile()
    largest = max(
        math.prod(s) for s in (spec.result_shape(operator), *spec.operand_shapes(operator))
    )
    assert taps.memory_analysis().temp_size_in_bytes <= 2 * 4 * largest
