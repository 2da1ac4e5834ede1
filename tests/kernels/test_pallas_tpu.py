"""The Mosaic-TPU kernels, interpreted on the CPU against the oracle.

The interpreter detects races, fills new memory with NaN and raises on reads out of bounds.
Compiling a kernel takes about a second, so few random convolutions are tried by default:

    JAXCONV_TPU_SPECS=200 pytest tests/kernels/test_pallas_tpu.py -k random
"""

import functools
import os
import random
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.extend import core

import jaxconv
from jaxconv._src.dispatch import registry
from jaxconv._src.dispatch.choose import choose_implementation
from jaxconv._src.geometry.spec import Operator
from jaxconv._src.kernels import target
from jaxconv._src.kernels.tpu import entry, tile_config
from jaxconv._src.kernels.tpu.layout import plan
from jaxconv._src.primitives.batching import examples_as_groups
from jaxconv._src.primitives.rules import OPERATORS
from jaxconv._src.primitives.rules import ROLES as OPERANDS
from support import nonfinite, oracle
from support.cases import operands
from support.operators import ROLES, as_spec, assert_adjoint
from support.oracle import Case

# Kernels are called as lowering calls them, which promotes mixed operands.
pytestmark = pytest.mark.lenient

by_operator = pytest.mark.parametrize("operator", Operator, ids=lambda operator: operator.value)
QUICK = {"xla_backend_optimization_level": 0}  # halves the time to compile
DTYPES = (np.float32, ml_dtypes.bfloat16)
SPECS = int(os.environ.get("JAXCONV_TPU_SPECS", "8"))

# The interpreter compares each access with all earlier ones to detect races: 17 million
# multiply-accumulates take more than half an hour.
MAX_MACS = 3_000_000


@pytest.fixture
def interpreted(capsys):
    """Runs kernels interpreted, and checks for races at the end."""
    with target.compile_for("v5e", interpreter()):
        yield
    assert_no_race(capsys)


@pytest.fixture
def on_two_cores(capsys):
    """Runs kernels interpreted, for a generation whose two cores share the parallel axes."""
    with target.compile_for("v5p", interpreter(num_cores_or_threads=2)):
        yield
    assert_no_race(capsys)


def interpreter(**options) -> pltpu.InterpretParams:
    return pltpu.InterpretParams(
        detect_races=True, out_of_bounds_reads="raise", uninitialized_memory="nan", **options
    )


def assert_no_race(capsys) -> None:
    """jax 0.10 prints races where later versions raise."""
    pltpu.reset_tpu_interpret_mode_state()
    printed = capsys.readouterr()
    assert "RACE" not in printed.out + printed.err


def run(operator: Operator, case: Case, values: dict, dtype=None, tile=None) -> jax.Array:
    compute = getattr(entry, operator.value)
    a, b = (values[role] for role in OPERANDS[operator])

    def call(a, b):
        return compute(a, b, as_spec(case), dtype=dtype, tile=tile)

    return jax.jit(call, compiler_options=QUICK)(a, b)


def assert_kernel(operator: Operator, case: Case, values: dict, tile=None, dtype=None) -> None:
    role = ROLES[operator]
    others = {name: array for name, array in values.items() if name != role}
    got = run(operator, case, values, dtype, tile)
    oracle.assert_right(got, role, case, **others)


