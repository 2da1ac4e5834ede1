"""``summarize`` against counts by loops, Flax's own totals, and gradients."""

from __future__ import annotations

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

import jaxconv
from jaxconv.models import (
    AlexNet,
    ConvNeXtT,
    EfficientNetB0,
    MobileNetV1,
    MobileNetV2,
    MobileNetV3Large,
    ResNet50,
)

pytestmark = pytest.mark.models


def image(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def abstract(make, **options):
    return nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0), **options))


def parameters(network) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))


@pytest.mark.sample(8)
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (AlexNet, {}),
        (MobileNetV1, {"separable": False}),
        (MobileNetV1, {}),
        (MobileNetV2, {}),
        (EfficientNetB0, {}),
        (MobileNetV3Large, {}),
        (ResNet50, {}),
        (ConvNeXtT, {"depths": (1, 1, 1, 1)}),
    ],
)
def test_parameters_are_those_that_flax_counts(make, options):
    network = abstract(make, **options)
    network.eval()
    summary = jaxconv.summarize(network, image(1, 227, 227, 3))
    assert summary.parameters == parameters(network)
    assert not any(layer.kind == "unused" for layer in summary.layers)


def counted(x_spatial, kernel, strides, dilation, padding, groups) -> int:
    """Multiply-accumulates of a convolution by loops over outputs, taps and features."""
    macs = 0
    *extents, per_group, out = kernel
    sizes = [
        (n + low + high - d * (k - 1) - 1) // s + 1
        for n, k, s, d, (low, high) in zip(
            x_spatial, extents, strides, dilation, padding, strict=True
        )
    ]
    for _ in itertools.product(*map(range, sizes), *map(range, extents), range(out)):
        macs += per_group
    assert out % groups == 0
    return macs


def test_multiply_accumulates_equal_those_of_a_loop():
    random = np.random.default_rng(0)
    kernel = random.standard_normal((3, 2, 2, 6)).astype(np.float32)
    deep = random.standard_normal((2, 3, 1, 6)).astype(np.float32)
    dense = random.standard_normal((6, 5)).astype(np.float32)
    options = {"strides": (2, 1), "dilation": (1, 2), "padding": ((1, 0), (0, 2)), "groups": 2}
    lhs = {"lhs_dilation": (2, 2), "dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def network(weights, x):
        x = jaxconv.conv(x, weights["kernel"], **options)
        x = lax.scan(lambda x, _: (jaxconv.depthwise_conv(x, weights["deep"]), None), x, length=3)[
            0
        ]
        x = lax.conv_general_dilated(x, weights["odd"], (3, 2), [(0, 0)] * 2, **lhs)
        return x.mean((1, 2)) @ weights["dense"]

    odd = random.standard_normal((2, 2, 6, 6)).astype(np.float32)
    weights = {"kernel": kernel, "deep": deep, "dense": dense, "odd": odd}
    summary = jaxconv.summarize(network, weights, image(2, 9, 7, 4))
    first, scanned, outside, last = summary.layers
    assert first.macs == 2 * counted((9, 7), kernel.shape, *options.values())
    assert first.result == (2, 4, 7, 6)
    same = ((0, 1), (1, 1))
    assert scanned.macs == 3 * 2 * counted((4, 7), deep.shape, (1, 1), (1, 1), same, 6)
    assert (scanned.runs, scanned.parameters, scanned.receptive_field) == (3, deep.size, None)
    assert outside.macs == 2 * counted((7, 13), odd.shape, (3, 2), (1, 1), ((0, 0), (0, 0)), 1)
    assert last.macs == sum(1 for _ in itertools.product(range(2), range(5), range(6)))
    assert summary.macs == sum(layer.macs for layer in summary.layers)
    assert summary.parameters == sum(array.size for array in weights.values())
    assert [layer.name for layer in summary.layers] == ["kernel", "deep", "odd", "dense"]


def test_totals_agree_with_cost():
    network = abstract(MobileNetV1, width=0.25)
    network.eval()
    x = image(2, 64, 64, 3)
    summary, cost = jaxconv.summarize(network, x), jaxconv.cost(network, x)
    products = [layer for layer in summary.layers if layer.macs]
    *convs, classify = products
    assert [c.macs for c in convs] == [c.macs for c in cost.convs]
    assert [c.kind for c in convs] == [c.kind for c in cost.convs]
    assert summary.bytes == cost.bytes + classify.bytes
    assert classify.bytes == 4 * (2 * 256 + 256 * 1000 + 2 * 1000)
    explained = jaxconv.explain(network, x).convs
    assert [layer.implementation for layer in convs] == [conv.implementation for conv in explained]
    assert classify.intensity == pytest.approx(2 * classify.macs / classify.bytes)


def test_a_bias_belongs_to_its_convolution_and_a_scale_to_its_normalization():
    block = abstract(ConvNeXtT, widths=(8,), depths=(1,))
    block.eval()
    rows = {layer.name: layer for layer in jaxconv.summarize(block, image(1, 32, 32, 3)).layers}
    assert rows["stages[0][0].convolve"].parameters == 7 * 7 * 8 + 8
    assert (rows["stages[0][0].norm"].parameters, rows["stages[0][0].norm"].macs) == (16, 0)
    assert rows["stages[0][0]"].parameters == 8  # its scale
    assert rows["stages[0][0].convolve"].receptive_field == (28, 28)  # of patches of 4


def test_training_changes_statistics_and_sees_the_batch():
    """A module may change its state; with batch statistics an output depends on every pixel."""
    network = abstract(MobileNetV1, width=0.25)
    network.train()
    summary = jaxconv.summarize(network, image(2, 32, 32, 3))
    assert summary.parameters == parameters(network)
    assert summary.layers[0].receptive_field == (3, 3)
    assert summary.layers[2].receptive_field == (32, 32)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool = False):
        x = linen.Conv(6, (3, 3), strides=2)(x)
        x = linen.BatchNorm(use_running_average=not train)(x)
        return linen.Dense(5)(x.mean((1, 2)))


