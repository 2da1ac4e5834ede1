"""Subnormal numbers: flushed to zero in XLA's programs, kept where the caller keeps them."""

import numpy as np
import pytest

from jaxconv._src.geometry.spec import ConvSpec
from support.engine import OPERATORS, run_engine, run_python
from support.marks import needs_engine

SPEC = ConvSpec(2, 16, 16, (20, 20), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
SPECS = {"dense": SPEC, "depthwise": SPEC.replace(groups=16)}
by_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)

# Subnormal inputs, and subnormal products of normal inputs.
IN_XLA = """
import jax, jax.numpy as jnp, numpy as np
import jaxconv
from jax import lax
def by_lax(x, k):
    return lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // k.shape[-2])
def by_jaxconv(x, k):
    return jaxconv.conv(x, k, groups=x.shape[-1] // k.shape[-2])
for group_in in (16, 1):
    for size, weight in ((1e-40, 1.0), (1e-30, 1e-10)):
        x = np.full((1, 20, 20, 16), size, np.float32)
        k = np.full((3, 3, group_in, 16), weight, np.float32)
        results = [np.asarray(jax.jit(fn)(x, k)) for fn in (by_jaxconv, by_lax)]
        print(*[int((result != 0).sum()) for result in results])
print(int((np.asarray(jax.jit(jnp.multiply)(np.float32(1e-30), np.float32(1e-10))) != 0)))
"""


@pytest.mark.sample(2)
@pytest.mark.parametrize("setting", ["true", "false"])
def test_xla_flushes_them_with_either_setting(setting):
    """``xla_cpu_ftz`` is for generated code; XLA's threads flush in any case, the engine too."""
    out = run_python(IN_XLA, XLA_FLAGS=f"--xla_cpu_ftz={setting}", JAX_PLATFORMS="cpu")
    assert out.split() == ["0"] * 9


@needs_engine
@by_spec
@pytest.mark.parametrize("threads", [1, 3])
def test_the_engine_keeps_them_where_its_caller_does(threads, spec):
    """Called without XLA: every thread rounds as the thread that calls."""
    for operator in OPERATORS:
        shapes = spec.operand_shapes(operator)
        a, b = np.full(shapes[0], 1e-40, np.float32), np.full(shapes[1], 1, np.float32)
        result = np.empty(spec.result_shape(operator), np.float32)
        run_engine(operator, spec, "float32", a, b, result, threads=threads)
        assert (result > 0).all()
        assert result.max() < np.finfo(np.float32).tiny * 1e3