def random_case(rng: random.Random) -> Case:
    """A small depthwise convolution of any rank that the kernels support, of unequal sizes."""
    while True:
        rank = rng.choice((1, 2, 2, 2, 3))
        channels, multiplier = rng.choice((32, 33, 40, 130)), rng.choice((1, 1, 1, 1, 2, 3))
        longest = {1: 40, 2: 12, 3: 5}[rank]
        spatial = [rng.randint(1, longest) for _ in range(rank)]
        if rng.random() < 0.25:  # long rows, which are on lanes if possible
            spatial = [*[min(n, 4) for n in spatial[:-1]], rng.randint(50, 140)]
        case = Case(
            batch=rng.choice((1, 2, 3, 8)),
            in_features=channels,
            out_features=channels * multiplier,
            input_spatial=tuple(spatial),
            kernel_spatial=tuple(rng.choice((1, 2, 3, 3, 4, 5)) for _ in range(rank)),
            strides=tuple(rng.choice((1, 1, 1, 2, 3)) for _ in range(rank)),
            padding=tuple((rng.randint(-2, 4), rng.randint(-2, 4)) for _ in range(rank)),
            dilation=tuple(rng.choice((1, 1, 1, 2, 3)) for _ in range(rank)),
            groups=channels,
        )
        cropped = [n + min(lo, 0) + min(hi, 0) for n, _, _, (lo, hi), _ in case.axes]
        spec = as_spec(case)
        supported = all(entry.unsupported_reason(op, spec, np.float32) is None for op in Operator)
        if supported and min(cropped) > 0 and spec.macs <= MAX_MACS:
            return case


@pytest.mark.sample(8)
@pytest.mark.parametrize("seed", range(SPECS))
def test_random_specs(interpreted, seed):
    """Every operator, with a tile drawn from all that fit."""
    rng = random.Random(seed)
    case = random_case(rng)
    dtype = DTYPES[seed % 2]
    values = dict(zip("xkg", operands(case, dtype), strict=True))
    for operator in Operator:
        tiles = entry.candidates(operator, as_spec(case), np.dtype(dtype), "v5e", 64)
        assert_kernel(operator, case, values, rng.choice(tiles))


# Strides, phases without taps, windows moved inwards at both ends, a batch or channels on sublanes,
# incomplete lanes, a single image and several features per channel; each in more than one tile.
NAMED = {
    "2-D in rows": Case(2, 40, 40, (9, 7), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 40),
    "batch on sublanes": Case(16, 33, 33, (6, 7), (3, 3), (2, 2), ((1, 1), (0, 2)), (1, 1), 33),
    "gaps": Case(1, 130, 130, (11, 12), (1, 2), (2, 3), ((0, 0), (2, 0)), (1, 1), 130),
    "multiplier": Case(1, 140, 420, (6, 5), (3, 3), (1, 2), ((1, 1), (1, 1)), (1, 1), 140),
    "single image": Case(1, 40, 40, (9, 7), (3, 4), (1, 1), ((1, 2), (2, 0)), (1, 1), 40),
    "1-D": Case(2, 130, 130, (45,), (4,), (1,), ((6, -1),), (2,), 130),
    "1-D on lanes": Case(2, 40, 40, (150,), (4,), (1,), ((6, -1),), (2,), 40),
    "2-D on lanes": Case(2, 33, 33, (5, 99), (3, 5), (2, 1), ((1, 0), (2, 3)), (1, 1), 33),
    "3-D on lanes": Case(
        1, 32, 32, (4, 3, 70), (2, 3, 2), (1, 1, 1), ((1, 0), (1, 1), (-1, 2)), (2, 1, 3), 32
    ),
    "3-D": Case(
        1, 32, 64, (4, 5, 6), (2, 3, 3), (1, 2, 1), ((1, 0), (1, 1), (2, 2)), (2, 1, 1), 32
    ),
}


@pytest.mark.sample(30)
@by_operator
@pytest.mark.parametrize("name", NAMED)
def test_several_tiles(interpreted, name, operator):
    case = NAMED[name]
    values = dict(zip("xkg", operands(case), strict=True))
    p = plan(operator, as_spec(case))
    tiles = entry.candidates(operator, as_spec(case), np.dtype(np.float32), "v5e", 64)
    several = [tile for tile in tiles if max(tile_config.grid_of(p, tile)[1:4]) > 1]
    assert several or case.rank == 1
    expected = (
        "channels" if "on lanes" in name else "batch" if name.startswith("batch") else "pixels"
    )
    assert p.arrangement.value == expected
    assert_kernel(operator, case, values, several[0] if several else None)


