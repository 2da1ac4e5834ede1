"""What type checkers and editors see: pyright on a small program, and signatures at run time."""

import importlib.util
import inspect
import json
import pathlib
import subprocess
import sys
from typing import get_args

import jax.numpy as jnp
import pytest

import jaxconv
from jaxconv._src.dispatch.choose import IMPLEMENTATIONS
from jaxconv._src.geometry.padding import NAMES
from jaxconv._src.geometry.types import ImplementationName

ROOT = pathlib.Path(jaxconv.__file__).parents[1]
PROGRAM = """
import jax.numpy as jnp
import jaxconv
import jaxconv.linen
import jaxconv.nnx
import numpy as np
from flax import nnx

x, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
bank, flat = np.ones((3, 3, 1, 6), np.float32), jnp.ones((3, 4))
line, taps = jnp.ones((1, 8, 3)), jnp.ones((3, 3, 4))

reveal_type(jaxconv.conv)
reveal_type(jaxconv.conv(x, kernel, padding="SAME"))
reveal_type(jaxconv.conv(x, kernel, strides=(2, 1), padding=["causal", (1, 2)]))
reveal_type(jaxconv.conv(np.ones((1, 8, 8, 3), np.float32), kernel, dilation=2, padding=1))
reveal_type(jaxconv.depthwise_conv(x, bank, padding=("VALID", "circular")))
reveal_type(jaxconv.pointwise_conv(x, flat, preferred_element_type=jnp.float32))
reveal_type(jaxconv.separable_conv(x, bank, flat, precision="highest"))
reveal_type(jaxconv.conv_transpose(x, kernel, strides=2, output_padding=1))
reveal_type(jaxconv.conv_input_grad(x, kernel, (8, 8), groups=1))
reveal_type(jaxconv.conv_filter_grad(x, x, (3, 3), implementation="lax"))
reveal_type(jaxconv.causal_conv(line, taps, dilation=2, activation="silu"))
reveal_type(jaxconv.causal_conv(line, taps, return_final_state=True)[1])
reveal_type(jaxconv.causal_conv_init(taps, 2, dtype="bfloat16"))
reveal_type(jaxconv.causal_conv_step(line, line, taps)[1])
reveal_type(jaxconv.filters.edges(x))
reveal_type(jaxconv.nnx.Conv(3, 4, 3, padding="CIRCULAR", rngs=nnx.Rngs(0))(x))
reveal_type(jaxconv.nnx.DepthwiseConv(3, 3, padding="same", use_bias=False, rngs=nnx.Rngs(0))(x))
reveal_type(jaxconv.linen.PointwiseConv)
"""
WRONG = """
jaxconv.conv(x, kernel, padding="SAEM")
jaxconv.conv(x, kernel, padding=("SAME", "VALDI"))
jaxconv.conv(x, kernel, padding=[(1, 2, 3), 0])
jaxconv.conv(x, kernel, strides="2")
jaxconv.conv(x, kernel, dilation=1.5)
jaxconv.conv(x, "kernel")
jaxconv.conv(x, kernel, implementation="fast")
jaxconv.conv(x, kernel, precision=3)
jaxconv.conv(x, kernel, stride=2)
jaxconv.causal_conv(line, taps, activation="rely")
jaxconv.filters.apply(x, bank, padding="MIRROR")
jaxconv.nnx.DepthwiseConv(3, 3, padding="SAEM", rngs=nnx.Rngs(0))
jaxconv.nnx.CausalConv(3, 4, 3, use_bais=False, rngs=nnx.Rngs(0))
jaxconv.nnx.Conv(3, 4, 3, strdes=2, rngs=nnx.Rngs(0))
jaxconv.linen.SeparableConv(4, 3, padding="SAEM")
"""


@pytest.fixture(scope="module")
def diagnostics(tmp_path_factory):
    """What pyright says about each line of the two programs, in strict mode."""
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed; it comes with jaxconv[dev]")
    folder = tmp_path_factory.mktemp("types")
    (folder / "program.py").write_text(PROGRAM + WRONG)
    settings = {"include": ["."], "strict": ["."], "extraPaths": [str(ROOT)]}
    settings |= {"reportUnknownMemberType": "none"}  # jax's own functions
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([*command, "-p", str(folder)], capture_output=True, text=True)
    found = {}
    for each in json.loads(done.stdout)["generalDiagnostics"]:
        if each.get("rule") != "reportUnknownMemberType":
            found.setdefault(each["range"]["start"]["line"], []).append(each)
    return found


def numbered(program: str, start: int = 0) -> dict[str, int]:
    lines = program.split("\n")
    return {line: start + number for number, line in enumerate(lines) if "jaxconv." in line}


CALLS = {
    line: number
    for line, number in numbered(PROGRAM).items()
    if line.startswith("reveal_type") and "(" in line.removeprefix("reveal_type(")
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("line", CALLS)
def test_results_are_arrays(diagnostics, line):
    (revealed,) = diagnostics[CALLS[line]]
    assert revealed["severity"] == "information"
    assert revealed["message"].endswith('is "Array"')


def test_a_valid_program_has_no_errors(diagnostics):
    valid = range(PROGRAM.count("\n"))
    errors = [
        each["message"]
        for line in valid
        for each in diagnostics.get(line, [])
        if each["severity"] != "information"
    ]
    assert not errors


WRONG_LINES = numbered(WRONG, PROGRAM.count("\n"))


@pytest.mark.parametrize("line", WRONG_LINES)
def test_wrong_arguments_are_errors(diagnostics, line):
    severities = [each["severity"] for each in diagnostics[WRONG_LINES[line]]]
    assert "error" in severities


def test_padding_names_are_completed(diagnostics):
    """Editors complete what the type of the parameter lists."""
    line = numbered(PROGRAM)["reveal_type(jaxconv.conv)"]
    (revealed,) = diagnostics[line]
    padding = revealed["message"].split("padding: ")[1].split("dilation: ")[0]
    assert all(f"'{name}'" in padding for name in (*NAMES, *map(str.lower, NAMES)))


def test_implementation_names_are_those_of_dispatch():
    assert set(get_args(ImplementationName)) == set(IMPLEMENTATIONS)


MODULES = ("Conv", "ConvTranspose", "DepthwiseConv", "PointwiseConv", "SeparableConv", "CausalConv")


@pytest.mark.parametrize("name", MODULES)
def test_modules_show_their_arguments(name):
    """To ``inspect``, and so to IPython and ``help``."""
    for flavor in (jaxconv.nnx, jaxconv.linen):
        parameters = inspect.signature(getattr(flavor, name)).parameters
        kinds = {parameter.kind for parameter in parameters.values()}
        assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
        assert {"strides", "use_bias", "dtype", "precision"} <= parameters.keys()
        assert "self" not in parameters


def test_options_are_shown_with_their_defaults():
    parameters = inspect.signature(jaxconv.nnx.DepthwiseConv).parameters
    first = ["in_features", "kernel_size", "multiplier", "strides", "padding", "kernel_dilation"]
    assert list(parameters)[: len(first)] == first
    assert parameters["use_bias"].default is True
    assert parameters["param_dtype"].default == jnp.float32


def test_signatures_of_subclasses_and_instances_are_their_own():
    class Own(jaxconv.nnx.DepthwiseConv):
        def __init__(self, width: int):
            raise NotImplementedError

    assert list(inspect.signature(Own).parameters) == ["width"]
    layer = jaxconv.nnx.PointwiseConv(3, 4, rngs=_rngs())
    assert list(inspect.signature(layer).parameters) == ["inputs"]


def _rngs():
    from flax import nnx

    return nnx.Rngs(0)
