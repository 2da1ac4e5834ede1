"""The GPU kernels, interpreted on the CPU against the oracle, and lowered for CUDA.

    JAXCONV_PALLAS_SPECS=70 pytest tests/kernels/test_pallas_gpu.py -k random_specs

tries that many random specs per rank; the default is a few. With a GPU,

    JAX_PLATFORMS=cuda,cpu pytest tests/kernels/test_pallas_gpu.py -k "not several_devices"

runs the kernels on it instead.
"""

import contextlib
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxconv
from benchmarks.common.workloads import DEPTHWISE
from jaxconv._src.dispatch import registry
from jaxconv._src.geometry.phases import phase
from jaxconv._src.geometry.spec import Operator
from jaxconv._src.kernels import target
from jaxconv._src.kernels.gpu import entry, plan
from jaxconv._src.primitives import rules
from jaxconv._src.primitives.rules import ROLES as OPERANDS
from support import nonfinite, oracle
from support.cases import DTYPES, operands, random_cases
from support.meshes import mesh_of
from support.operators import ROLES, as_spec, assert_all_right, gradients
from support.oracle import Case

# Kernels are called as lowering calls them, which promotes mixed operands.
pytestmark = [
    pytest.mark.lenient,
    pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning"),
]

ON_GPU = jax.default_backend() == "gpu"
QUICK = {"xla_backend_optimization_level": 0}  # halves the time to compile
SPECS = int(os.environ.get("JAXCONV_PALLAS_SPECS", "4"))
NARROW = {name: DTYPES[name] for name in ("float16", "bfloat16", "float32")}
by_operator = pytest.mark.parametrize("operator", Operator, ids=lambda operator: operator.value)

# Incomplete tiles of features, strips and taps; cropping; strides together with dilation.
CASES = {
    "features": Case(2, 19, 19, (6, 9), (3, 2), (1, 1), ((1, 1), (0, 1)), (1, 1), 19),
    "multiplier": Case(2, 5, 15, (6, 9), (2, 3), (2, 2), ((1, 0), (2, 1)), (1, 2), 5),
    "cropped": Case(1, 3, 6, (9, 11), (3, 3), (2, 3), ((-1, -2), (-3, 1)), (1, 2), 3),
    "stride beside dilation": Case(1, 3, 3, (17, 13), (3, 4), (4, 6), ((3, 2), (5, 4)), (2, 4), 3),
    "strides past the kernel": Case(2, 3, 3, (11,), (2,), (5,), ((0, 0),), (1,), 3),
    "long": Case(1, 3, 3, (40,), (31,), (1,), ((15, 15),), (1,), 3),
    "long strided": Case(1, 2, 4, (33,), (21,), (2,), ((10, 10),), (1,), 2),
    "deep": Case(1, 5, 5, (4, 5, 6), (3, 2, 3), (2, 1, 2), ((1, 1), (1, 0), (2, 1)), (1, 2, 1), 5),
}


def on_this_machine() -> contextlib.AbstractContextManager[None]:
    """Interprets the kernels unless there is a GPU."""
    return contextlib.nullcontext() if ON_GPU else target.compile_for(interpret=True)


def compute(operator: Operator, case: Case, values: dict, dtype, **options):
    """The result of the kernel."""
    call = functools.partial(getattr(entry, operator.value), spec=as_spec(case), dtype=dtype)
    with on_this_machine():
        quick = {} if ON_GPU else QUICK
        jitted = jax.jit(functools.partial(call, **options), compiler_options=quick)
        return jitted(*[values[role] for role in OPERANDS[operator]])


def assert_kernel(operator: Operator, case: Case, dtype=np.float32, **options) -> None:
    values = dict(zip("xkg", operands(case, dtype), strict=True))
    role = ROLES[operator]
    del values[role]
    got = compute(operator, case, values, dtype, **options)
    assert got.dtype == dtype
    oracle.assert_right(got, role, case, **values)


@pytest.mark.sample(9)
@pytest.mark.parametrize("rank", [1, 2, 3])
@by_operator
def test_random_specs(operator, rank):
    for at, case in enumerate(random_cases(47, SPECS, kind="depthwise", rank=rank)):
        assert_kernel(operator, case, list(NARROW.values())[at % 3])


@pytest.mark.sample(17)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@by_operator
def test_cases(operator, case):
    assert_kernel(operator, case)


@pytest.mark.sample(6)
@pytest.mark.parametrize("dtype", NARROW.values(), ids=NARROW)
@by_operator
def test_dtypes(operator, dtype):
    assert_kernel(operator, CASES["features"], dtype)


@pytest.mark.sample(3)
@by_operator
def test_nan_and_infinity_are_confined(operator):
    case = CASES["multiplier"]
    call = functools.partial(getattr(entry, operator.value), spec=as_spec(case), dtype=np.float32)
    jitted = jax.jit(call, compiler_options={} if ON_GPU else QUICK)

    def compute(values):
        return jitted(*[values[role] for role in OPERANDS[operator]])

    with on_this_machine():
        nonfinite.assert_confined(operator, case, compute)