@pytest.mark.sample(9)
@by_operator
@pytest.mark.parametrize("name", ["2-D in rows", "2-D on lanes", "gaps"])
def test_two_cores_share_the_grid(on_two_cores, name, operator):
    case = NAMED[name]
    values = dict(zip("xkg", operands(case), strict=True))
    tiles = entry.candidates(operator, as_spec(case), np.dtype(np.float32), "v5p", 64)
    p = plan(operator, as_spec(case))
    tile = next(tile for tile in tiles if max(tile_config.grid_of(p, tile)[1:4]) > 1)
    assert_kernel(operator, case, values, tile)


@pytest.mark.sample(3)
@by_operator
def test_mixed_operands(interpreted, operator):
    case = NAMED["2-D in rows"]
    x, k = operands(case, ml_dtypes.bfloat16, "xk")
    values = {"x": x, "k": k, "g": operands(case, np.float32, "g")[0]}
    assert_kernel(operator, case, values, dtype=np.dtype(ml_dtypes.bfloat16))
    assert_kernel(operator, case, values, dtype=np.dtype(np.float32))


@pytest.mark.slow
@by_operator
def test_nan_and_infinity_are_confined(interpreted, operator):
    case = Case(2, 33, 33, (6, 9), (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 2), 33)
    call = jax.jit(functools.partial(getattr(entry, operator.value), spec=as_spec(case)))

    def compute(values):
        return call(*[values[role] for role in OPERANDS[operator]])

    nonfinite.assert_confined(operator, case, compute)


def test_wrong_results_fail(interpreted):
    case = NAMED["2-D in rows"]
    x, k, g = operands(case)
    flipped = run(Operator.CONV, case, {"x": x, "k": k[::-1].copy()})
    for wrong in (flipped, jnp.zeros_like(flipped)):
        with pytest.raises(AssertionError):
            oracle.assert_right(wrong, "g", case, x=x, k=k)
    with pytest.raises(AssertionError):
        assert_adjoint(case, flipped, x, k, x, k, g)


# --- in jaxconv's primitives ----------------------------------------------------------------------


def on_kernels(fn, ran: list):
    """``fn`` with every convolution of its jaxpr computed by the interpreted kernels.

    They run outside of any lowering, which does not support the interpreter's ordered effects. The
    operators that ran are added to ``ran``.
    """

    def evaluate(jaxpr, consts, *args):
        values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
        for eqn in jaxpr.eqns:
            read = [v.val if isinstance(v, core.Literal) else values[v] for v in eqn.invars]
            if eqn.primitive in OPERATORS:
                ran.append(OPERATORS[eqn.primitive])
                compute = getattr(entry, ran[-1].value)
                spec, dtype = eqn.params["spec"], eqn.params["dtype"]
                call = functools.partial(compute, spec=spec.examples_as_groups, dtype=dtype)
                call = call if spec.examples is None else examples_as_groups(call, spec)
                out = [jax.jit(lambda a, b, f=call: f(a, b), compiler_options=QUICK)(*read)]
            elif "jaxpr" in eqn.params:
                inner = eqn.params["jaxpr"]
                out = evaluate(inner.jaxpr, inner.consts, *read)
            else:
                out = eqn.primitive.bind(*read, **eqn.params)
                out = out if eqn.primitive.multiple_results else [out]
            values.update(zip(eqn.outvars, out, strict=True))
        return [v.val if isinstance(v, core.Literal) else values[v] for v in jaxpr.outvars]

    def run(*args):
        closed = jax.make_jaxpr(fn)(*args)
        return evaluate(closed.jaxpr, closed.consts, *args)

    return run


TRANSFORMED = {
    "1-D strided": Case(2, 32, 32, (9,), (3,), (2,), ((1, 2),), (1,), 32),
    "2-D on lanes": Case(1, 33, 33, (4, 60), (3, 2), (1, 1), ((1, 1), (0, 1)), (1, 1), 33),
}


