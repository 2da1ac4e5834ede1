"""Convolutions by the fast Fourier transform: blocks, phases, errors, and what they run under."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv
from jaxconv._src.dispatch.choose import candidate_trials
from jaxconv._src.geometry.spec import Operator
from jaxconv._src.kernels.xla import fft, fft_plan
from support import oracle
from support.cases import BASIC, operand, operands
from support.meshes import collectives, mesh_of
from support.operators import ROLES, as_spec, assert_conv, training
from support.oracle import Case

by_operator = pytest.mark.parametrize("operator", Operator, ids=lambda operator: operator.value)


def depthwise(length: int, k: int, padding, s: int = 1, d: int = 1, features: int = 3) -> Case:
    return Case(2, features, features, (length,), (k,), (s,), (padding,), (d,), features)


# What the small random cases of test_kernels.py do not reach.
CASES = {
    "blocks": depthwise(301, 7, (6, 0)),
    "blocks of phases": depthwise(403, 5, (3, 2), d=2),
    "blocks of summed phases": depthwise(403, 9, (5, 7), s=2),
    "blocks on both axes": Case(1, 2, 2, (61, 75), (3, 4), (1, 1), ((1, 1), (2, 1)), (1, 1), 2),
    "stride and dilation": depthwise(97, 6, (11, 4), s=3, d=2),
    "a kernel wider than the input": depthwise(11, 40, (39, 3)),
    "a dilation wider than the input": depthwise(9, 3, (40, 41), d=37),
    "a stride wider than the kernel": depthwise(41, 3, (2, 0), s=7),
    "cropped on both sides": depthwise(53, 12, (-5, -9)),
    "cropped and padded": depthwise(53, 12, (-5, 19)),
    "nothing left but padding": depthwise(4, 3, (-6, 11)),
    "many terms": Case(1, 19, 18, (23,), (8,), (1,), ((4, 3),), (1,)),
    "many images": Case(9, 8, 9, (13,), (5,), (1,), ((2, 2),), (1,)),
}
by_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def compute(operator: Operator, case: Case, **values):
    roles = {Operator.CONV: "xk", Operator.INPUT_GRAD: "gk", Operator.FILTER_GRAD: "xg"}[operator]
    function = functools.partial(getattr(fft, operator.value), spec=as_spec(case))
    return jax.jit(function)(*(values[role] for role in roles))


def assert_right(operator: Operator, case: Case, dtype=np.float64) -> None:
    values = dict(zip("xkg", operands(case, dtype), strict=True))
    got = compute(operator, case, **values)
    del values[ROLES[operator]]
    oracle.assert_right(got, ROLES[operator], case, **values)


@pytest.mark.sample(5)
@by_case
@by_operator
def test_blocks_and_phases(operator, case, x64):
    assert_right(operator, case)


def test_the_cases_have_blocks_and_phases():
    axes = {name: fft_plan.plan(fft_plan.cropped(as_spec(c))[0]) for name, c in CASES.items()}
    assert all(a.blocks > 1 for name in axes if name.startswith("blocks") for a in axes[name])
    assert axes["blocks of phases"][0][5:7] == (2, False)
    assert axes["blocks of summed phases"][0][5:7] == (2, True)
    assert CASES["many terms"].in_features > 2 * fft.MAX_TERMS
    assert CASES["many images"].batch >= fft.MIN_MATRIX_ROWS


@pytest.mark.sample(3)
@by_operator
def test_groups_in_parts(operator, x64, monkeypatch):
    monkeypatch.setattr(fft_plan, "MAX_PART_ELEMENTS", 0)
    case = Case(2, 64, 128, (9,), (4,), (1,), ((1, 2),), (1,), 32)
    assert fft_plan.group_parts(as_spec(case)) == 4
    assert_right(operator, case)


def test_fast_lengths():
    for n in (*range(1, 400), 4097, 8191, 100_003):
        length = fft_plan.fast_length(n)
        assert n <= length <= max(1.3 * n, n + 1)
        assert n == 1 or length % 2 == 0
        for factor in (2, 3, 5):
            while length % factor == 0:
                length //= factor
        assert length == 1


# --- errors ---------------------------------------------------------------------------------------

LONG = depthwise(1500, 400, (399, 0), features=2)


def bound(operator: Operator, case: Case, a, b) -> np.ndarray:
    """The documented bound, of each result of a depthwise convolution in a single block."""
    (axis,) = fft_plan.plan(as_spec(case))
    assert axis.blocks == 1
    factor = fft.ERROR_FACTOR * oracle.epsilon(np.float32) * math.log2(axis.m)
    if operator is Operator.FILTER_GRAD:
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return factor * norms.sum(0)
    return factor * np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b[:, 0], axis=0)


def errors(operator: Operator, values: dict, got) -> np.ndarray:
    """Of each result; the oracle's loops would take long, so by matrices of one row per output."""
    x, k, g = (oracle.exact(values[role]) for role in "xkg")
    padded = np.concatenate([np.zeros((2, 399, 2)), x], axis=1)
    read = np.arange(1500)[:, None] + np.arange(400)  # by each output, through each tap
    match operator:
        case Operator.CONV:
            exact = np.einsum("notc,tc->noc", padded[:, read], k[:, 0])
        case Operator.INPUT_GRAD:
            exact = np.zeros_like(padded)
            np.add.at(exact, np.s_[:, read], np.einsum("noc,tc->notc", g, k[:, 0]))
            exact = exact[:, 399:]
        case Operator.FILTER_GRAD:
            exact = np.einsum("notc,noc->tc", padded[:, read], g)[:, None]
    return np.abs(oracle.exact(got) - exact)


