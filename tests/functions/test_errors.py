"""Every error about shapes and values: its type, its words, and that the library raises it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
from support.errors import G3, LINE, TAPS, K, X, assert_raises, ones

conv = jaxconv.conv


SHAPES = {
    "rank of x": (
        lambda: conv(ones(7, 6), K),
        "conv: x must be [N, H, W, C] or, unbatched, [H, W, C]",
        "it has 2 axes",
        "kernel [KH, KW, C/G, F] = (3, 2, 2, 9)",
    ),
    "rank of kernel": (lambda: conv(X, ones(3, 2)), "conv: kernel must be [*K, C/G, F]", "has 2"),
    "four spatial axes": (
        lambda: conv(ones(1, 2, 2, 2, 2, 1), ones(1, 1, 1, 1, 1, 1)),
        "1 to 3 spatial axes",
    ),
    "channels": (
        lambda: conv(X, K),
        "6 != 2 * 1 = 2",
        "groups=3 would make them equal",
        "x [N, H, W, C] = (2, 7, 5, 6)",
    ),
    "channels of groups": (
        lambda: conv(X, ones(3, 2, 4, 9), **G3),
        "6 != 4 * 3 = 12",
        "a kernel for groups=3 has C/G = 2",
    ),
    "channels first": (lambda: conv(ones(2, 6, 7, 5), ones(3, 3, 6, 4)), "5 != 6 * 1 = 6"),
    "features of groups": (
        lambda: conv(X, ones(3, 2, 2, 8), **G3),
        "F % groups = 8 % 3 = 2",
        "multiple of groups",
    ),
    "kernel too wide": (
        lambda: conv(X, ones(3, 4, 6, 9), padding=[(0, 0), (1, 0)], dilation=(1, 3)),
        "spatial axis 1",
        "spans d*(k-1) + 1 = 10",
        "5 + 1 + 0 = 6",
        "smaller kernel or dilation, or more padding",
    ),
    "cropped away": (lambda: conv(X, ones(1, 1, 6, 9), padding=-4), "7 + -4 + -4 = -1"),
    "bias": (
        lambda: conv(X, K, ones(8), **G3),
        "conv: bias must have shape [F] = (9,)",
        "bias [F] = (8,)",
    ),
    "scalar bias": (lambda: conv(X, K, np.float32(1), **G3), "[F] = (9,)", "bias ()"),
    "bias with axes": (lambda: conv(X, K, ones(1, 9), **G3), "[F] = (9,)", "(1, 9)"),
    "circular border of a short input": (
        lambda: conv(ones(1, 3, 2), ones(9, 2, 1), padding="CIRCULAR"),
        'padding "CIRCULAR" of spatial axis 0',
        "needs 4 pixels, but an extent of 3 provides at most 3",
    ),
    "reflected border of a short input": (
        lambda: conv(ones(1, 3, 2), ones(7, 2, 1), padding="REFLECT"),
        'padding "REFLECT"',
        "an extent of 3 provides at most 2",
    ),
    "Keras's depthwise kernel": (
        lambda: jaxconv.depthwise_conv(X, ones(3, 3, 6, 2)),
        "depthwise_conv: kernel must be [*K, 1, C*M]",
        "its second-to-last axis has size 6",
        "kernel.reshape(*kernel.shape[:-2], 1, -1)",
    ),
    "depthwise features": (
        lambda: jaxconv.depthwise_conv(X, ones(3, 3, 1, 8)),
        "must be a multiple of x's 6 channels",
        "got 8",
    ),
    "wide pointwise kernel": (
        lambda: jaxconv.pointwise_conv(X, ones(1, 3, 6, 4)),
        "pointwise_conv: kernel must be [1, …, 1, C, F] or [C, F]",
    ),
    "strided flat kernel": (
        lambda: jaxconv.pointwise_conv(X, ones(6, 4), strides=2),
        "a kernel [C, F] has no spatial axes to stride over, but got strides 2",
    ),
    "flat kernel and a stride that is no int": (
        lambda: jaxconv.pointwise_conv(X, ones(6, 4), strides=True),
        "pointwise_conv: strides must be a positive int, but got True",
    ),
    "pointwise features": (
        lambda: jaxconv.pointwise_conv(X, ones(5, 4)),
        "x's channels must equal the kernel's, but 6 != 5",
    ),
    "separable features": (
        lambda: jaxconv.separable_conv(X, ones(3, 3, 1, 12), ones(6, 4)),
        "separable_conv: pointwise_kernel must read the C*M features",
        "6 != 12",
    ),
    "separable kernel": (
        lambda: jaxconv.separable_conv(X, ones(3, 3, 1, 6), ones(3, 1, 6, 4)),
        "pointwise_kernel must be [1, …, 1, C*M, F] or [C*M, F]",
    ),
    "separable depthwise kernel": (
        lambda: jaxconv.separable_conv(X, ones(3, 3, 6, 1), ones(6, 4)),
        "depthwise_kernel must be [*K, 1, C*M]",
    ),
    "separable bias": (
        lambda: jaxconv.separable_conv(X, ones(3, 3, 1, 6), ones(6, 4), ones(6)),
        "separable_conv: bias",
        "[F] = (4,)",
    ),
    "transposed features": (
        lambda: jaxconv.conv_transpose(X, ones(3, 3, 6, 4)),
        "conv_transpose: x's channels must equal the kernel's last axis, but 6 != 4",
        "[*K, F/G, C]",
    ),
    "transposed border": (
        lambda: jaxconv.conv_transpose(X, ones(3, 3, 4, 6), padding="CIRCULAR"),
        'padding "CIRCULAR" is not supported',
        "conv_input_grad",
    ),
    "output padding": (
        lambda: jaxconv.conv_transpose(
            X, ones(3, 3, 4, 6), strides=2, padding=1, output_padding=(1, 2)
        ),
        "output_padding must be less than the stride or the dilation",
        "spatial axis 1 it is 2, with stride 2 and dilation 1",
    ),
    "output padding with SAME": (
        lambda: jaxconv.conv_transpose(X, ones(3, 3, 4, 6), strides=2, output_padding=1),
        'padding "SAME" fixes the output extent at n*s',
    ),
    "transposed without output": (
        lambda: jaxconv.conv_transpose(ones(1, 2, 6), ones(3, 4, 6), padding=2),
        "padding leaves no output on spatial axis 0",
        "1 + 3 - 2 - 2 + 0 = 0",
    ),
    "transposed bias": (
        lambda: jaxconv.conv_transpose(X, ones(3, 3, 4, 6), ones(6)),
        "conv_transpose: bias",
        "[F] = (4,)",
    ),
    "cotangent": (
        lambda: jaxconv.conv_input_grad(ones(2, 6, 4), TAPS, (7,)),
        "conv_input_grad: g must have the shape of the convolution's output",
        "(2, 7, 4)",
        "g [N, W, F] = (2, 6, 4)",
    ),
    "cotangent's features": (
        lambda: jaxconv.conv_input_grad(ones(2, 7, 5), TAPS, (7,)),
        "(2, 7, 4)",
    ),
    "cotangent of a filter": (
        lambda: jaxconv.conv_filter_grad(LINE, ones(2, 6, 4), (3,)),
        "conv_filter_grad: g must have the shape",
    ),
    "filter groups": (
        lambda: jaxconv.conv_filter_grad(LINE, ones(2, 7, 8), (3,), groups=4),
        "C % groups = 6 % 4 = 2",
    ),
    "one of two without a batch": (
        lambda: jaxconv.conv_filter_grad(LINE, ones(7, 4), (3,)),
        "conv_filter_grad: x and g must both have a batch axis, or neither",
        "(7, 4)",
    ),
    "unbatched": (
        lambda: conv(ones(7, 5, 4), K),
        "x [H, W, C] = (7, 5, 4)",
    ),
    "kernel_spatial": (
        lambda: jaxconv.conv_filter_grad(LINE, LINE, (1, 1, 1, 1)),
        "kernel_spatial must have 1 to 3 extents",
    ),
    "no kernel_spatial": (
        lambda: jaxconv.conv_filter_grad(X, X, None),
        "kernel_spatial must be an int of at least 0, but got None",
    ),
    "input_spatial": (
        lambda: jaxconv.conv_input_grad(LINE, TAPS, (7, 7)),
        "input_spatial must be an int or have one int per spatial axis (1), but got 2",
    ),
    "causal rank": (
        lambda: jaxconv.causal_conv(X, ones(3, 3, 6, 4)),
        "a causal convolution has one spatial axis",
        'padding=("CAUSAL", "SAME")',
    ),
    "causal rank of x": (
        lambda: jaxconv.causal_conv(X, TAPS),
        "causal_conv: x must be [N, L, C] or, unbatched, [L, C]",
    ),
    "state": (
        lambda: jaxconv.causal_conv_step(ones(2, 3, 6), LINE, TAPS),
        "state must be [N, (K-1)*dilation, C] = (2, 2, 6), but got (2, 3, 6)",
        "causal_conv_init",
    ),
    "features of a step": (
        lambda: jaxconv.causal_conv_step(ones(2, 2, 6), LINE[..., :4], TAPS),
        "causal_conv_step: x must have as many channels as the state, C = 6, but has 4",
        "x [N, L, C] = (2, 7, 4)",
    ),
    "empty step": (
        lambda: jaxconv.causal_conv_step(ones(2, 2, 6), LINE[:, :0], TAPS),
        "L at least 1",
    ),
    "batch size": (lambda: jaxconv.causal_conv_init(TAPS, -1), "batch_size", "-1"),
    "depthwise rank": (
        lambda: jaxconv.separable_conv(X, ones(1, 6), ones(6, 4)),
        "separable_conv: depthwise_kernel must be [*K, 1, C*M]",
    ),
    "flat kernel of a scalar": (
        lambda: jaxconv.pointwise_conv(np.float32(1), ones(6, 4)),
        "x must have a channel axis",
        "kernel [C, F] = (6, 4)",
    ),
}


@pytest.mark.parametrize(("call", "words"), [(v[0], v[1:]) for v in SHAPES.values()], ids=SHAPES)
def test_shapes_that_do_not_fit(call, words):
    assert_raises(call, ValueError, *words)


@pytest.mark.parametrize("call", [v[0] for v in SHAPES.values()], ids=SHAPES)
def test_messages_name_the_function_and_every_shape(call):
    with pytest.raises(ValueError, match=r"^\w+: .+ Got \w+ .*\(.*\).*\.$") as raised:
        call()
    assert re.match(r"^(\w*conv\w*): ", str(raised.value))


STATIC = {
    "strides": [0, -1, 1.5, "2", True, None, (1,), (1, 0), (1, 2, 3), (1, 2.0), [[1, 1]]],
    "dilation": [0, -2, 2.0, (1, -1), (1,), None],
    "groups": [0, -3, 1.0, True, None, (3,)],
}
WRONG = [(name, value) for name, values in STATIC.items() for value in values]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: str(value))
def test_static_arguments(name, value):
    parts = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    assert_raises(lambda: conv(X, K, **(G3 | {name: value})), ValueError, f"conv: {name} must be")
    with pytest.raises(ValueError, match="but got") as raised:
        conv(X, K, **(G3 | {name: value}))
    assert any(repr(part) in str(raised.value) for part in (*parts, value, len(parts)))


def test_a_bool_is_an_error_even_after_the_int_it_equals():
    """Results are cached by value; ``True == 1`` must not find the entry of 1."""
    conv(X, K, strides=(1, 1), **G3)
    assert_raises(lambda: conv(X, K, strides=(True, True), **G3), ValueError, "strides")
    conv(X, K, padding=(1, 1), **G3)
    assert_raises(lambda: conv(X, K, padding=(True, True), **G3), ValueError, "padding")


@pytest.mark.parametrize(
    ("padding", "words"),
    [
        ("samee", 'did you mean "SAME"?'),
        ("BANANA", "padding must be one of SAME"),
        ("CAUSAL", "is ambiguous for 2 spatial axes"),
        ((1, 2, 3), "one entry per spatial axis (2), but got 3"),
        ([(1, 2, 3), 0], "(1, 2, 3)"),
        (1.0, "but got 1.0"),
        (None, "but got None"),
        ({0: (1, 1), 1: (1, 1)}, "one entry per axis, but got {0: (1, 1), 1: (1, 1)}"),
    ],
    ids=str,
)
@pytest.mark.parametrize("function", ["conv", "conv_transpose", "depthwise_conv"])
def test_padding(function, padding, words):
    k = {"conv": K, "conv_transpose": ones(3, 2, 2, 6), "depthwise_conv": ones(3, 2, 1, 6)}[
        function
    ]
    options = {} if function == "depthwise_conv" else G3
    call = getattr(jaxconv, function)
    assert_raises(
        lambda: call(X, k, padding=padding, **options),
        ValueError,
        f"{function}: padding ",
        words,
        "x [N, H, W, C] = (2, 7, 5, 6)",
    )


def test_the_dtype_of_a_stream():
    for dtype, words in ((np.int32, "floating or complex, but got int32"), ("floaty", "'floaty'")):
        assert_raises(
            lambda dtype=dtype: jaxconv.causal_conv_init(TAPS, 1, dtype=dtype),
            TypeError,
            "causal_conv_init: dtype must be",
            words,
            "kernel [K, C/G, F] = (3, 6, 4)",
        )


def test_an_array_as_a_static_argument():
    def traced(strides):
        return conv(X, K, strides=strides, **G3)

    assert_raises(lambda: jax.jit(traced)(2), ValueError, "conv: strides must be a positive int")
    extent = np.array(3)
    x, g = ones(2, 7, 6), ones(2, 7, 4)
    assert jaxconv.conv_filter_grad(x, g, extent).shape == (3, 6, 4)


TRACED = [(name, value) for name in ("strides", "padding", "dilation") for value in (1, [1, 1])]


@pytest.mark.parametrize(("name", "value"), [*TRACED, ("padding", [(1, 1)] * 2), ("groups", 1)])
def test_traced_static_arguments(name, value):
    """The error says that the argument must be static, not only that it is a tracer."""
    assert_raises(
        lambda: jax.jit(lambda value: conv(X, K, **(G3 | {name: value})))(value),
        ValueError,
        f"conv: {name} ",
        "it is traced, but must be a Python int",
        "static_argnums",
    )


def total(x):
    return jnp.sum(conv(x, K))


TRACES = {
    "jit": lambda: jax.jit(total)(X),
    "eval_shape": lambda: jax.eval_shape(total, X),
    "make_jaxpr": lambda: jax.make_jaxpr(total)(X),
    "vmap": lambda: jax.vmap(total)(X[None]),
    "grad": lambda: jax.grad(total)(X),
    "scan": lambda: jax.lax.scan(lambda x, _: (conv(x, K), None), X, length=2),
}


@pytest.mark.parametrize("trace", TRACES.values(), ids=TRACES)
def test_the_same_while_tracing(trace):
    assert_raises(trace, ValueError, "conv: ", "6 != 2 * 1 = 2", "groups=3 would make them equal")