def curvature(loss, k, x):
    """Forward over reverse, in both operands."""
    return jax.jvp(lambda k, x: jax.grad(loss, (0, 1))(k, x), (k, x), (k, x))[1]


def each_gradient(loss, k, x):
    """The gradient of each example."""
    return jax.vmap(jax.grad(loss, (0, 1)), (None, 0))(k, x[:, None])


def mapped_kernels(loss, k, x):
    return jax.vmap(jax.grad(loss, (0, 1)), (0, None))(jnp.stack([k, 2 * k, -k]), x)


@pytest.mark.slow
@pytest.mark.parametrize("case", TRANSFORMED.values(), ids=TRANSFORMED)
@pytest.mark.parametrize("transform", [curvature, each_gradient, mapped_kernels])
def test_transforms_run_on_the_kernels(interpreted, transform, case):
    x, k, _ = map(jnp.asarray, operands(case))

    def loss(k, x):
        return jnp.sum(jaxconv.conv(x, k, **case.options()) ** 3)

    transformed = functools.partial(transform, loss)
    ran: list[Operator] = []
    results, expected = on_kernels(transformed, ran)(k, x), jax.tree.leaves(transformed(k, x))
    assert set(ran) == set(Operator)
    for got, wanted in zip(results, expected, strict=True):
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(got / scale, wanted / scale, atol=1e-5)


# What the kernels do not support, and why.
UNSUPPORTED = {
    "few channels": (
        Case(1, 3, 3, (5, 6), (3, 2), (1, 1), ((1, 1), (0, 1)), (1, 1), 3),
        "at least 32 channels, .* but there are 3",
    ),
    "a huge kernel": (
        Case(1, 32, 32, (2, 3), (1, 65), (1, 1), ((0, 0), (40, 40)), (1, 1), 32),
        "at most 64 taps on the last axis, but there are 65",
    ),
    "a large multiplier": (
        Case(1, 32, 288, (3, 4), (2, 3), (1, 1), ((0, 1), (1, 1)), (1, 1), 32),
        "multipliers of at most 8, not 9",
    ),
    "float64": (NAMED["2-D in rows"], "the TPU kernels support float32 and bfloat16, not float64"),
}


def for_tpu(case: Case, dtype, **options) -> str:
    x, k, g = (jnp.asarray(array) for array in operands(case, dtype))

    def gradients(x, k, g):
        y, pull = jax.vjp(lambda x, k: jaxconv.conv(x, k, **case.options(), **options), x, k)
        return y, *pull(g)

    return jax.jit(gradients).trace(x, k, g).lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_convolutions_run_in_plain_xla_and_cannot_be_forced(name, x64):
    case, reason = UNSUPPORTED[name]
    dtype = np.float64 if name == "float64" else np.float32
    assert "tpu_custom_call" not in for_tpu(case, dtype)
    with pytest.raises(
        ValueError, match=f'implementation "pallas" does not support .*: .*{reason}'
    ):
        for_tpu(case, dtype, implementation="pallas")
    x, k, g = operands(case, dtype)
    values = {"x": x, "k": k, "g": g}
    for operator in Operator:
        choice = choose_implementation(operator, "tpu", as_spec(case), np.dtype(dtype))
        assert re.search(reason, choice.reasons_against["pallas"])
        role = ROLES[operator]
        others = {key: array for key, array in values.items() if key != role}
        compute = getattr(registry.IMPLEMENTATIONS[choice.implementation]["tpu"], operator.value)
        got = compute(*(values[role] for role in OPERANDS[operator]), as_spec(case))
        oracle.assert_right(got, role, case, **others)


@by_operator
def test_tiny_extents_are_supported(interpreted, operator):
    case = Case(1, 32, 32, (1, 1), (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 1), 32)
    assert (
        choose_implementation(operator, "tpu", as_spec(case), np.dtype(np.float32)).implementation
        == "pallas"
    )
    assert_kernel(operator, case, dict(zip("xkg", operands(case), strict=True)))
