"""Unknown keyword arguments of public functions and modules: the error names the right one."""

import inspect

import pytest

import jaxconv
from jaxconv import causal_conv1d, filters, linen, nnx, sharding
from jaxconv._src.keywords import SYNONYMS, checks_keywords
from support.errors import TAPS, K, X, assert_raises

FUNCTIONS = {
    name: getattr(jaxconv, name)
    for name in jaxconv.__all__
    if inspect.isfunction(getattr(jaxconv, name))
}
FUNCTIONS |= {
    f"causal_conv1d.{f.__name__}": f for f in vars(causal_conv1d).values() if inspect.isfunction(f)
}
FUNCTIONS |= {f"filters.{name}": f for name, f in vars(filters).items() if inspect.isfunction(f)}
FUNCTIONS |= {f"sharding.{name}": f for name, f in vars(sharding).items() if inspect.isfunction(f)}
# Those that pass keywords on to the function of the user.
PASSING_ON = {"autotune", "cost", "explain", "receptive_field", "summarize"}
NO_ARGUMENTS = {"uninstall"}
CHECKED = sorted(FUNCTIONS.keys() - PASSING_ON - NO_ARGUMENTS)
MODULES = ("Conv", "ConvTranspose", "DepthwiseConv", "PointwiseConv", "SeparableConv", "CausalConv")


@pytest.mark.parametrize("name", CHECKED)
def test_every_function_names_its_arguments(name):
    function = FUNCTIONS[name]
    first = next(iter(inspect.signature(function).parameters))
    assert_raises(
        lambda: function(**{f"{first}_": 1}),
        TypeError,
        f"{name}() has no argument '{first}_'; did you mean '{first}'?",
    )
    assert_raises(
        lambda: function(xyzzy=1), TypeError, f"{name}() has no argument 'xyzzy'; its arguments are"
    )


@pytest.mark.parametrize("flavor", [nnx, linen], ids=["nnx", "linen"])
@pytest.mark.parametrize("name", MODULES)
def test_every_module_names_its_arguments(name, flavor):
    module = getattr(flavor, name)
    assert_raises(
        lambda: module(3, 3, stride=2),
        TypeError,
        f"{name}() has no argument 'stride'; did you mean 'strides'?",
    )
    assert_raises(lambda: module(3, 3, xyzzy=2), TypeError, "its arguments are", "strides, ")


@pytest.mark.parametrize(
    ("function", "keyword", "meant"),
    [
        ("conv", "stride", "strides"),
        ("conv", "window_strides", "strides"),
        ("conv", "kernel_dilation", "dilation"),
        ("conv", "rhs_dilation", "dilation"),
        ("conv", "dilation_rate", "dilation"),
        ("conv", "feature_group_count", "groups"),
        ("conv", "pad", "padding"),
        ("conv", "weight", "kernel"),
        ("conv", "paddding", "padding"),
        ("conv_transpose", "out_padding", "output_padding"),
        ("conv_general_dilated", "strides", "window_strides"),
        ("conv_general_dilated", "dilation", "rhs_dilation"),
        ("conv_general_dilated", "groups", "feature_group_count"),
        ("conv_filter_grad", "kernel_size", "kernel_spatial"),
        ("sharding.conv", "stride", "strides"),
    ],
)
def test_names_of_other_libraries(function, keyword, meant):
    words = f"{function}() has no argument {keyword!r}; did you mean {meant!r}?"
    assert_raises(lambda: FUNCTIONS[function](X, K, **{keyword: 2}), TypeError, words)


@pytest.mark.parametrize(
    ("keyword", "meant"),
    [("dilation", "kernel_dilation"), ("groups", "feature_group_count"), ("in_channels", None)],
)
def test_names_of_the_functions_in_modules(keyword, meant):
    hint = "did you mean 'in_features'" if meant is None else f"did you mean {meant!r}?"
    assert_raises(lambda: nnx.CausalConv(3, 4, 2, **{keyword: 1}), TypeError, "CausalConv()", hint)


def test_an_error_inside_the_function_is_its_own():
    assert_raises(lambda: jaxconv.conv(X.tolist(), K, groups=3), TypeError, "conv: x must be an")
    assert_raises(lambda: jaxconv.conv(X, K, X, K), TypeError, "positional arguments")
    assert_raises(lambda: jaxconv.causal_conv_init(TAPS), TypeError, "'batch_size'")


def test_arguments_of_a_wider_signature():
    def inner(depth=1):
        return depth

    @checks_keywords("f", also=["depth"])
    def f(x, **options):
        return x, inner(**options)

    assert f(1, depth=2) == (1, 2)
    assert_raises(lambda: f(1, dept=2), TypeError, "f() has no argument 'dept'", "'depth'")


def test_no_name_of_ours_stands_for_another():
    """Within one function: the names of one line of synonyms are never two of its arguments."""
    for function in FUNCTIONS.values():
        arguments = inspect.signature(function).parameters
        for names in map(str.split, SYNONYMS):
            assert len([name for name in names if name in arguments]) <= 1, (function, names)
