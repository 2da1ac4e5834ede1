"""Programs compiled or exported in one process and run in another."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental import serialize_executable

import jaxconv
from support.cases import operand
from support.engine import run_python
from support.marks import needs_engine

X = operand((2, 12, 12, 8), np.float32)
K = operand((3, 3, 1, 8), np.float32, 1)

# Reads the program and its arrays and writes its results; ``{load}`` defines ``call``.
PROCESS = """
import pickle, sys
import numpy as np
{load}
x, k = np.load({arrays!r}).values()
np.savez({results!r}, *call(x, k))
assert "jaxconv" not in sys.modules or {imports}
"""

EXECUTABLE = """
import jax, jaxconv
from jax.experimental.serialize_executable import deserialize_and_load
with open({program!r}, "rb") as file:
    call = deserialize_and_load(*pickle.load(file), execution_devices=jax.devices()[:1])
"""
EXPORTED = """
import jax.export
with open({program!r}, "rb") as file:
    call = jax.export.deserialize(bytearray(file.read())).call
"""


def step(x, k):
    """A convolution with an epilogue, and both of its gradients."""

    def energy(x, k):
        y = jaxconv.fused_conv(x, k, jnp.ones(8), activation="relu", groups=8)
        return jnp.sum(y**2), y

    (_, y), gradients = jax.value_and_grad(energy, (0, 1), has_aux=True)(x, k)
    return y, *gradients


def run_elsewhere(folder, load: str, program: bytes, imports: bool) -> list:
    """The results of a serialized program in a process that has not computed anything before."""
    names = {name: str(folder / name) for name in ("program", "arrays.npz", "results.npz")}
    (folder / "program").write_bytes(program)
    np.savez(names["arrays.npz"], X, K)
    code = PROCESS.format(
        load=load.format(program=names["program"]),
        arrays=names["arrays.npz"],
        results=names["results.npz"],
        imports=imports,
    )
    run_python(code)
    return list(np.load(names["results.npz"]).values())


def assert_equal(results, wanted):
    for result, right in zip(results, wanted, strict=True):
        np.testing.assert_allclose(result, right, rtol=1e-5, atol=1e-4)


@needs_engine
def test_importing_is_enough_to_load_an_executable(tmp_path):
    """Its custom calls find the handlers that the import has registered."""
    compiled = jax.jit(step).lower(X, K).compile()
    assert compiled.as_text().count('custom_call_target="jaxconv_') >= 3
    program = pickle.dumps(serialize_executable.serialize(compiled))
    assert_equal(run_elsewhere(tmp_path, EXECUTABLE, program, True), compiled(X, K))


def test_an_exported_program_runs_without_jaxconv(tmp_path):
    pytest.importorskip("flatbuffers")
    program = bytes(export.export(jax.jit(step))(X, K).serialize())
    assert_equal(run_elsewhere(tmp_path, EXPORTED, program, False), step(X, K))
