"""``cost``, ``receptive_field`` and ``explain`` against counts, gradients and dispatch."""

import fractions
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxconv
from jaxconv._src.analysis import receptive_field
from jaxconv._src.dispatch.choose import choose_implementation
from jaxconv._src.dispatch.registry import IMPLEMENTATIONS, PLATFORMS
from jaxconv._src.geometry.spec import Operator
from support.cases import BASIC, by_rank, operands, random_cases
from support.operators import as_spec, gradients


def conv_of(case):
    return functools.partial(jaxconv.conv, **case.options())


def nbytes(*arrays) -> int:
    return sum(np.asarray(array).nbytes for array in arrays)


@by_rank
def test_cost_of_conv(case):
    x, k = operands(case, roles="xk")
    counted = jaxconv.cost(conv_of(case), x, k)
    (only,) = counted.convs
    assert only.spec == as_spec(case)
    assert counted.parameters == k.size
    assert counted.macs == math.prod(case.shape("g")) * math.prod(case.shape("k")[:-1])
    assert counted.bytes == nbytes(x, k) + 4 * math.prod(case.shape("g"))
    assert only.shapes == (x.shape, k.shape, case.shape("g"))


def test_cost_of_dense_and_separable_layers():
    """20x20x8 by 32 filters 3x3: 2,304 weights dense, 328 separable."""
    x = jax.ShapeDtypeStruct((1, 20, 20, 8), np.float32)
    k, deep, point = np.ones((3, 3, 8, 32)), np.ones((3, 3, 1, 8)), np.ones((8, 32))
    k, deep, point = (np.asarray(array, np.float32) for array in (k, deep, point))
    dense = jaxconv.cost(functools.partial(jaxconv.conv, padding="VALID"), x, k)
    separable = jaxconv.cost(
        functools.partial(jaxconv.separable_conv, padding="VALID"), x, deep, point
    )
    assert (dense.parameters, separable.parameters) == (2304, 328)
    assert dense.macs == 18 * 18 * 2304
    assert separable.macs == 18 * 18 * 328
    assert [conv.kind for conv in separable.convs] == ["depthwise", "pointwise"]


def test_cost_of_gradients_and_loops():
    case = BASIC[1].replace(in_features=6, out_features=6, strides=(1,), padding=((3, 3),))
    x, k, g = operands(case)
    training = jaxconv.cost(functools.partial(gradients, conv_of(case)), x, k, g)
    assert {conv.operator for conv in training.convs} == set(Operator)
    assert len({conv.macs for conv in training.convs}) == 1
    assert training.parameters == 2 * k.size  # a filter gradient reads no kernel

    def repeated(x, k):
        return lax.scan(lambda x, _: (conv_of(case)(x, k), None), x, length=5)[0]

    counted = jaxconv.cost(repeated, x, k)
    assert [conv.count for conv in counted.convs] == [5]
    assert counted.macs == 5 * training.convs[0].macs
    assert counted.parameters == k.size


def test_cost_counts_convolutions_of_lax():
    x, k = np.ones((2, 3, 9), np.float32), np.ones((4, 3, 3), np.float32)
    counted = jaxconv.cost(lambda x, k: lax.conv_general_dilated(x, k, (1,), "VALID"), x, k)
    assert (counted.parameters, counted.macs) == (36, 2 * 7 * 36)


def test_cost_counts_convolutions_that_jaxconv_cannot_express():
    x, k = np.ones((2, 3, 9), np.int16), np.ones((4, 3, 3), np.int16)
    counted = jaxconv.cost(lambda x, k: lax.conv_general_dilated(x, k, (1,), "VALID"), x, k)
    assert (counted.parameters, counted.macs) == (36, 2 * 7 * 36)
    assert counted.bytes == 2 * (x.size + k.size + 2 * 7 * 4)
    (conv,) = counted.convs
    assert (conv.kind, conv.operator, conv.spec) == ("convolution", None, None)
    assert counted.as_dict()["convs"][0]["operator"] is None


