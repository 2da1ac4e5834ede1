"""What ``import jaxconv`` offers: submodules at first use, ``dir``, ``help``, ``*``, pickling."""

import importlib.metadata
import pickle
import pydoc
import rlcompleter
import subprocess
import sys

import pytest

import jaxconv

LAZY = ("linen", "models", "nnx", "train", "viz")

WITHOUT_FLAX = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "flax":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run(program: str) -> str:
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", LAZY)
def test_submodules_are_imported_at_first_use(name):
    program = f"""
import sys, jaxconv
before = "jaxconv.{name}" in sys.modules
print(before, jaxconv.{name}.__name__, jaxconv.{name} is sys.modules["jaxconv.{name}"])
"""
    assert run(program) == f"False jaxconv.{name} True"


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", ["linen", "models", "nnx"])
@pytest.mark.parametrize("statement", ["jaxconv.{name}", "from jaxconv import {name}"])
def test_the_error_without_flax_says_how_to_install_it(name, statement):
    program = f"""{WITHOUT_FLAX}
import jaxconv
try:
    {statement.format(name=name)}
except ImportError as error:
    print(error)
"""
    message = f'jaxconv.{name} needs flax, which is not installed; run pip install "jaxconv[flax]"'
    assert run(program) == message


def test_everything_else_works_without_flax():
    program = f"""{WITHOUT_FLAX}
import pydoc
import jaxconv
from jaxconv import *
assert conv is jaxconv.conv and viz is jaxconv.viz
assert not {{"linen", "models", "nnx"}} & {{*dir(jaxconv)}}
assert "conv_transpose" in pydoc.plain(pydoc.render_doc(jaxconv))
print("flax" in sys.modules)
"""
    assert run(program) == "False"


def test_an_error_inside_a_submodule_is_not_reported_as_a_missing_package():
    program = """
import jaxconv, sys
sys.modules["jaxconv._src.flax.semantics"] = None
try:
    jaxconv.nnx
except ImportError as error:
    print("pip install" in str(error))
"""
    assert run(program) == "False"


def test_import_star():
    namespace = {}
    exec("from jaxconv import *", namespace)
    assert namespace.keys() - {"__builtins__"} == {*jaxconv.__all__}
    assert {*LAZY} < {*jaxconv.__all__}


def test_version():
    assert jaxconv.__version__ == importlib.metadata.version("jaxconv")


def test_unknown_names():
    assert not hasattr(jaxconv, "convolve")
    with pytest.raises(AttributeError, match="module 'jaxconv' has no attribute 'convolve'"):
        jaxconv.convolve  # noqa: B018


def test_help_lists_every_name():
    text = pydoc.plain(pydoc.render_doc(jaxconv))
    missing = [name for name in jaxconv.__all__ if name not in text]
    assert not missing


def test_completion_offers_every_name():
    completer = rlcompleter.Completer({"jaxconv": jaxconv})
    offered = {match.removeprefix("jaxconv.").rstrip("(") for match in _matches(completer)}
    assert {*jaxconv.__all__} <= {name.removesuffix("()") for name in offered}


def _matches(completer):
    state = 0
    while (match := completer.complete("jaxconv.", state)) is not None:
        yield match
        state += 1


@pytest.mark.parametrize("name", [name for name in jaxconv.__all__ if name.islower()])
def test_functions_survive_pickling(name):
    value = getattr(jaxconv, name)
    if callable(value):
        assert pickle.loads(pickle.dumps(value)) is value


def test_no_internal_module_is_offered():
    assert not {name for name in dir(jaxconv) if name.startswith("_") and not name.endswith("__")}
