"""The choice of an implementation: rules, reasons, and one wording for what is unsupported."""

import jax
import numpy as np
import pytest

import jaxconv
from benchmarks.common.workloads import WORKLOADS
from jaxconv._src.dispatch import registry
from jaxconv._src.dispatch.choose import candidate_trials, choose_implementation, default_trial
from jaxconv._src.dispatch.fft_rule import reason_for_fft
from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.kernels.xla import fft
from jaxconv._src.primitives import rules
from support.cases import BASIC
from support.operators import as_spec

DENSE = as_spec(BASIC[2].replace(groups=1))
by_operator = pytest.mark.parametrize("operator", Operator, ids=lambda operator: operator.value)
by_platform = pytest.mark.parametrize("platform", registry.PLATFORMS)


@by_platform
@by_operator
def test_every_workload_has_a_supported_choice_with_reasons(operator, platform):
    for workload in WORKLOADS:
        choice = choose_implementation(operator, platform, workload.spec, np.float32)
        unsupported = registry.unsupported_reasons(platform, operator, workload.spec, np.float32)
        assert unsupported[choice.implementation] is None
        assert choice.reasons_against.keys() == unsupported.keys() - {choice.implementation}
        for name, reason in choice.reasons_against.items():
            assert reason == (
                unsupported[name] or f'"{choice.implementation}" is preferred: {choice.reason}'
            )
        trial = default_trial(operator, platform, workload.spec, np.float32)
        assert trial == (choice.implementation, choice.tile)
        assert trial in candidate_trials(operator, platform, workload.spec, np.float32)


@by_operator
def test_programs_of_plain_xla_contain_no_custom_calls(operator):
    for workload in WORKLOADS:
        for platform in registry.PLATFORMS:
            choice = choose_implementation(
                operator, platform, workload.spec, np.float32, plain_xla_reason="exported"
            )
            assert choice.implementation not in registry.CUSTOM_CALLS


def test_one_message_says_what_a_forced_implementation_does_not_support():
    """From the public function, from the primitive and from dispatch."""
    message = registry.unsupported_message("taps", Operator.CONV, DENSE, np.float32)
    assert message is not None
    x, k = (np.ones(shape, np.float32) for shape in DENSE.operand_shapes(Operator.CONV))

    def public():
        jaxconv.conv(x, k, strides=DENSE.strides, padding="VALID", implementation="taps")

    def bound():
        bind = lambda x, k: rules.bind(  # noqa: E731
            Operator.CONV, x, k, DENSE, dtype=np.float32, implementation="taps"
        )
        jax.eval_shape(bind, x, k)

    def chosen():
        choose_implementation(Operator.CONV, "cpu", DENSE, np.float32, "taps")

    for call in (public, bound, chosen):
        with pytest.raises(ValueError, match="supports only depthwise") as raised:
            call()
        assert message in str(raised.value)


def test_a_supported_implementation_has_no_message():
    assert registry.unsupported_message("lax", Operator.CONV, DENSE, np.float32) is None
    assert registry.unsupported_message("dots", Operator.CONV, DENSE, np.float32) is None


# --- the fast Fourier transform ---


def depthwise(features: int, spatial: tuple[int, ...], kernel: tuple[int, ...]) -> ConvSpec:
    sides = tuple((k // 2, (k - 1) // 2) for k in kernel)
    ones = (1,) * len(kernel)
    return ConvSpec(1, features, features, spatial, kernel, ones, sides, ones, features)


LONG = depthwise(64, (4096,), (4096,)), depthwise(16, (16384,), (16384,))
LARGE = depthwise(4, (128, 128), (101, 101)), depthwise(4, (256, 256), (101, 101))


@by_operator
def test_long_kernels_are_transformed_on_cpu(operator):
    for spec in (*LONG, *LARGE):
        for reason in (None, "exported"):
            choice = choose_implementation(
                operator, "cpu", spec, np.float32, plain_xla_reason=reason
            )
            assert choice.implementation == "fft"
            assert f"{spec.taps:,} taps" in choice.reason
        forced = choose_implementation(operator, "cpu", spec, np.float32, "taps")
        assert forced.implementation == "taps"


@by_platform
@by_operator
def test_usual_kernels_are_not_transformed(operator, platform):
    """Nor is anything where it was not timed: on GPUs and TPUs."""
    specs = [workload.spec for workload in WORKLOADS]
    specs += LONG if platform != "cpu" else ()
    for spec in specs:
        for reason in (None, "exported"):
            choice = choose_implementation(
                operator, platform, spec, np.float32, plain_xla_reason=reason
            )
            assert choice.implementation != "fft"


@by_operator
def test_kernels_too_large_for_the_engine_are_transformed(operator):
    """A dense 13x13x13 kernel of 16 channels sums more products than it supports: no cliff."""
    spec = ConvSpec(1, 16, 16, (16,) * 3, (13,) * 3, (1,) * 3, ((6, 6),) * 3, (1,) * 3, 1)
    choice = choose_implementation(operator, "cpu", spec, np.float32, plain_xla_reason="exported")
    assert choice.implementation == "fft"
    assert reason_for_fft(operator, spec) is None


def test_what_may_be_less_exact_is_never_transformed_by_a_rule():
    """Over random specs: the error bound is at most that of direct sums, for even operands."""
    rng = np.random.default_rng(0)
    transformed = 0
    for _ in range(300):
        rank = int(rng.integers(1, 4))
        top = {1: 14, 2: 8, 3: 5}[rank]
        n, k = (tuple(int(2 ** rng.uniform(2, top)) for _ in range(rank)) for _ in range(2))
        spec = depthwise(int(2 ** rng.uniform(0, 7)), n, k)
        if rng.integers(2) and not spec.empty:
            spec = spec.replace(groups=1)
        for operator in Operator:
            if reason_for_fft(operator, spec) is not None:
                transformed += 1
                assert fft.relative_error_bound(operator, spec) <= 1
    assert transformed > 30