@pytest.mark.parametrize("function", [jaxconv.cost, jaxconv.explain])
def test_tables(function):
    x, k = operands(BASIC[2], roles="xk")
    lines = str(function(conv_of(BASIC[2]), x, k)).splitlines()
    assert len(lines) >= 2
    assert "2x7x10x6" in lines[1]


def test_cost_as_text_html_and_data():
    x, k = operands(BASIC[2], roles="xk")
    counted = jaxconv.cost(conv_of(BASIC[2]), x, k)
    html = counted._repr_html_()
    assert html.count("<tr>") == 3
    assert all(f"{cell:,}" in html for cell in (counted.parameters, counted.macs, counted.bytes))
    plain = json.loads(json.dumps(counted.as_dict()))
    assert plain["macs"] == counted.macs == plain["convs"][0]["macs"]
    assert plain["convs"][0]["kind"] == "dilated grouped"
    assert plain["intensity"] == 2 * counted.macs / counted.bytes


@pytest.mark.parametrize("enlarged", [2, 3, 5, 6, 8])
def test_strides_of_enlarging_functions_are_exact(enlarged):
    kernel = np.ones((2 * enlarged, 1, 1), np.float32)
    field = jaxconv.receptive_field(
        lambda x: jaxconv.conv_transpose(x, kernel, strides=enlarged),
        np.ones((1, 50, 1), np.float32),
    )
    assert field.stride == (fractions.Fraction(1, enlarged),)


def test_receptive_fields_print_as_numbers():
    image = np.ones((1, 9, 9, 1), np.float32)
    field = jaxconv.receptive_field(lambda x: x[:, ::2, :] * 2, image)
    assert str(field) == "size (1, 1), stride (2, 1), offset (0, 0)"
    kernel = np.ones((2, 2, 1, 1), np.float32)
    wider = jaxconv.receptive_field(lambda x: jaxconv.conv_transpose(x, kernel, strides=2), image)
    assert "stride (1/2, 1/2)" in str(wider)


@pytest.mark.parametrize(
    "function",
    [jaxconv.cost, jaxconv.explain, jaxconv.summarize, jaxconv.autotune, jaxconv.receptive_field],
    ids=lambda f: f.__name__,
)
def test_an_argument_that_is_no_function_raises(function):
    with pytest.raises(TypeError, match=rf"^{function.__name__}: .* a.*function .*but got int"):
        function(3, np.ones((1, 4, 1), np.float32))


def seen(fn, x, at) -> tuple[tuple[int, int], ...]:
    """The first and last pixel on each axis that one output depends on, by its gradient."""
    one = jax.grad(lambda x: jnp.sum(fn(x)[(0, *at)]))(x)
    places = np.argwhere(np.asarray(one)[0].any(axis=-1))
    return tuple(zip(places.min(axis=0).tolist(), places.max(axis=0).tolist(), strict=True))


def networks() -> dict:
    """Functions of one sequence, all of whose weights are positive."""
    k3, k4 = np.ones((3, 1, 1), np.float32), np.ones((4, 1, 1), np.float32)
    conv = jaxconv.conv
    return {
        "one": lambda x: conv(x, k3),
        "valid": lambda x: conv(x, k4, padding="VALID"),
        "stacked": lambda x: conv(conv(x, k3), k4, padding="SAME_LOWER"),
        "dilated": lambda x: conv(conv(conv(x, k3), k3, dilation=2), k3, dilation=4),
        "strided": lambda x: conv(conv(x, k3, strides=2), k3, strides=3),
        "causal": lambda x: jaxconv.causal_conv(jaxconv.causal_conv(x, k3), k3, dilation=3),
        "pointwise": lambda x: jnp.tanh(conv(x, k3[:1])) * 2,
        "lax": lambda x: lax.conv_general_dilated(
            x, k4, (2,), ((1, 2),), dimension_numbers=("NWC", "WIO", "NWC")
        ),
        "drop-in": lambda x: jaxconv.conv_general_dilated(
            x, k4, (2,), ((1, 2),), dimension_numbers=("NWC", "WIO", "NWC")
        ),
        "residual": lambda x: x + conv(conv(x, k3), k3),
        "jitted": jax.jit(lambda x: conv(x, k4, strides=2)),
    }


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", networks())
def test_receptive_field(name):
    """It is where the gradient of an output in the middle is not zero."""
    fn = networks()[name]
    x = np.ones((1, 64, 1), np.float32)
    field = jaxconv.receptive_field(fn, x)[0]
    middle = fn(x).shape[1] // 2
    ((first, last),) = seen(fn, x, (middle,))
    assert last - first + 1 == field.size
    assert first == field.offset + field.stride * middle