@by_operator
@pytest.mark.parametrize("loud", [1, 1e6], ids=["even", "one loud sample"])
def test_the_error_is_below_the_documented_bound(operator, loud):
    values = dict(zip("xkg", operands(LONG), strict=True))
    values["x"][:, 700] *= loud
    values["g"][:, 700] *= loud
    error = errors(operator, values, compute(operator, LONG, **values))
    a, b = (v for role, v in values.items() if role != ROLES[operator])
    a, b = (b, a) if operator is Operator.INPUT_GRAD else (a, b)
    allowed = bound(operator, LONG, a, b)
    assert np.all(error <= allowed)
    assert error.max() > allowed.max() / 1000  # the bound says something


def test_a_loud_sample_disturbs_what_does_not_read_it():
    """What the documentation warns of: direct sums keep the quiet passage exact."""
    x, k = operands(LONG, np.float32, "xk")
    x[:, 1400] *= 1e6
    values = {"x": x, "k": k, "g": operand(LONG.shape("g"), np.float32)}
    before = np.s_[:, :1400]
    by_fft = errors(Operator.CONV, values, compute(Operator.CONV, LONG, x=x, k=k))[before]
    direct = jaxconv.conv(x, k, **LONG.options(), implementation="lax")
    direct = errors(Operator.CONV, values, direct)[before]
    assert by_fft.max() > 100 * direct.max()


def test_the_relative_error_bound_decides_what_autotune_measures():
    large, small = as_spec(LONG), as_spec(depthwise(1500, 5, (4, 0)))
    for operator in Operator:
        assert fft.relative_error_bound(operator, large) < 1
    assert fft.relative_error_bound(Operator.CONV, small) > 1
    measured = [
        {trial.implementation for trial in candidate_trials(Operator.CONV, "cpu", spec, np.float32)}
        for spec in (large, small)
    ]
    assert ["fft" in names for names in measured] == [True, False]


# --- what it runs under ---------------------------------------------------------------------------

FORCED = functools.partial(jaxconv.conv, **BASIC[2].options(), implementation="fft")


