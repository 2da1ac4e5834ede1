"""``jax.export`` for every platform and with symbolic shapes, serialized and loaded again."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxconv
from support.cases import BASIC, operand, operands
from support.operators import assert_all_right, training
from support.oracle import Case

SERIALISES = importlib.util.find_spec("flatbuffers") is not None
PLATFORMS = ["cpu", "cuda", "tpu"]
CASE = BASIC[2]
DEPTHWISE = Case(2, 4, 8, (9, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4)


def round_trip(fn, *args, platforms=("cpu",)):
    """The exported function; serialized and loaded again if flatbuffers is installed."""
    exported = export.export(jax.jit(fn), platforms=platforms)(*args)
    return export.deserialize(exported.serialize()) if SERIALISES else exported


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("case", [CASE, DEPTHWISE], ids=["grouped", "depthwise"])
def test_one_platform(platform, case):
    arrays = operands(case)
    exported = round_trip(training(case), *arrays, platforms=[platform])
    assert exported.platforms == (platform,)
    assert exported.out_avals[0].shape == case.shape("g")
    if platform == "cpu":
        assert_all_right(case, arrays, exported.call(*arrays))


@pytest.mark.parametrize("case", [CASE, DEPTHWISE], ids=["grouped", "depthwise"])
def test_all_platforms_at_once(case):
    arrays = operands(case)
    exported = round_trip(training(case), *arrays, platforms=PLATFORMS)
    assert exported.platforms == tuple(PLATFORMS)
    assert_all_right(case, arrays, jax.jit(exported.call)(*arrays))


@pytest.mark.skipif(not SERIALISES, reason="jax.export serializes with flatbuffers")
def test_serialized_with_its_gradient():
    """``vjp_order``: the exported convolution can be differentiated where it is loaded."""
    x, k, g = operands(CASE)
    conv = jax.jit(functools.partial(jaxconv.conv, **CASE.options()))
    loaded = export.deserialize(export.export(conv)(x, k).serialize(vjp_order=1))
    y, pull = jax.vjp(loaded.call, x, k)
    assert_all_right(CASE, (x, k, g), (y, *pull(jnp.asarray(g))))


def symbolic(text: str, *constraints: str):
    return jax.ShapeDtypeStruct(export.symbolic_shape(text, constraints=constraints), np.float32)


@pytest.mark.parametrize("batch", [1, 3])
def test_symbolic_batch(batch):
    scope = export.SymbolicScope()
    case = CASE.replace(batch=batch)
    shape = export.symbolic_shape("b, 7, 10, 6", scope=scope)
    outputs = export.symbolic_shape(f"b, {', '.join(map(str, case.shape('g')[1:]))}", scope=scope)
    x, g = (jax.ShapeDtypeStruct(s, np.float32) for s in (shape, outputs))
    exported = round_trip(training(CASE), x, operands(CASE)[1], g, platforms=PLATFORMS)
    arrays = operands(case)
    assert_all_right(case, arrays, exported.call(*arrays))


@pytest.mark.sample(3)
@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "VALID", "FULL", 1, [(2, 1), (0, 1)]])
def test_symbolic_extents(padding):
    """Padding is computed from the extents when the program is called."""
    k = operand((3, 2, 2, 9), np.float32)

    def call(x):
        return jaxconv.conv(x, k, padding=padding, strides=(2, 1), dilation=(1, 2), groups=3)

    exported = round_trip(call, symbolic("b, h, w, 6"), platforms=PLATFORMS)
    for extents in ((5, 8), (8, 5)):
        x = operand((2, *extents, 6), np.float32)
        np.testing.assert_allclose(exported.call(x), call(x), rtol=1e-5, atol=1e-5)


@pytest.mark.sample(2)
@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR", "REFLECT", "REPLICATE"])
def test_symbolic_extents_with_gradients(padding):
    k = operand((3, 2, 4), np.float32)

    def energy(x, k):
        return jnp.sum(jaxconv.conv(x, k, padding=padding) ** 2)

    x = symbolic("b, n, 2", "n >= 2")  # a single pixel cannot be reflected
    exported = round_trip(jax.grad(energy, (0, 1)), x, k)
    x = operand((2, 7, 2), np.float32)
    for got, expected in zip(exported.call(x, k), jax.grad(energy, (0, 1))(x, k), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.sample(4)
@pytest.mark.parametrize("padding", ["FULL", "VALID", "SAME", 2, [(2, 1)]])
@pytest.mark.parametrize(("strides", "dilation", "groups"), [(1, 2, 1), (2, 1, 2), (3, 1, 1)])
def test_transposed_of_symbolic_extents(padding, strides, dilation, groups):
    """Also with padding that might crop everything; such sizes are assumed not to occur."""
    k = operand((3, 6 // groups, 4), np.float32)

    def call(x):
        options = {"strides": strides, "dilation": dilation, "groups": groups}
        return jaxconv.conv_transpose(x, k, padding=padding, **options)

    exported = round_trip(call, symbolic("b, n, 4"), platforms=PLATFORMS)
    x = operand((2, 9, 4), np.float32)
    np.testing.assert_allclose(exported.call(x), call(x), rtol=1e-5, atol=1e-5)


def test_symbolic_sizes_as_arguments():
    k = operand((3, 4, 6), np.float32)

    def input_grad(x, g):
        return jaxconv.conv_input_grad(g, k, x.shape[1:-1])

    scope = export.SymbolicScope()
    shapes = (export.symbolic_shape(text, scope=scope) for text in ("b, n, 4", "b, n, 6"))
    structs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    exported = round_trip(input_grad, *structs)
    x, g = operand((2, 7, 4), np.float32), operand((2, 7, 6), np.float32)
    np.testing.assert_allclose(exported.call(x, g), input_grad(x, g), rtol=1e-5, atol=1e-5)

    state = jax.eval_shape(lambda x: jaxconv.causal_conv_init(k, x.shape[0]), structs[0])
    assert state.shape == (structs[0].shape[0], 2, 4)
    found = jax.eval_shape(
        lambda x, g: jaxconv.conv_filter_grad(x, g, x.shape[1], padding="SAME"), *structs
    )
    assert found.shape == (structs[0].shape[1], 4, 6)


def functions() -> dict:
    """Each public function, of one input with symbolic sizes."""
    deep, point = operand((3, 1, 6), np.float32), operand((6, 4), np.float32)
    dense = operand((3, 6, 4), np.float32)
    return {
        "depthwise_conv": lambda x: jaxconv.depthwise_conv(x, deep),
        "pointwise_conv": lambda x: jaxconv.pointwise_conv(x, point),
        "separable_conv": lambda x: jaxconv.separable_conv(x, deep, point),
        "conv_transpose": lambda x: jaxconv.conv_transpose(x, dense.swapaxes(1, 2), strides=2),
        "causal_conv": lambda x: jaxconv.causal_conv(x, dense, dilation=2),
    }


@pytest.mark.parametrize("function", functions())
def test_every_function_takes_symbolic_shapes(function):
    call = functions()[function]
    exported = round_trip(call, symbolic("b, n, 6"), platforms=PLATFORMS)
    x = operand((3, 8, 6), np.float32)
    np.testing.assert_allclose(exported.call(x), call(x), rtol=1e-5, atol=1e-5)


def test_symbolic_streaming():
    k = operand((3, 6, 4), np.float32)

    def step(state, x):
        return jaxconv.causal_conv_step(state, x, k)

    scope = export.SymbolicScope()
    shapes = (export.symbolic_shape(text, scope=scope) for text in ("b, 2, 6", "b, n, 6"))
    structs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    exported = round_trip(step, *structs)
    state, x = jaxconv.causal_conv_init(k, 2), operand((2, 5, 6), np.float32)
    for got, expected in zip(exported.call(state, x), step(state, x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_symbolic_shapes_under_vmap():
    case = BASIC[1]
    k = operands(case, roles="k")[0]
    call = jax.vmap(lambda x: jaxconv.conv(x, k, **case.options()))
    exported = round_trip(call, symbolic("m, b, 11, 6"))
    x = operand((3, 2, 11, 6), np.float32)
    np.testing.assert_allclose(exported.call(x), call(x), rtol=1e-5, atol=1e-5)


def test_errors_that_symbolic_shapes_can_decide():
    with pytest.raises(ValueError, match=r"conv: .*7 != 2 \* 3 = 6"):
        jax.eval_shape(
            functools.partial(jaxconv.conv, **CASE.options()),
            symbolic("b, h, w, 7"),
            jax.ShapeDtypeStruct(CASE.shape("k"), np.float32),
        )
    with pytest.raises(ValueError, match=r"state must be .* = \(b, 2, 6\), but got \(b, 5, 6\)"):
        jax.eval_shape(
            lambda x: jaxconv.causal_conv_step(
                jnp.zeros((x.shape[0], 5, 6)), x, np.ones((3, 6, 4), np.float32)
            ),
            symbolic("b, n, 6"),
        )
