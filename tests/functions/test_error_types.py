"""Errors about types and dtypes, and about implementations that cannot serve."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
from benchmarks.common.workloads import WORKLOADS
from jaxconv._src.dispatch import registry
from jaxconv._src.geometry.spec import Operator
from support.errors import G3, LINE, TAPS, K, X, assert_raises, ones

conv = jaxconv.conv
ARRAYS = {
    "conv": (X, ones(3, 2, 6, 9), ones(9)),
    "depthwise_conv": (X, ones(3, 2, 1, 6), ones(6)),
    "pointwise_conv": (X, ones(6, 9), ones(9)),
    "separable_conv": (X, ones(3, 2, 1, 6), ones(6, 9), ones(9)),
    "conv_transpose": (X, ones(3, 2, 9, 6), ones(9)),
    "conv_input_grad": (ones(2, 7, 4), TAPS),
    "conv_filter_grad": (LINE, ones(2, 7, 4)),
    "causal_conv": (LINE, TAPS, ones(4)),
    "causal_conv_step": (ones(2, 2, 6), LINE, TAPS, ones(4)),
}
EXTRA = {"conv_input_grad": ((7,),), "conv_filter_grad": ((3,),)}


def call(function, arrays, **options):
    return getattr(jaxconv, function)(*arrays, *EXTRA.get(function, ()), **options)


def names(function) -> list[str]:
    return list(inspect.signature(getattr(jaxconv, function)).parameters)


POSITIONS = [(function, at) for function, arrays in ARRAYS.items() for at in range(len(arrays))]
by_position = pytest.mark.parametrize(("function", "position"), POSITIONS)


def replaced(function, position, value):
    arrays = list(ARRAYS[function])
    arrays[position] = value(arrays[position])
    return functools.partial(call, function, arrays)


@pytest.mark.parametrize("function", ARRAYS)
def test_the_calls_that_are_broken_below_are_valid(function):
    jax.eval_shape(functools.partial(call, function, ARRAYS[function]))


@by_position
def test_integers(function, position):
    broken = replaced(function, position, lambda array: array.astype(np.int32))
    name = names(function)[position]
    words = f"{function}: {name} must be floating or complex, but its dtype is int32"
    assert_raises(broken, TypeError, words, f"{name}.astype(jnp.float32)")


@by_position
def test_mixed_dtypes(function, position):
    broken = replaced(function, position, lambda array: array.astype(np.float16))
    name = names(function)[position]
    assert_raises(
        broken, TypeError, f"{function}: all arrays must have one dtype", f"{name} float16"
    )


@pytest.mark.parametrize("function", ARRAYS)
def test_every_array_is_described_with_its_axes(function):
    """In every error, eagerly and while tracing."""
    option = "strides" if function == "pointwise_conv" else "dilation"
    arrays = list(ARRAYS[function])
    if function == "pointwise_conv":  # strides need the kernel's spatial axes
        arrays[1] = arrays[1][None, None]
    described = [
        rf"{name} \[[^]]+\] = {re.escape(str(array.shape))}"
        for name, array in zip(names(function), arrays, strict=False)
    ]
    broken = functools.partial(call, function, **{option: -1})
    for attempt in (broken, functools.partial(jax.eval_shape, broken)):
        with pytest.raises(ValueError, match=rf"^{function}: {option} .* but got -1") as raised:
            attempt(arrays)
        missing = [words for words in described if not re.search(words, str(raised.value))]
        assert not missing, (missing, str(raised.value))


@by_position
def test_scalars_have_no_axes(function, position):
    assert_raises(
        replaced(function, position, lambda _: np.float32(1)), ValueError, f"{function}: "
    )


@by_position
def test_masked_arrays(function, position):
    name = names(function)[position]
    broken = replaced(function, position, np.ma.array)
    assert_raises(
        broken, TypeError, f"{function}: {name} must be an array without a mask", "filled(0)"
    )


@pytest.mark.sample(3)
@pytest.mark.parametrize("function", ARRAYS)
def test_8_bit_floats(function):
    """Only the lax implementation supports them."""
    arrays = [jnp.asarray(array, jnp.float8_e4m3fn) for array in ARRAYS[function]]
    for result in jax.tree.leaves(call(function, arrays)):
        assert result.dtype == jnp.float8_e4m3fn


@by_position
def test_lists_are_not_arrays(function, position):
    broken = replaced(function, position, lambda array: array.tolist())
    name = names(function)[position]
    assert_raises(broken, TypeError, f"{function}: {name} must be an array", "list", "jnp.asarray")


@pytest.mark.parametrize(
    "value", [None, "x", 1.0, 3, object(), {"a": 1}, np.array(["a"]), np.array([None]), range(3)]
)
@pytest.mark.parametrize("name", ["x", "kernel"])
def test_other_things_are_not_arrays(name, value):
    arrays = {"x": X, "kernel": K} | {name: value}
    assert_raises(lambda: conv(**arrays, **G3), TypeError, f"conv: {name} must be")


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, "datetime64[s]"])
def test_other_dtypes(dtype):
    assert_raises(lambda: conv(X.astype(dtype), K, **G3), TypeError, "conv: x must be")


def test_keys_are_not_arrays():
    assert_raises(
        lambda: conv(jax.random.key(0), K), TypeError, "conv: x must be floating or complex"
    )


@pytest.mark.parametrize(
    ("preferred", "words"),
    [
        (np.float16, "must not be narrower"),
        (np.int32, "must be floating, like the operands' float32, but got int32"),
        (np.complex64, "must be floating, like the operands' float32, but got complex64"),
        ("floaty", "must be a dtype, but got 'floaty'"),
        (3, "must be a dtype"),
    ],
)
@pytest.mark.parametrize("function", ARRAYS)
def test_preferred_element_type(function, preferred, words):
    broken = functools.partial(call, function, ARRAYS[function], preferred_element_type=preferred)
    assert_raises(broken, TypeError, f"{function}: preferred_element_type ", words)


@pytest.mark.parametrize(
    "precision", ["fast", 1, True, (1, 2), (None, "high"), ("high",), ("high", "fast"), object()]
)
@pytest.mark.parametrize("function", ["conv", "conv_filter_grad"])
def test_precision(function, precision):
    broken = functools.partial(call, function, ARRAYS[function], precision=precision)
    assert_raises(broken, ValueError, f"{function}: precision must be None")


@pytest.mark.parametrize("name", ["fast", "", "LAX", "xla", 3, True])
@pytest.mark.parametrize("function", ARRAYS)
def test_unknown_implementations(function, name):
    broken = functools.partial(call, function, ARRAYS[function], implementation=name)
    assert_raises(
        broken, ValueError, "implementation must be None or one of lax", repr(name), function
    )


def test_unknown_implementations_of_a_block():
    def enter():
        with jaxconv.use_implementation("fast"):
            raise AssertionError

    words = "use_implementation: implementation must be None or one of lax", "'fast'"
    assert_raises(enter, ValueError, *words)


def unsupported() -> list:
    """Every implementation with a workload that it does not support, and the reason."""
    found = []
    for name in registry.IMPLEMENTATIONS:
        for workload in WORKLOADS:
            reason = registry.unsupported_reason(name, Operator.CONV, workload.spec, np.float32)
            if reason is not None:
                found.append(
                    pytest.param(name, workload.spec, reason, id=f"{name} {workload.name}")
                )
                break
    return found


@pytest.mark.parametrize(("name", "spec", "reason"), unsupported())
def test_unsupported_implementations(name, spec, reason):
    """There is no silent fallback: the call raises the reason, also while tracing."""
    shapes = spec.operand_shapes(Operator.CONV)
    x, k = (jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)
    options = {key: getattr(spec, key) for key in ("strides", "padding", "dilation", "groups")}
    traced = functools.partial(conv, implementation=name, **options)
    assert_raises(lambda: jax.eval_shape(traced, x, k), ValueError, "conv: ", name, reason)


def test_an_error_leaves_no_state():
    assert_raises(lambda: call("conv", ARRAYS["conv"], implementation="fast"), ValueError, "'fast'")
    assert jnp.all(jnp.isfinite(call("conv", ARRAYS["conv"])))