@by_operator
def test_mixed_operands(operator):
    case = CASES["multiplier"]
    values = dict(zip("xkg", operands(case), strict=True))
    del values[ROLES[operator]]
    first = OPERANDS[operator][0]
    values[first] = values[first].astype(NARROW["bfloat16"])
    got = compute(operator, case, values, np.float32)
    oracle.assert_right(got, ROLES[operator], case, **values)


@pytest.mark.slow
@by_operator
def test_candidates_compute_the_same(operator):
    case = CASES["features"]
    for tile in plan.candidates(operator, as_spec(case), np.float32, "")[1::4]:
        assert_kernel(operator, case, tile=tile)


@pytest.mark.sample(3)
@by_operator
def test_other_tiles(operator):
    """Taps in pieces, with a remainder; several programs per filter gradient."""
    case = CASES["deep"].replace(kernel_spatial=(3, 2, 5), input_spatial=(4, 5, 9))
    tile = plan.TileConfig(4, 3, 4, 2, 1)
    if operator is Operator.FILTER_GRAD:
        tile = tile._replace(rows=2, chunks=3)
    assert_kernel(operator, case, tile=tile)


def test_the_comparison_can_fail(monkeypatch):
    """If the taps of the last axis read the wrong places, nothing passes."""
    right = plan.reads

    def flipped(last, columns, taps):
        places = right(last, columns, taps)
        return {at: [(c, taps - 1 - i) for c, i in pairs] for at, pairs in places.items()}

    monkeypatch.setattr(plan, "reads", flipped)
    for operator in Operator:
        with pytest.raises(AssertionError, match="error"):
            assert_kernel(operator, CASES["features"])


