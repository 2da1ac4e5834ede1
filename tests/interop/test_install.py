"""``install``: which programs change, and that their values do not."""

from __future__ import annotations

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import lax

import jaxconv
from jaxconv._src.dispatch.choose import choose_implementation
from jaxconv._src.geometry.spec import Operator

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((3, 9, 8, 6)), jnp.float32)
KERNEL = jnp.asarray(RNG.standard_normal((3, 2, 1, 12)), jnp.float32)


def conv(x, kernel, groups=6):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 2), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )


def loss(x, kernel):
    return jnp.sum(jnp.sin(conv(x, kernel)))


def fresh(fn):
    """``fn`` in a jit without cached programs."""
    return jax.jit(lambda *args: fn(*args))


def convolves(fn, *args) -> bool:
    """Whether the compiled program contains one of XLA's convolutions."""
    return " convolution(" in fn.lower(*args).compile().as_text()


@pytest.fixture(autouse=True)
def clean():
    yield
    jaxconv.uninstall()


def assert_close(ours, theirs):
    leaves = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    for a, b in leaves:
        scale = max(1.0, float(jnp.abs(b).max()))
        np.testing.assert_allclose(a, b, atol=200 * np.finfo(np.float32).eps * scale)


@pytest.mark.slow
def test_install_applies_to_values_and_gradients():
    expected = fresh(jax.value_and_grad(loss, (0, 1)))(X, KERNEL)
    jaxconv.install()
    accelerated = fresh(jax.value_and_grad(loss, (0, 1)))
    assert_close(accelerated(X, KERNEL), expected)
    assert not convolves(accelerated, X, KERNEL)


def test_uninstall_restores_laxs_convolution():
    jaxconv.install()
    jaxconv.uninstall()
    assert convolves(fresh(loss), X, KERNEL)


def test_installed_applies_to_its_block_only():
    jitted = fresh(loss)
    assert convolves(jitted, X, KERNEL)
    with jaxconv.installed():
        assert not convolves(jitted, X, KERNEL)
    assert convolves(jitted, X, KERNEL)


def test_install_applies_to_functions_jitted_before():
    jitted = fresh(loss)
    before = jitted(X, KERNEL)
    jaxconv.install()
    assert_close(jitted(X, KERNEL), before)
    assert not convolves(jitted, X, KERNEL)
    jaxconv.uninstall()
    assert convolves(jitted, X, KERNEL)


def test_installing_twice_has_no_further_effect():
    jaxconv.install()
    jaxconv.install()
    assert not convolves(fresh(loss), X, KERNEL)
    jaxconv.uninstall()
    assert convolves(fresh(loss), X, KERNEL)


def test_install_applies_to_eager_calls():
    expected = conv(X, KERNEL)
    jaxconv.install()
    assert_close(conv(X, KERNEL), expected)


@pytest.mark.parametrize(
    "transform",
    [
        lambda x, k: jax.vmap(conv, (None, 0))(x, jnp.stack([k, 2 * k])),
        lambda x, k: jax.vmap(jax.grad(lambda k, x: loss(x[None], k)), (None, 0))(k, x),
        lambda x, k: jax.jvp(jax.grad(loss, 1), (x, k), (x, k))[1],
        lambda x, k: lax.scan(lambda carry, _: (carry + conv(x, k).sum(), None), 0.0, length=3)[0],
        lambda x, k: jax.grad(jax.checkpoint(loss), 1)(x, k),
    ],
    ids=["vmap", "per-example", "forward-over-reverse", "scan", "checkpoint"],
)
def test_install_under(transform):
    expected = fresh(transform)(X, KERNEL)
    jaxconv.install()
    accelerated = fresh(transform)
    assert_close(accelerated(X, KERNEL), expected)
    assert not convolves(accelerated, X, KERNEL)


def test_install_applies_to_a_stock_flax_model():
    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(12, (3, 3), feature_group_count=6)(x)
            return linen.Conv(4, (1, 1))(jnp.tanh(x)).mean((1, 2))

    network = Network()
    variables = network.init(jax.random.key(0), X)
    step = jax.grad(lambda variables: jnp.sum(network.apply(variables, X) ** 2))
    expected = fresh(step)(variables)
    jaxconv.install()
    accelerated = fresh(step)
    assert_close(accelerated(variables), expected)
    assert not convolves(accelerated, variables)


def reported(fn, *args, platforms=None) -> list[tuple[str, str]]:
    convs = jaxconv.explain(fn, *args, platforms=platforms).convs
    return [(conv.platform, conv.implementation) for conv in convs]


def test_explain_and_summarize_report_what_install_lowers_to():
    """On the CPU both agree with the compiled program, where the engine is a custom call."""
    step = fresh(jax.grad(loss, (0, 1)))
    before = reported(step, X, KERNEL)
    assert before == [("cpu", "lax")] * 3
    assert convolves(step, X, KERNEL)
    jaxconv.install()
    after = reported(step, X, KERNEL)
    assert after == [("cpu", "native")] * 3
    assert not convolves(step, X, KERNEL)
    (layer,) = jaxconv.summarize(conv, X, KERNEL).layers
    assert layer.implementation == "native"
    jaxconv.uninstall()
    assert reported(step, X, KERNEL) == before