def test_receptive_field_axis_by_axis():
    k = np.ones((3, 2, 1, 1), np.float32)

    def fn(x):
        return jaxconv.conv(x, k, strides=(1, 2), dilation=(2, 1))

    x = np.ones((1, 24, 24, 1), np.float32)
    field = jaxconv.receptive_field(fn, x)
    assert (field.size, field.stride, len(field)) == ((5, 2), (1, 2), 2)
    height, width = seen(fn, x, (9, 5))
    assert height == (field[0].offset + 9, field[0].offset + 9 + 4)
    assert width == (field[1].offset + 10, field[1].offset + 11)


def test_receptive_field_of_a_transposed_convolution_has_a_fractional_stride():
    k = np.ones((4, 1, 1), np.float32)
    field = jaxconv.receptive_field(
        lambda x: jaxconv.conv_transpose(x, k, strides=2), np.ones((1, 16, 1), np.float32)
    )[0]
    assert (field.size, field.stride) == (2, 0.5)


def test_receptive_field_of_a_global_mean():
    field = jaxconv.receptive_field(
        lambda x: x - jnp.mean(x, axis=1, keepdims=True), np.ones((1, 16, 1), np.float32)
    )
    assert field.size == (16,)


@pytest.mark.parametrize("n", [5, 16, 17, 32, 64])
@pytest.mark.parametrize("border", ["CIRCULAR", "REFLECT", "REPLICATE"])
def test_receptive_field_away_from_borders(border, n):
    """It is the field of an output that depends on no padding."""
    kernel = np.ones((3, 1, 1), np.float32)
    field = jaxconv.receptive_field(
        lambda x: jaxconv.conv(x, kernel, padding=border), ones(1, n, 1)
    )
    assert field[0] == receptive_field.AxisField(3, 1, -1)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, "one ConvSpec or more", lambda: jaxconv.receptive_field([])),
        (TypeError, "sequence of ConvSpec", lambda: jaxconv.receptive_field([1])),
        (ValueError, "must have pixels", lambda: jaxconv.receptive_field(abs, ones(1, 0, 1))),
        (ValueError, "extents must be known", lambda: jaxconv.receptive_field(abs, symbolic())),
        (ValueError, "no result has", lambda: jaxconv.receptive_field(jnp.sum, ones(1, 4, 1))),
        (ValueError, "no argument has", lambda: jaxconv.receptive_field(abs, ones(4, 1))),
    ],
)
def test_receptive_field_errors(error, words, call):
    with pytest.raises(error, match=f"^receptive_field: .*{words}"):
        call()


def ones(*shape):
    return np.ones(shape, np.float32)


def symbolic():
    return jax.ShapeDtypeStruct(jax.export.symbolic_shape("1, n, 1"), np.float32)


def test_receptive_field_of_specs():
    """The published recursion: ``size += (k-1)*d*jump``, ``jump *= s``."""
    chosen = [case for case in random_cases(51, 12, rank=1) if case.input_spatial[0] > 5][:4]
    specs = [
        as_spec(case.replace(input_spatial=(400 >> at,), padding=((2, 2),)))
        for at, case in enumerate(chosen)
    ]
    size, jump = 1, 1
    for spec in specs:
        size += (spec.effective_kernel[0] - 1) * jump
        jump *= spec.strides[0]
    field = jaxconv.receptive_field(specs)
    assert (field.size, field.stride) == ((size,), (jump,))