def test_both_gradients_and_their_gradients(x64):
    x, k, g = operands(BASIC[2], np.float64)
    assert_conv(FORCED, BASIC[2], x, k, g)

    def energy(conv, x, k):
        return jnp.sum(conv(x, k) ** 3)

    def curvature(conv):
        gradient = jax.grad(functools.partial(energy, conv), (0, 1))
        return jax.jvp(gradient, (x, k), (x, k))[1]

    lax = functools.partial(jaxconv.conv, **BASIC[2].options(), implementation="lax")
    for got, wanted in zip(curvature(FORCED), curvature(lax), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


def test_vmap_of_both_operands(x64):
    case = BASIC[1]
    call = functools.partial(jaxconv.conv, **case.options(), implementation="fft")
    x, k = (operand((3, *case.shape(role)), np.float64) for role in "xk")
    got = jax.vmap(call)(x, k)
    for i in range(3):
        oracle.assert_right(got[i], "g", case, x=x[i], k=k[i])


def test_a_context_forces_it_and_explain_says_so():
    x, k = operands(BASIC[2], np.float32, "xk")
    conv = functools.partial(jaxconv.conv, **BASIC[2].options())
    with jaxconv.use_implementation("fft"):
        explained = jaxconv.explain(jax.grad(lambda x, k: conv(x, k).sum(), (0, 1)), x, k)
    assert [conv.implementation for conv in explained.convs] == ["fft"] * 3
    assert "fft" in jaxconv.explain(conv, x, k).convs[0].reasons


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight (host) devices")
def test_shards_of_batch_and_features(x64):
    case = Case(4, 4, 8, (9,), (4,), (1,), ((2, 1),), (1,), 4)
    mesh = mesh_of((4, 2), ("b", "f"))
    arrays = operands(case, np.float64)
    specs = P("b", None, "f"), P(None, None, "f"), P("b", None, "f")
    placed = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(arrays, specs, strict=True)]
    with jaxconv.use_implementation("fft"):
        program = jax.jit(training(case)).lower(*placed).compile()
    assert set(collectives(program)) == {"all-reduce"}  # of the filter gradient
    for got, role in zip(program(*placed), "gxk", strict=True):
        given = {r: a for r, a in zip("xkg", arrays, strict=True) if r != role}
        oracle.assert_right(got, role, case, **given)


def test_export_with_a_symbolic_batch():
    case = BASIC[1]
    x, k = operands(case, np.float32, "xk")
    call = jax.jit(functools.partial(jaxconv.conv, **case.options(), implementation="fft"))
    symbolic = jax.ShapeDtypeStruct(export.symbolic_shape("b, 11, 6"), np.float32)
    exported = export.export(call, platforms=["cpu", "cuda", "tpu"])(symbolic, k)
    again = export.deserialize(exported.serialize())
    oracle.assert_right(again.call(x, k), "g", case, x=x, k=k)


# --- what it does not support ---------------------------------------------------------------------


def forced_error(x, k, **options) -> str:
    with pytest.raises(
        ValueError, match=r'conv: .*implementation "fft" does not support'
    ) as raised:
        jax.eval_shape(functools.partial(jaxconv.conv, implementation="fft", **options), x, k)
    return str(raised.value)


def test_symbolic_extents_are_refused_in_words():
    scope = export.SymbolicScope()
    shapes = [export.symbolic_shape(text, scope=scope) for text in ("b, n, 4", "b, 9, c")]
    extent, channels = (jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)
    kernel = np.ones((3, 4, 2), np.float32)
    assert "known at compile time, but some are symbolic" in forced_error(extent, kernel)
    kernel = jax.ShapeDtypeStruct((3, *export.symbolic_shape("c", scope=scope), 2), np.float32)
    assert "all sizes but the batch must be known" in forced_error(channels, kernel)


def test_arrays_much_smaller_than_their_windows_are_refused_in_words():
    x, k = np.ones((1, 5, 2), np.float32), np.ones((2, 2, 3), np.float32)
    step = 1 << 30
    error = forced_error(x, k, dilation=step, padding=[(step, step)])
    assert "pixels per channel, but transforms at most 268,435,456" in error


def test_empty_arrays():
    x, k = np.ones((2, 0, 3), np.float32), np.ones((4, 3, 5), np.float32)
    assert jaxconv.conv(x, k, implementation="fft").shape == (2, 0, 5)