def test_explain_reports_each_platform_that_install_applies_to():
    jaxconv.install(("cuda",))
    explained = jaxconv.explain(conv, X, KERNEL, platforms=("cpu", "cuda")).convs
    on_cpu, on_cuda = explained
    expected = choose_implementation(Operator.CONV, "cuda", on_cuda.spec, jnp.float32)
    assert (on_cuda.implementation, on_cuda.reason) == (expected.implementation, expected.reason)
    assert on_cuda.implementation != "lax"
    assert on_cuda.reasons == expected.reasons_against
    assert on_cuda.tile == expected.tile
    assert on_cpu.implementation == "lax"
    assert 'install("cpu")' in on_cpu.reason
    assert "accelerate" in on_cpu.reason


def test_explain_and_summarize_report_what_installed_lowers_to_in_its_block():
    jitted = fresh(conv)
    with jaxconv.installed():
        assert reported(jitted, X, KERNEL) == [("cpu", "native")]
        assert jaxconv.summarize(conv, X, KERNEL).layers[0].implementation == "native"
        assert reported(jitted, X, KERNEL, platforms="tpu") == [("tpu", "lax")]
    assert reported(jitted, X, KERNEL) == [("cpu", "lax")]
    assert jaxconv.summarize(conv, X, KERNEL).layers[0].implementation == "lax"


def test_explain_says_why_install_leaves_a_convolution_to_lax():
    x, kernel = jnp.ones((1, 2, 5), jnp.int32), jnp.ones((3, 2, 3), jnp.int32)
    jaxconv.install()
    (only,) = jaxconv.explain(lambda x, k: lax.conv(x, k, (1,), "VALID"), x, kernel).convs
    assert (only.implementation, only.operator) == ("lax", None)
    assert only.reason.startswith("int32 operands")


def test_explain_reports_the_input_gradient_that_install_lowers_to():
    """lax's transposition rule leaves a convolution that install lowers as an input gradient."""
    dense = jnp.ones((3, 3, 6, 12), jnp.float32)

    def backward(g, kernel):
        numbers = ("NHWC", "HWOI", "NHWC")
        return lax.conv_general_dilated(g, kernel, (1, 1), "SAME", dimension_numbers=numbers)

    g = jnp.ones((3, 9, 8, 12), jnp.float32)
    jaxconv.install()
    (only,) = jaxconv.explain(backward, g, dense).convs
    gradient = jaxconv.ConvSpec(
        3, 6, 12, (9, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), groups=1
    )
    expected = choose_implementation(Operator.INPUT_GRAD, "cpu", gradient, jnp.float32)
    assert (only.implementation, only.reason) == (expected.implementation, expected.reason)
    assert only.reasons == expected.reasons_against


def test_unsupported_convolutions_are_left_to_lax():
    x, kernel = jnp.ones((1, 5, 2), jnp.int32), jnp.ones((3, 2, 2), jnp.int32)
    numbers = ("NWC", "WIO", "NWC")
    jaxconv.install()
    y = lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=numbers)
    np.testing.assert_array_equal(y, np.full((1, 3, 2), 6))


def test_the_lax_implementation_is_laxs_own_after_install():
    jaxconv.install()
    forced = fresh(lambda x, k: jaxconv.conv(x, k, groups=6, implementation="lax"))
    assert convolves(forced, X, KERNEL)


def test_exported_programs_do_not_change():
    jaxconv.install()
    exported = jax.export.export(fresh(conv), platforms=["cpu", "tpu"])(X, KERNEL)
    assert "custom_call @jaxconv" not in exported.mlir_module()


def test_unknown_platforms_are_rejected():
    with pytest.raises(ValueError, match="platforms must be among cpu, cuda, rocm, tpu"):
        jaxconv.install(("gpu9",))
    with pytest.raises(ValueError, match=r"^installed: platforms must be among .* but got 3"):
        jaxconv.installed(3).__enter__()


def test_a_jit_over_several_devices_contains_plain_xla():
    """XLA cannot partition a custom call, so every device would compute the whole result."""
    spec = jaxconv.ConvSpec(2, 6, 6, (5,), (3,), (1,), ((1, 1),), (1,), 6)
    chosen = choose_implementation(
        Operator.CONV, "cpu", spec, jnp.float32, plain_xla_reason="several devices"
    )
    assert chosen.implementation == "taps"
    assert chosen.reasons_against["native"] == "several devices"
    with pytest.raises(ValueError, match="several devices"):
        choose_implementation(Operator.CONV, "cpu", spec, jnp.float32, "native", "several devices")


def test_the_engine_is_unsupported_on_other_platforms():
    spec = jaxconv.ConvSpec(2, 6, 6, (5,), (3,), (1,), ((1, 1),), (1,), 6)
    with pytest.raises(ValueError, match="runs on cpu, not on tpu"):
        choose_implementation(Operator.CONV, "tpu", spec, jnp.float32, "native")