@by_rank
def test_explain_says_what_dispatch_chooses(case):
    x, k, g = operands(case)
    fn = functools.partial(gradients, conv_of(case))
    convs = jaxconv.explain(fn, x, k, g, platforms=["cpu", "tpu"]).convs
    assert {(conv.operator, conv.platform) for conv in convs} == {
        (operator, platform) for operator in Operator for platform in ("cpu", "tpu")
    }
    for conv in convs:
        choice = choose_implementation(conv.operator, conv.platform, as_spec(case), x.dtype)
        assert (conv.implementation, conv.reason) == (choice.implementation, choice.reason)
        assert (conv.spec, conv.dtype) == (as_spec(case), x.dtype)
        assert conv.reasons.keys() == IMPLEMENTATIONS.keys() - {conv.implementation}


@by_rank
def test_explain_gives_a_reason_for_every_implementation_on_every_platform(case):
    case = case.replace(groups=case.in_features, out_features=2 * case.in_features)
    x, k = operands(case, roles="xk")
    explained = jaxconv.explain(conv_of(case), x, k, platforms=PLATFORMS)
    for conv in explained.convs:
        choice = choose_implementation(conv.operator, conv.platform, as_spec(case), x.dtype)
        assert conv.tile == choice.tile
        assert (conv.tile is not None) == (conv.implementation == "pallas")
        assert all(conv.reasons.values())
    cuda = next(conv for conv in explained.convs if conv.platform == "cuda")
    assert cuda.implementation == "pallas"
    assert cuda.reasons["native"] == "it runs on cpu, not on cuda"
    text = str(explained)
    assert str(cuda.tile) in text
    for conv in explained.convs:
        for implementation, reason in conv.reasons.items():
            assert any(
                line.startswith(conv.platform) and implementation in line and reason in line
                for line in text.splitlines()
            )


def test_explain_takes_one_platform_or_several():
    arguments = conv_of(BASIC[2]), *operands(BASIC[2], roles="xk")

    def explained(platforms):
        return [conv.platform for conv in jaxconv.explain(*arguments, platforms=platforms).convs]

    assert explained("tpu") == ["tpu"]
    assert explained(("cpu", "gpu")) == ["cpu", "cuda"]
    for wrong in ("metal", ("cpu", "metal"), 3):
        with pytest.raises(ValueError, match=r"^explain: platforms must be among .* but got "):
            explained(wrong)


def test_explain_finds_convolutions_anywhere():
    case = BASIC[1].replace(in_features=6, out_features=6, strides=(1,), padding=((3, 3),))
    x, k = operands(case, roles="xk")
    conv = conv_of(case)

    def nested(x, k):
        x = jax.jit(conv)(x, k)
        x = lax.cond(jnp.sum(x) > 0, lambda x: conv(x, k), lambda x: x, x)
        return lax.scan(lambda x, _: (jax.checkpoint(conv)(x, k), None), x, length=2)[0]

    explained = jaxconv.explain(nested, x, k)
    assert [c.count for c in explained.convs] == [1, 1, 2]


def test_explain_says_why_a_convolution_runs_on_lax():
    x, k = np.ones((2, 3, 9), np.float32), np.ones((4, 3, 3), np.float32)

    def call(x, k):
        return jaxconv.conv_general_dilated(x, k, (2,), ((1, 1),), lhs_dilation=(2,))

    (only,) = jaxconv.explain(call, x, k).convs
    assert only.implementation == "lax"
    assert "strided" in only.reason
    forcing = functools.partial(jaxconv.pointwise_conv, implementation="lax")
    (forced,) = jaxconv.explain(forcing, x.mT, k[0]).convs
    assert (forced.implementation, forced.reason) == ("lax", "forced")
