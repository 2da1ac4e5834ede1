"""The public contract: names, the order of arguments, and a test named after each item."""

import inspect
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxconv
from jaxconv import linen, nnx
from jaxconv._src.geometry.padding import NAMES

TESTS_FOLDER = Path(__file__).parents[1]
OPTIONS = "precision, preferred_element_type, implementation"
WINDOW_AND_OPTIONS = f"strides, padding, dilation, groups, {OPTIONS}"
# Arguments before the star may be positional; those after it are keyword-only.
SIGNATURES = {
    "conv": f"x, kernel, bias, *, {WINDOW_AND_OPTIONS}",
    "depthwise_conv": f"x, kernel, bias, *, strides, padding, dilation, {OPTIONS}",
    "pointwise_conv": f"x, kernel, bias, *, strides, {OPTIONS}",
    "separable_conv": (
        f"x, depthwise_kernel, pointwise_kernel, bias, *, strides, padding, dilation, {OPTIONS}"
    ),
    "conv_transpose": (
        f"x, kernel, bias, *, strides, padding, output_padding, dilation, groups, {OPTIONS}"
    ),
    "conv_input_grad": f"g, kernel, input_spatial, *, {WINDOW_AND_OPTIONS}",
    "conv_filter_grad": f"x, g, kernel_spatial, *, {WINDOW_AND_OPTIONS}",
    "causal_conv": (
        "x, kernel, bias, *, strides, dilation, groups, activation, segment_ids, initial_state, "
        f"return_final_state, lengths, {OPTIONS}"
    ),
    "causal_conv_init": "kernel, batch_size, *, dilation, groups, dtype",
    "causal_conv_step": f"state, x, kernel, bias, *, dilation, groups, activation, {OPTIONS}",
    "long_conv": f"x, kernel, bias, *, causal, groups, {OPTIONS}",
    "unfold": "x, kernel_spatial, *, strides, padding, dilation",
    "fold": "patches, input_spatial, *, strides, padding, dilation",
    "pixel_shuffle": "x, factor",
    "pixel_unshuffle": "x, factor",
    "channel_shuffle": "x, groups",
    "weight_norm": "kernel, scale, *, epsilon",
    "weight_standardization": "kernel, *, epsilon",
    "spectral_norm": "kernel, u, *, iterations, epsilon",
    "separate": "kernel, rank, *, groups",
    "partial_conv": f"x, kernel, bias, *, mask, {WINDOW_AND_OPTIONS}",
    "gated_conv": (f"x, kernel, gate_kernel, bias, gate_bias, *, activation, {WINDOW_AND_OPTIONS}"),
    "dynamic_conv": f"x, kernel, bias, *, {WINDOW_AND_OPTIONS}",
    "blur_pool": "x, *, size, strides, padding",
    "install": "platforms",
    "uninstall": "",
    "accelerate": "fn",
    "optimize_for_inference": "fn, example_args",
    "use_implementation": "name",
}
OTHERS = ("conv_general_dilated", "installed", "explain", "cost", "receptive_field", "autotune")
MODULES = ("Conv", "ConvTranspose", "DepthwiseConv", "PointwiseConv", "SeparableConv", "CausalConv")
TESTS = re.findall(
    r"^def (test_\w+)",
    "\n".join(path.read_text() for path in TESTS_FOLDER.rglob("test_*.py")),
    re.MULTILINE,
)


def written(function) -> str:
    """``a, b, *, c``: the names of the parameters in order."""
    parameters = list(inspect.signature(function).parameters.values())
    names = [p.name for p in parameters]
    keywords = [p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters]
    if any(keywords):
        names.insert(keywords.index(True), "*")
    return ", ".join(names)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    assert written(getattr(jaxconv, name)) == SIGNATURES[name]


def test_conv_general_dilated_has_the_signature_of_lax():
    ours, theirs = jaxconv.conv_general_dilated, jax.lax.conv_general_dilated
    assert written(ours) == written(theirs)
    defaults = [
        [p.default for p in inspect.signature(f).parameters.values()] for f in (ours, theirs)
    ]
    assert defaults[0] == defaults[1]


@pytest.mark.parametrize("name", [*SIGNATURES, *OTHERS, "checkpoint_policies", "summarize"])
def test_every_function_has_a_test_named_after_it(name):
    assert hasattr(jaxconv, name)
    assert any(re.match(rf"test_{name}(_|$)", test) for test in TESTS)


@pytest.mark.parametrize("name", NAMES)
def test_every_padding_has_a_test_named_after_it(name):
    assert f"test_padding_{name.lower()}" in TESTS


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_test_named_after_it(name):
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    for flavour in (nnx, linen):
        assert hasattr(flavour, name)
        tests = (TESTS_FOLDER / "flax" / f"test_{flavour.__name__.split('.')[-1]}.py").read_text()
        assert f"def test_{snake}(" in tests


def line(values, **options) -> list[float]:
    """One sequence, convolved with ``kernel``."""
    kernel = np.asarray(options.pop("kernel", (1, 1, 1)), np.float32)[:, None, None]
    x = np.asarray(values, np.float32)[None, :, None]
    return jaxconv.conv(x, kernel, **options)[0, :, 0].tolist()


def test_padding_same():
    assert line([1, 2, 3, 4], padding="SAME") == [3, 6, 9, 7]
    assert line([1, 2, 3, 4], kernel=(1, 10), padding="SAME") == [21, 32, 43, 4]


def test_padding_same_lower():
    assert line([1, 2, 3, 4], padding="SAME_LOWER") == [3, 6, 9, 7]
    assert line([1, 2, 3, 4], kernel=(1, 10), padding="SAME_LOWER") == [10, 21, 32, 43]


def test_padding_valid():
    assert line([1, 2, 3, 4], padding="VALID") == [6, 9]


def test_padding_full():
    assert line([1, 2, 3, 4], padding="FULL") == [1, 3, 6, 9, 7, 4]


def test_padding_causal():
    assert line([1, 2, 3, 4], padding="CAUSAL") == [1, 3, 6, 9]


def test_padding_circular():
    assert line([1, 2, 3, 4], padding="CIRCULAR") == [7, 6, 9, 8]


def test_padding_reflect():
    assert line([1, 2, 3, 4], padding="REFLECT") == [5, 6, 9, 10]


def test_padding_replicate():
    assert line([1, 2, 3, 4], padding="REPLICATE") == [4, 6, 9, 11]


def test_padding_borders_put_the_odd_pixel_after():
    """Of ``d*(k-1)`` pixels: of one, none is before; of three, one is."""
    assert line([1, 2, 3], kernel=(1, 10), padding="CIRCULAR") == [21, 32, 13]
    assert line([1, 2, 3], kernel=(1, 0, 0, 10), padding="CIRCULAR") == [33, 11, 22]


def test_padding_int():
    assert line([1, 2, 3, 4], padding=2) == [1, 3, 6, 9, 7, 4]
    assert line([1, 2, 3, 4], padding=-1, kernel=(1,)) == [2, 3]


def test_padding_pairs():
    assert line([1, 2, 3, 4], padding=[(2, 0)]) == [1, 3, 6, 9]
    image = np.ones((1, 4, 5, 1), np.float32)
    kernel = np.ones((3, 3, 1, 1), np.float32)
    assert jaxconv.conv(image, kernel, padding=(1, 2)).shape == (1, 4, 7, 1)
    assert jaxconv.conv(image, kernel, padding=((1, 0), (0, 2))).shape == (1, 3, 5, 1)
