"""The results of the analysis functions: they print as tables, and their old names warn."""

import pathlib
import re
from html import unescape

import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
from jaxconv._src.analysis import autotune, explain, summary, tables
from jaxconv._src.analysis.deprecated import Renamed

X, KERNEL = np.ones((1, 9, 7, 4), np.float32), np.ones((3, 3, 1, 4), np.float32)


def layer(x):
    return jaxconv.depthwise_conv(x, KERNEL, strides=2)


def untraceable(x):
    return np.sort(x)


RESULTS = {
    "cost": lambda: jaxconv.cost(layer, X),
    "explain": lambda: jaxconv.explain(layer, X),
    "fallback": lambda: jaxconv.explain(jaxconv.accelerate(untraceable), X),
    "receptive_field": lambda: jaxconv.receptive_field(layer, X),
    "summarize": lambda: jaxconv.summarize(lambda x: layer(x) @ jnp.ones((4, 2)), X),
    "autotune": lambda: jaxconv.autotune(layer, X, seconds=0.001),
}


@pytest.fixture(params=RESULTS)
def result(request):
    return RESULTS[request.param]()


def test_the_prompt_and_a_notebook_show_every_part(result):
    text, html = repr(result), result._repr_html_()
    assert len(result.parts()) >= 1
    for part in result.parts():
        if isinstance(part, str):
            assert part in text.splitlines()
            continue
        assert tables.format_table(*part) in text
        assert tables.format_html(*part) in html
        assert len(part.rows) >= 1
    cells = re.findall(r"<(?:td|th|p)(?: [^>]*)?>(.*?)</", html)
    assert unescape(" ".join(cells)).split() == text.split()


def test_printing_shows_what_the_prompt_shows(result):
    if isinstance(result, jaxconv.ReceptiveField):
        assert str(result) == "size (3, 3), stride (2, 2), offset (-1, -1)"
    else:
        assert str(result) == repr(result)


def test_the_receptive_field_has_a_row_per_axis():
    field = jaxconv.receptive_field(layer, X)
    assert repr(field).splitlines() == [
        "axis  size  stride  offset",
        "   0     3       2      -1",
        "   1     3       2      -1",
    ]


def candidate():
    return jaxconv.autotune(layer, X, seconds=0.001).convs[0].winner


@pytest.mark.parametrize(
    ("make", "old", "new"),
    [
        (lambda: jaxconv.explain(layer, X).convs[0], "ExplainedConv.kernel", "implementation"),
        (lambda: jaxconv.explain(layer, X).convs[0], "ExplainedConv.blocks", "tile"),
        (lambda: jaxconv.summarize(layer, X).layers[0], "Layer.kernel", "implementation"),
        (candidate, "Candidate.kernel", "implementation"),
        (candidate, "Candidate.blocks", "tile"),
        (RESULTS["explain"], "Explanation.left", "unconverted"),
        (RESULTS["fallback"], "Explanation.left", "unconverted"),
    ],
)
def test_old_names_warn_and_return_the_same(make, old, new):
    result = make()
    owner, _, name = old.partition(".")
    with pytest.warns(DeprecationWarning, match=f"^{old} is deprecated; use {owner}.{new}$") as one:
        value = getattr(result, name)
    assert value is getattr(result, new)
    assert one[0].filename == __file__


@pytest.mark.parametrize(
    "result",
    [autotune.Candidate, explain.ExplainedConv, explain.Explanation, summary.Layer],
)
def test_old_names_are_listed_in_the_policy(result):
    text = (pathlib.Path(__file__).parents[2] / "DEPRECATIONS.md").read_text()
    old = {name: value.new for name, value in vars(result).items() if isinstance(value, Renamed)}
    assert old
    for name, new in old.items():
        (row,) = [line for line in text.splitlines() if f"| `{result.__name__}.{name}`" in line]
        assert f"`{result.__name__}.{new}`" in row
