"""Bits that do not change: with the batch, threads, devices, the run, and where they do change."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv
from jaxconv._src.geometry.spec import Operator
from support.cases import operand
from support.engine import (
    DTYPES,
    bare,
    bare_fused,
    epilogue_operands,
    instruction_sets,
    operands,
    random_epilogue,
    random_spec,
    run_python,
)
from support.marks import needs_engine
from support.meshes import mesh_of
from support.operators import as_spec
from support.oracle import Case

GATHERS = (Operator.CONV, Operator.INPUT_GRAD)  # each example of a result has its own sums
CASE = Case(16, 12, 24, (9, 11), (3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1), 2)

pytestmark = needs_engine


@pytest.mark.parametrize("seed", range(2))
def test_an_example_has_the_same_bits_alone_and_anywhere_in_any_batch(instruction_set, seed):
    """Also for any number of threads, and wherever its arrays lie in memory."""
    rng = random.Random(seed)
    for index in range(60):
        dtype, count = tuple(DTYPES)[index % 4], rng.choice((2, 3, 5, 8, 17, 33))
        spec = random_spec(rng).replace(batch=count)
        threads, past_line = rng.choice((1, 2, 3, 8)), rng.choice((0, 8, 32))
        place = rng.randrange(count)
        for operator in GATHERS:
            source, kernel = operands(operator, spec, dtype, index)
            whole = bare(operator, spec, dtype, source, kernel, threads, past_line)
            one = source[place : place + 1].copy()
            alone = bare(operator, spec.replace(batch=1), dtype, one, kernel)
            assert alone[0].tobytes() == whole[place].tobytes(), (operator, spec, dtype)


def test_the_same_of_fused_convolutions(instruction_set):
    rng = random.Random(5)
    for index in range(40):
        dtype, count = tuple(DTYPES)[index % 4], rng.choice((2, 5, 9))
        spec, epilogue = random_spec(rng).replace(batch=count), random_epilogue(rng)
        x, kernel = operands(Operator.CONV, spec, dtype, index)
        values = epilogue_operands(spec, epilogue, dtype)
        place = rng.randrange(count)
        whole = bare_fused(spec, epilogue, dtype, x, kernel, values, threads=rng.choice((1, 3)))
        one = [v[place : place + 1].copy() if v.ndim > 1 else v for v in values]
        alone_spec = spec.replace(batch=1)
        alone = bare_fused(alone_spec, epilogue, dtype, x[place : place + 1].copy(), kernel, one)
        assert alone[0].tobytes() == whole[place].tobytes(), (epilogue, spec, dtype)


def test_packed_sequences_have_the_same_bits_alone_and_in_a_batch():
    x, kernel = operand((5, 200, 40), np.float32), operand((4, 1, 40), np.float32, 1)
    segments = np.sort(np.random.default_rng(0).integers(0, 6, (5, 200)), axis=1).astype(np.int32)

    @jax.jit
    def call(x, segments):
        return jaxconv.causal_conv(x, kernel, groups=40, segment_ids=segments)

    whole = np.asarray(call(x, segments))
    for place in (0, 3):
        alone = call(x[place : place + 1], segments[place : place + 1])
        assert np.asarray(alone)[0].tobytes() == whole[place].tobytes()


@jax.jit
def training(x, k, g):
    """The convolution and its input gradient, as dispatch computes them."""
    y, pull = jax.vjp(lambda x: jaxconv.conv(x, k, **CASE.options()), x)
    return y, *pull(g)


def arrays():
    return [operand(CASE.shape(role), np.float32, ord(role)) for role in "xkg"]


def test_batches_through_jax():
    x, k, g = arrays()
    whole = training(x, k, g)
    for batch in (slice(3, 4), slice(5, 12)):
        for part, result in zip(training(x[batch], k, g[batch]), whole, strict=True):
            assert np.asarray(part).tobytes() == np.asarray(result[batch]).tobytes()


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight (host) devices")
def test_a_batch_over_eight_devices():
    x, k, g = arrays()
    expected = training(x, k, g)
    batch = NamedSharding(mesh_of((8,), ("i",)), P("i"))
    sharded = training(jax.device_put(x, batch), k, jax.device_put(g, batch))
    for result, one in zip(sharded, expected, strict=True):
        assert len(result.sharding.device_set) == 8
        assert np.asarray(result).tobytes() == np.asarray(one).tobytes()


def test_a_filter_gradient_is_the_same_in_every_run_and_for_any_number_of_threads():
    rng = random.Random(2)
    for index in range(40):
        dtype, spec = tuple(DTYPES)[index % 4], random_spec(rng).replace(batch=9)
        x, g = operands(Operator.FILTER_GRAD, spec, dtype, index)
        results = {
            bare(Operator.FILTER_GRAD, spec, dtype, x, g, threads, past_line).tobytes()
            for threads, past_line in ((1, 0), (2, 8), (3, 32), (1, 0))
        }
        assert len(results) == 1


def test_the_environment_names_the_instruction_set():
    code = "from jaxconv._src.kernels.cpu import native; print(native.instruction_set())"
    for name in instruction_sets():
        assert run_python(code, JAXCONV_INSTRUCTION_SET=name).strip() == name
    assert run_python(code, JAXCONV_INSTRUCTION_SET="mmx").strip() == instruction_sets()[0]


def test_the_exception_few_pixels_run_elsewhere():
    """Fewer than 8 output pixels in the whole batch: dispatch chooses plain XLA."""
    chosen = []
    for batch in (1, 8):
        spec = as_spec(CASE.replace(batch=batch, input_spatial=(2, 2)))
        x, kernel = jnp.ones(spec.input_shape), jnp.ones(spec.kernel_shape)
        found = jaxconv.explain(lambda x, k: jaxconv.conv(x, k, **CASE.options()), x, kernel)
        chosen.append(found.convs[0].implementation)
    assert chosen[0] != "native"
    assert chosen[1] == "native"