@by_operator
def test_infinite_inputs_affect_only_their_outputs(operator):
    """A tap or a column that does not exist must not multiply them by zero."""
    case = CASES["stride beside dilation"]
    values = dict(zip("xkg", operands(case), strict=True))
    del values[ROLES[operator]]
    first = OPERANDS[operator][0]
    values[first][(0, *(n // 2 for n in values[first].shape[1:-1]), 1)] = np.inf
    got = np.asarray(compute(operator, case, values, np.float32))
    with np.errstate(invalid="ignore"):
        wanted = oracle.compute(ROLES[operator], case, **values)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(wanted))


@pytest.mark.parametrize("strides", range(1, 7))
def test_phases_in_traced_integers(strides):
    """``plan.phase_of`` computes what ``geometry.phases.phase`` does."""
    for dilation, low, k in [(1, 0, 3), (2, 3, 4), (3, -2, 5), (4, 1, 2), (6, 5, 3)]:
        spec = jaxconv.ConvSpec(1, 1, 1, (23,), (k,), (strides,), ((low, 9),), (dilation,), 1)
        (axis,) = plan.axes_of(Operator.INPUT_GRAD, spec)
        assert axis.phases == strides
        for residue in range(strides):
            first, base = map(int, plan.phase_of(axis, jnp.int32(residue)))
            found = phase(residue, k, strides, dilation, low)
            assert (axis.every, -axis.dilation) == (found.tap_step, found.output_step)
            assert found.number == len(range(first, k, axis.every)) <= axis.phase_taps
            if found.number:
                assert (first, base) == (found.first, found.output)


# --- in jaxconv's primitives ----------------------------------------------------------------------


@pytest.fixture
def on_kernels(monkeypatch):
    """Runs jaxconv's primitives on these kernels."""
    monkeypatch.setitem(registry.IMPLEMENTATIONS["pallas"], "cpu", entry)
    with on_this_machine(), jaxconv.use_implementation("pallas"):
        yield


STRIDED = CASES["multiplier"].replace(strides=(2, 1))


def conv(x, k):
    return jaxconv.conv(x, k, **STRIDED.options())


def test_gradients(on_kernels):
    x, k, g = operands(STRIDED)
    fn = functools.partial(gradients, conv)
    program = jax.jit(fn).lower(x, k, g)
    assert "stablehlo.convolution" not in program.as_text()
    assert_all_right(STRIDED, (x, k, g), program.compile()(x, k, g))


@pytest.mark.slow
def test_second_order(on_kernels):
    x, k, _ = operands(STRIDED)
    directions = operands(STRIDED.replace(batch=2))

    def energy(x, k):
        return jnp.sum(jnp.sin(conv(x, k)))

    def curvature(x, k):
        tangents = directions[0], directions[1]
        return jax.jvp(jax.grad(energy, (0, 1)), (x, k), tangents)[1]

    got = jax.jit(curvature)(x, k)
    with jaxconv.use_implementation("lax"), jax.default_matmul_precision("highest"):
        wanted = jax.jit(curvature)(x, k)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_vmap_of_gradients(on_kernels):
    x, k, g = (np.stack([a, 2 * a, a[::-1]]) for a in operands(STRIDED))
    got = jax.jit(jax.vmap(functools.partial(gradients, conv)))(x, k, g)
    for at in range(3):
        assert_all_right(STRIDED, (x[at], k[at], g[at]), [result[at] for result in got])


# --- lowered for CUDA -----------------------------------------------------------------------------

KERNEL = "__gpu$xla.gpu.triton"


def for_cuda(fn, *args) -> str:
    return jax.jit(fn).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def bound(operator: Operator, spec, dtype=np.float32, **options):
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in spec.operand_shapes(operator)]
    bind = functools.partial(rules.bind, operator, spec=spec, dtype=dtype, **options)
    return (lambda a, b: bind(a, b)), *shapes


@pytest.mark.sample(8)
@pytest.mark.parametrize("workload", DEPTHWISE, ids=lambda workload: workload.name)
@by_operator
def test_depthwise_runs_the_kernel_on_cuda(operator, workload):
    text = for_cuda(*bound(operator, workload.spec))
    assert (text.count(KERNEL), text.count("stablehlo.convolution")) == (1, 0)
    assert f"jaxconv_depthwise_{operator.value}" in text


@pytest.mark.sample(3)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@by_operator
def test_any_depthwise_case_lowers(operator, case):
    assert KERNEL in for_cuda(*bound(operator, as_spec(case), NARROW["bfloat16"]))


def test_gradients_of_gradients_run_it_on_cuda():
    x, k, _ = operands(STRIDED)

    def energy(x, k):
        return jnp.sum(conv(x, k) ** 3)

    def curvature(x, k):
        return jax.jvp(jax.grad(energy, (0, 1)), (x, k), (x, k))[1]

    text = for_cuda(curvature, x, k)
    assert text.count(KERNEL) >= 6
    assert "stablehlo.convolution" not in text


def test_dense_convolutions_use_the_platform_s():
    case = CASES["features"].replace(groups=1)
    text = for_cuda(*bound(Operator.CONV, as_spec(case)))
    assert KERNEL not in text
    assert "stablehlo.convolution" in text


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
def test_other_dtypes_use_the_platform_s(dtype, x64):
    assert KERNEL not in for_cuda(*bound(Operator.CONV, as_spec(STRIDED), dtype))


def test_unsupported_convolutions_raise_with_the_reason(x64):
    reasons = {
        "support only depthwise convolutions": as_spec(STRIDED.replace(groups=1)),
        "support float32, bfloat16, float16, not float64": as_spec(STRIDED),
    }
    for reason, spec in reasons.items():
        with pytest.raises(ValueError, match=reason):
            jax.eval_shape(*bound(Operator.CONV, spec, np.float64, implementation="pallas"))
    huge = as_spec(STRIDED).replace(batch=2**31)
    assert "32 bits" in entry.unsupported_reason(Operator.CONV, huge, np.float32)
    many = as_spec(STRIDED).replace(strides=(300, 300))
    assert "phases" in entry.unsupported_reason(Operator.INPUT_GRAD, many, np.float32)


def test_a_jit_over_several_devices_holds_plain_xla():
    x, k, _ = operands(STRIDED.replace(batch=8))
    mesh = mesh_of((8,), ("b",))
    sharding = jax.sharding.NamedSharding(mesh, P("b"))
    fn = jax.jit(conv, in_shardings=(sharding, None))
    assert KERNEL not in fn.trace(x, k).lower(lowering_platforms=("cuda",)).as_text()
    shards = jax.shard_map(conv, mesh=mesh, in_specs=(P("b"), P()), out_specs=P("b"))
    assert for_cuda(shards, x, k).count(KERNEL) == 1


def test_exported_programs_hold_plain_xla():
    x, k, _ = operands(STRIDED)
    exported = jax.export.export(jax.jit(conv), platforms=["cuda"])(x, k)
    assert KERNEL not in str(exported.mlir_module())


def test_tiles_are_pure_and_hashable():
    for workload in DEPTHWISE:
        for operator in Operator:
            case = operator, workload.spec, np.dtype(np.float32), "NVIDIA H100 80GB HBM3"
            tile = entry.tile_config(*case)
            assert hash(tile) == hash(entry.tile_config(*case))
            assert entry.candidates(*case)[0] == tile
            assert all(n > 0 and n & (n - 1) == 0 for n in (tile.strips, tile.features))


@by_operator
def test_a_thread_holds_few_bytes_of_a_tile(operator):
    """With more, ptxas waits for some loads before it issues the others."""
    for workload in DEPTHWISE:
        for dtype in map(np.dtype, (np.float32, NARROW["bfloat16"])):
            tile = plan.tile_config(operator, workload.spec, dtype, "")
            tile_bytes = tile.strips * tile.features * dtype.itemsize
            assert tile_bytes == plan.BYTES_PER_THREAD[operator] * plan.WARP * tile.warps


def test_small_images_get_shorter_strips():
    """So that every multiprocessor has a program, if possible."""
    spec = as_spec(Case(1, 64, 64, (14, 14), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 64))
    large = spec.replace(batch=64)
    columns = {}
    for each in (spec, large):
        tile = plan.tile_config(Operator.CONV, each, np.float32, "NVIDIA H100 80GB HBM3")
        columns[each] = tile.columns
    assert columns[spec] < columns[large]
    assert np.prod(plan.grid(Operator.CONV, large, tile)) >= plan.MULTIPROCESSORS["H100"]
