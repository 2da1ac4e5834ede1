"""The tables of docs/migrate: both columns of each row give the same numbers.

A table follows a comment ``<!-- rows: KIND -->``; its kind says how results are compared. The names
in the rows are defined by the Python code of the page.
"""

import functools
import os
import re

import jax
import numpy as np
import pytest

import sources

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when Keras is imported

FOLDER = sources.DOCS / "migrate"
LIBRARIES = {
    "pytorch": "torch",
    "keras": "keras",
    "flax": "flax",
    "haiku": "haiku",
    "equinox": "equinox",
    "lax": "jax",
}
TABLE = re.compile(r"^<!-- rows: ([\w ]+) -->\n\n\|.*\n\|[ -|]*\n((?:\|.*\n)+)", re.MULTILINE)
ROW = re.compile(r"^\| `(.*)` \| `(.*)` \|$")


def rows(page: str):
    """The kind and both sides of every row of a page."""
    for kind, table in TABLE.findall((FOLDER / f"{page}.md").read_text()):
        for line in table.splitlines():
            theirs, ours = ROW.match(line).groups()
            yield kind, theirs, ours


@functools.cache
def names(page: str) -> dict:
    """What the Python code of a page defines; Keras and PyTorch warn while they are imported."""
    scope = {}
    text = (FOLDER / f"{page}.md").read_text()
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        exec(block, scope)
    return scope


def channels_first(theirs, ours, scope):
    return theirs.movedim(1, -1), ours


def one_example(theirs, ours, scope):
    return np.moveaxis(theirs, 0, -1), ours


def converted_weights(theirs, ours, scope):
    return scope["weights"](theirs), ours


def modules(theirs, ours, scope):
    return theirs(scope["x"]), ours(scope["x"])


def sequences(theirs, ours, scope):
    return theirs(scope["x1"]), ours(scope["x1"])


def linen(theirs, ours, scope):
    return tuple(
        layer.init_with_output(jax.random.key(0), scope["x"])[0] for layer in (theirs, ours)
    )


def layers(theirs, ours, scope):
    """A layer of PyTorch, and that of jaxconv with its weights."""
    module = ours
    if ours is scope["models"].layer_from_torch:
        module = ours(theirs)
    else:
        kernel = scope["weights"](theirs.weight.detach())
        module.kernel[...] = kernel.reshape(module.kernel.shape)
        if theirs.bias is not None:
            module.bias[...] = theirs.bias.detach().numpy()
    return theirs(scope["x"]).detach().movedim(1, -1), module(scope["X"])


COMPARE = {
    "same": lambda theirs, ours, scope: (theirs, ours),
    "channels first": channels_first,
    "one example": one_example,
    "weights": converted_weights,
    "modules": modules,
    "sequences": sequences,
    "linen": linen,
    "layers": layers,
}
ROWS = [
    pytest.param(page, *row, id=f"{page}-{at}")
    for page in LIBRARIES
    for at, row in enumerate(rows(page))
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.sample(30)
@pytest.mark.parametrize(("page", "kind", "theirs", "ours"), ROWS)
def test_both_columns_give_the_same(page, kind, theirs, ours):
    pytest.importorskip(LIBRARIES[page])
    scope = names(page)
    expected, got = COMPARE[kind](eval(theirs, scope), eval(ours, scope), scope)
    assert np.shape(got) == np.shape(expected)
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-5, atol=1e-4)


def test_every_table_with_code_is_tested():
    """Tables whose rows are code on both sides have a comment, and every line of them was read."""
    for page in LIBRARIES:
        text = (FOLDER / f"{page}.md").read_text()
        calls = re.findall(r"^\| `[\w.]+\(.*\)` \| `.*` \|$", text, re.MULTILINE)
        read = list(rows(page))
        assert len(calls) <= len(read)
        assert {kind for kind, _, _ in read} <= COMPARE.keys()
        assert text.count("<!-- rows: ") == len(TABLE.findall(text)) > 0


def test_every_library_has_a_page():
    assert {path.stem for path in FOLDER.glob("*.md")} == {*LIBRARIES, "index"}