@pytest.mark.parametrize("train", [False, True])
def test_linen(train):
    network, x = Linen(), jnp.ones((2, 9, 9, 4))
    variables = network.init(jax.random.key(0), x)
    expected = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    if train:
        summary = jaxconv.summarize(
            lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"]), variables, x
        )
    else:
        summary = jaxconv.summarize(network, x, train=False)
        assert str(summary) == str(jaxconv.summarize(network.apply, variables, x))
    assert summary.parameters == expected
    assert [layer.name for layer in summary.layers] == ["Conv_0", "BatchNorm_0", "Dense_0"]
    assert summary.layers[0].receptive_field == (3, 3)


def test_shared_and_unused_parameters_count_once():
    weights = {"shared": np.ones((3, 3, 4, 4), np.float32), "unused": np.ones(7, np.float32)}

    def network(weights, x):
        return jaxconv.conv(jaxconv.conv(x, weights["shared"]), weights["shared"])

    summary = jaxconv.summarize(network, weights, image(1, 9, 9, 4))
    assert [layer.parameters for layer in summary.layers] == [144, 0, 7]
    assert [layer.kind for layer in summary.layers] == ["standard", "standard", "unused"]
    assert summary.layers[1].receptive_field == (5, 5)


def test_a_function_of_arrays_and_its_gradient():
    x, kernel, bias = image(1, 9, 9, 4), image(3, 3, 1, 4), image(4)

    def loss(x, kernel, bias):
        return jnp.sum(jaxconv.depthwise_conv(x, kernel, bias) ** 2)

    assert jaxconv.summarize(loss, x, kernel, bias).parameters == 40
    kinds = [layer.kind for layer in jaxconv.summarize(jax.grad(loss, 1), x, kernel, bias).layers]
    assert "depthwise" in kinds
    assert "depthwise filter gradient" in kinds


def test_summarize_as_text_html_and_data():
    network = abstract(AlexNet, image_size=67, hidden=8)
    network.eval()
    summary = jaxconv.summarize(network, image(1, 67, 67, 3))
    lines = str(summary).splitlines()
    assert len(lines) == len(summary.layers) + 2
    assert lines[1].startswith("layers[0]")
    assert f"{summary.macs:,}" in lines[-1]
    html = summary._repr_html_()
    assert html.count("<tr>") == len(lines)
    assert f"{summary.parameters:,}" in html
    plain = json.loads(json.dumps(summary.as_dict()))
    assert plain["macs"] == sum(layer["macs"] for layer in plain["layers"])
    assert plain["layers"][1]["kind"] == "grouped"
    assert plain["layers"][1]["kernel"] == plain["layers"][1]["implementation"] != ""
    assert summary.layers[1].equation.spec.groups == 2


def seen(fn, x, at) -> tuple[tuple[int, int], ...]:
    """The first and last pixel on each axis that one output depends on, by its gradient."""
    one = jax.grad(lambda x: jnp.sum(fn(x)[(0, *at)]))(x)
    places = np.argwhere(np.asarray(one)[0].any(axis=-1))
    return tuple(zip(places.min(axis=0).tolist(), places.max(axis=0).tolist(), strict=True))


K3, K5 = np.ones((3, 3, 1, 1), np.float32), np.ones((5, 5, 1, 1), np.float32)


def _unet(x):
    down = jaxconv.conv(jax.nn.relu(jaxconv.conv(x, K3)), K3, strides=2)
    up = jaxconv.conv_transpose(
        jaxconv.conv(down, K3), np.ones((4, 4, 1, 1), np.float32), strides=2
    )
    return jaxconv.conv(jnp.concatenate([x, up], -1), np.ones((3, 3, 2, 1), np.float32))


def _branches(x):
    wide = jaxconv.conv(x, K5, dilation=2)
    pooled = lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    return wide[:, ::2, ::2] + jax.jit(lambda x: jaxconv.conv(x, K3, strides=2))(pooled)


def _skips(x):
    for _ in range(3):
        x = x + jax.checkpoint(lambda x: jax.nn.silu(jaxconv.conv(x, K3)))(x)
    return jaxconv.conv(x, K3, strides=(2, 3))


@pytest.mark.sample(3)
@pytest.mark.parametrize("fn", [_unet, _branches, _skips], ids=lambda fn: fn.__name__)
def test_receptive_fields_are_where_gradients_are_not_zero(fn):
    """The largest of neighboring outputs, whose fields differ where an image is enlarged."""
    x = np.ones((1, 64, 64, 1), np.float32)
    field = jaxconv.receptive_field(fn, x)
    middle = [n // 2 for n in fn(x).shape[1:3]]
    sizes = []
    for at in ([m + i for m in middle] for i in range(2)):
        spans = seen(fn, x, at)
        sizes.append([last - first + 1 for first, last in spans])
        for axis, (first, last) in enumerate(spans):
            start = field[axis].offset + field[axis].stride * at[axis]
            assert first >= start - 1
            assert last <= start + field[axis].size
    assert tuple(np.max(sizes, axis=0).tolist()) == field.size


@pytest.mark.parametrize(
    "fn", [lambda x: jnp.ones_like(x), lambda x: lax.stop_gradient(jnp.zeros(x.shape)) + 1.0]
)
def test_the_field_of_an_output_that_depends_on_nothing_is_empty(fn):
    field = jaxconv.receptive_field(fn, np.ones((1, 16, 12, 1), np.float32))
    assert (field.size, field.offset, field.stride) == ((0, 0), (0, 0), (0, 0))


def test_receptive_field_of_a_module():
    network = abstract(ResNet50, depths=(1, 1))
    network.eval()
    blocks = jaxconv.receptive_field(network.stages[0][0], image(1, 32, 32, 64))
    assert (blocks.size, blocks.stride) == ((3, 3), (1, 1))
