"""``optimize_for_inference``: values, what remains in the program, libraries, and errors."""

from __future__ import annotations

import os
import pickle
from typing import Any, cast

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv
from jaxconv import optimize_for_inference
from jaxconv._src.interop import packing
from jaxconv._src.kernels.cpu import library
from support.marks import needs_engine
from support.operators import equations

os.environ.setdefault("KERAS_BACKEND", "jax")

# The libraries rely on jax's own promotion rules.
pytestmark = [
    pytest.mark.lenient,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

RNG = np.random.default_rng(0)
F = 6


def normal(*shape, dtype="float32"):
    return jnp.asarray(RNG.standard_normal(shape), dtype)


X = normal(2, 9, 8, 3)
KERNEL, DEPTHWISE, DENSE = normal(3, 3, 3, F), normal(3, 3, 1, F), normal(F, 5)
SCALE, BIAS, MEAN, VARIANCE = normal(F), normal(F), normal(F), jnp.abs(normal(F)) + 1


def normalized(y):
    return (y - MEAN) * lax.rsqrt(VARIANCE + 1e-5) * SCALE + BIAS


def network(x):
    """A convolution, a depthwise one with a residual, and a dense layer."""
    y = jax.nn.relu(normalized(jaxconv.conv(x, KERNEL, strides=2)))
    z = y + normalized(lax_depthwise(y))
    return jax.nn.gelu(z.mean((1, 2)) @ DENSE + 1, approximate=False)


def lax_depthwise(y):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        y, DEPTHWISE, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=F
    )


def assert_close(ours, theirs, bound=1e-5):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = (np.asarray(array, np.float64) for array in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * max(1.0, np.abs(b).max()))


def primitives(fn, *args) -> list[str]:
    """The primitives of the program, without those of calls."""
    found = equations(jax.make_jaxpr(fn)(*args).jaxpr)
    return [eqn.primitive.name for eqn in found if eqn.primitive.name != "jit"]


# --- what remains ---------------------------------------------------------------------------------


def test_optimize_for_inference():
    optimized = optimize_for_inference(network, X)
    assert_close(optimized(X), network(X))
    assert_close(jax.jit(optimized)(X), network(X))


@needs_engine
def test_only_fused_convolutions_remain():
    optimized = optimize_for_inference(network, X)
    found = primitives(optimized, X)
    convs = [name for name in found if "conv" in name]
    assert convs == ["packed_conv", "fused_conv", "packed_conv"]
    assert not {"mul", "add", "sub", "rsqrt", "max", "erf", "dot_general"} & set(found)
    epilogues = [str(conv.epilogue) for conv in jaxconv.explain(optimized, X).convs]
    assert epilogues == ["scale + bias + relu", "bias + residual", "bias + gelu_exact"]


def test_arrays_are_computed_once():
    """Also a kernel that is standardized, and the broadcast of a constant is not stored."""

    def standardized(x):
        kernel = (KERNEL - KERNEL.mean()) / jnp.std(KERNEL)
        y = jaxconv.conv(x, kernel)
        return jnp.sin(y) + jnp.broadcast_to(BIAS * 2, y.shape)

    optimized = optimize_for_inference(standardized, X)
    assert_close(optimized(X), standardized(X))
    found = primitives(optimized, X)
    assert not {"sqrt", "reduce_sum", "div", "sub", "mul"} & set(found)
    (compiled,) = state_of(optimized)._programs.values()
    assert (F,) in [constant.shape for constant in compiled.constants]
    assert (*X.shape[:3], F) not in [constant.shape for constant in compiled.constants]


def state_of(optimized) -> Any:
    return optimized


def test_shapes_share_their_constants():
    optimized = optimize_for_inference(network, X)
    larger = normal(5, 12, 7, 3)
    assert_close(optimized(larger), network(larger))
    assert len(state_of(optimized)._programs) == 2
    assert len(state_of(optimized)._computed) == 1


@pytest.mark.slow
def test_constants_of_other_shapes_are_not_shared():
    """The kernel depends on the batch size."""

    def scaled(x):
        return jaxconv.conv(x, KERNEL * x.shape[0])

    optimized = optimize_for_inference(scaled, X)
    for x in (normal(3, 4, 4, 3), X):
        assert_close(optimized(x), scaled(x))
    assert len(state_of(optimized)._computed) == 2


@needs_engine
def test_integers_are_exact():
    x = jnp.asarray(RNG.integers(-4, 5, X.shape), jnp.float32)
    kernel = jnp.asarray(RNG.integers(-4, 5, KERNEL.shape), jnp.float32)
    scale, bias = jnp.array([1.0, 2, -1, 4, 0.5, 0]), jnp.arange(6.0)

    def exact(x):
        return jax.nn.relu(jaxconv.conv(x, kernel) * scale + bias)

    np.testing.assert_array_equal(optimize_for_inference(exact, x)(x), exact(x))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_dtypes(dtype):
    """The scale is not folded into a narrow kernel, which would round it."""
    kernel, scale, bias = KERNEL.astype(dtype), SCALE.astype(dtype), BIAS.astype(dtype)

    def narrow(x):
        return jax.nn.relu(jaxconv.conv(x, kernel) * scale + bias)

    x = X.astype(dtype)
    optimized = optimize_for_inference(narrow, x)
    exact = jax.nn.relu(
        jaxconv.conv(x.astype("float32"), kernel.astype("float32")) * scale.astype("float32")
        + bias.astype("float32")
    )
    result = optimized(x)
    assert result.dtype == dtype
    # One rounding of the result; a rounded kernel would add sqrt(27) of them.
    error = jnp.abs(result.astype("float32") - exact) / (jnp.abs(exact) + 1e-3)
    assert float(error.max()) <= 1.01 * float(jnp.finfo(dtype).eps)


def test_float64(x64):
    kernel, scale = (jnp.asarray(np.asarray(a), "float64") for a in (KERNEL, SCALE))
    x = jnp.asarray(np.asarray(X), "float64")

    def wide(x):
        return jaxconv.conv(x, kernel) * scale

    assert_close(optimize_for_inference(wide, x)(x), wide(x), bound=1e-14)


def test_a_forced_implementation_stays():
    with jaxconv.use_implementation("lax"):
        optimized = optimize_for_inference(lambda x: jaxconv.conv(x, KERNEL) * SCALE, X)
        explained = jaxconv.explain(optimized, X)
        assert "packed_conv" not in primitives(optimized, X)
    assert [conv.implementation for conv in explained.convs] == ["lax"]


@needs_engine
def test_few_pixels_run_on_the_engine():
    """For which packing the kernel in each call would cost too much."""
    x = X[:1, :1, :1]
    optimized = optimize_for_inference(lambda x: jaxconv.conv(x, KERNEL), x)
    before, after = (jaxconv.explain(fn, x).convs[0] for fn in (_convolved, optimized))
    assert (before.implementation, after.implementation) == ("lax", "native")
    assert "packed" in after.reason
    assert_close(optimized(x), _convolved(x))


def _convolved(x):
    return jaxconv.conv(x, KERNEL)


@needs_engine
def test_dense_layers_run_on_the_engine():
    weights = [normal(7, 16), normal(16, 5)]

    def mlp(x):
        return jax.nn.relu(x @ weights[0]) @ weights[1]

    for x in (normal(7)[None], normal(3, 7), normal(2, 3, 4, 5, 7)):
        optimized = optimize_for_inference(mlp, x)
        assert_close(optimized(x), mlp(x))
        found = primitives(optimized, x)
        assert found.count("packed_conv") == 2
        assert "dot_general" not in found


def test_attention_products_are_left():
    """A product of two activations has no constant kernel."""

    def attention(x):
        return x @ (x.T @ x)

    x = normal(4, 3)
    assert_close(optimize_for_inference(attention, x)(x), attention(x))


@pytest.mark.slow
def test_inside_loops_and_branches():
    kernel = KERNEL[..., :3]

    def looped(x):
        y, _ = lax.scan(lambda y, _: (jax.nn.relu(jaxconv.conv(y, kernel)), None), x, length=2)
        return lax.cond(y.sum() > 0, lambda y: jaxconv.conv(y, kernel), jnp.sin, y)

    assert_close(optimize_for_inference(looped, X)(X), looped(X), bound=1e-4)


# --- transformations ------------------------------------------------------------------------------


def test_vmap():
    optimized = optimize_for_inference(network, X)
    xs = normal(3, *X.shape)
    assert_close(jax.vmap(optimized)(xs), jax.vmap(network)(xs))
    assert_close(jax.vmap(optimized, 1)(jnp.moveaxis(xs, 0, 1)), jax.vmap(network)(xs))
    assert "packed_conv" in primitives(jax.vmap(optimized), xs) or not has_engine()


def has_engine() -> bool:
    return library.unavailable_reason() is None


@pytest.mark.slow
def test_grad():
    optimized = optimize_for_inference(network, X)

    def loss(fn):
        return lambda x: jnp.sum(jnp.sin(fn(x)))

    assert_close(jax.grad(loss(optimized))(X), jax.grad(loss(network))(X))
    direction = normal(*X.shape)
    ours, theirs = (
        jax.jvp(jax.grad(loss(fn)), (X,), (direction,))[1] for fn in (optimized, network)
    )
    assert_close(ours, theirs, bound=1e-4)


@pytest.mark.slow
def test_linear_transpose():
    optimized = optimize_for_inference(_convolved, X)
    g = normal(*X.shape[:3], F)
    (ours,), (theirs,) = (jax.linear_transpose(fn, X)(g) for fn in (optimized, _convolved))
    assert_close(ours, theirs)


def test_export():
    """In plain XLA, for every platform, also with a symbolic batch."""
    optimized = optimize_for_inference(network, X)
    shape = jax.export.symbolic_shape("b, 9, 8, 3")
    for x in (X, jax.ShapeDtypeStruct(shape, X.dtype)):
        exported = jax.export.export(jax.jit(optimized), platforms=("cpu", "cuda", "tpu"))(x)
        assert "jaxconv" not in exported.mlir_module().partition("#loc")[0]
        assert_close(jax.jit(exported.call)(X), network(X))


def test_several_devices():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    optimized = optimize_for_inference(network, X)
    x = jax.device_put(X, NamedSharding(mesh, P("d")))
    assert_close(jax.jit(optimized)(x), network(X))
    mapped = jax.jit(jax.shard_map(optimized, mesh=mesh, in_specs=P("d"), out_specs=P("d")))
    assert_close(mapped(x), network(X))


@pytest.mark.slow
def test_called_first_inside_of_jit():
    """The constants of a new shape are computed while another program is traced."""
    optimized = optimize_for_inference(network, X)
    larger = normal(1, 5, 5, 3)
    assert_close(jax.jit(lambda x: optimized(x) * 2)(larger), network(larger) * 2)
    assert_close(optimized(larger), network(larger))


def test_analysis():
    optimized = optimize_for_inference(network, X)
    ours, theirs = (jaxconv.cost(fn, X) for fn in (optimized, network))
    assert ours.macs >= theirs.macs  # dense layers are convolutions now
    layers = jaxconv.summarize(optimized, X).layers
    assert [layer.kind for layer in layers] == ["standard", "depthwise", "pointwise"]
    field = jaxconv.receptive_field(optimize_for_inference(_convolved, X), X)
    assert field.size == jaxconv.receptive_field(_convolved, X).size == (3, 3)


def test_pickle():
    optimized = optimize_for_inference(network, X)
    loaded = pickle.loads(pickle.dumps(optimized))
    np.testing.assert_array_equal(loaded(X), optimized(X))


@pytest.mark.slow
def test_pickled_arrays_are_those_that_were_frozen():
    from flax import nnx

    from jaxconv.nnx import Conv

    module = Conv(3, F, (3, 3), rngs=nnx.Rngs(0))
    optimized = optimize_for_inference(module, X)
    expected = module(X)
    module.kernel[...] = 0 * module.kernel[...]
    loaded = pickle.loads(pickle.dumps(optimized))
    for fn in (optimized, loaded):
        assert_close(fn(X), expected)
        assert_close(fn(X[:1]), expected[:1])


def test_numpy_arrays_are_copied():
    kernel = np.asarray(KERNEL).copy()

    def apply(x):
        return jaxconv.conv(x, kernel)

    optimized = optimize_for_inference(apply, X)
    expected = apply(X)
    kernel[...] = 0
    assert_close(optimized(X), expected)


def test_pytrees_and_static_arguments():
    def apply(inputs, name):
        assert name == "a"
        return {"y": jaxconv.conv(inputs["x"], KERNEL) * inputs["factor"], "name": name}

    inputs = {"x": X, "factor": jnp.float32(2)}
    optimized = optimize_for_inference(apply, inputs, "a")
    result = optimized(inputs, "a")
    assert result["name"] == "a"
    assert_close(result["y"], apply(inputs, "a")["y"])


# --- libraries ------------------------------------------------------------------------------------


def check(fn, x, *, packed: int):
    """Values for two batch sizes, and how many kernels are packed."""
    optimized = optimize_for_inference(fn, x)
    reference = jax.jit(lambda x: fn(x))
    for batch in (x, jnp.concatenate([x, 2 * x])):
        assert_close(optimized(batch), reference(batch))
    if has_engine():
        found = primitives(optimized, x)
        assert found.count("packed_conv") == packed
        assert not {"conv", "conv_general_dilated", "dot_general", "rsqrt"} & set(found)


def randomized(tree):
    """Positive arrays, which may be variances, that show every mistake."""
    return jax.tree.map(lambda a: jnp.asarray(RNG.uniform(0.5, 1.5, a.shape), a.dtype), tree)


def test_flax_nnx():
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.conv = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(8, 5, rngs=rngs)

        def __call__(self, x):
            y = self.drop(jax.nn.relu(self.norm(self.conv(x))))
            return self.head(y.mean((1, 2)))

    block = Block()
    nnx.update(block, randomized(nnx.state(block, (nnx.Param, nnx.BatchStat))))
    with pytest.raises(ValueError, match=r"layer \w+ \(\w+\) and 1 more is in training mode"):
        optimize_for_inference(block, X)
    with pytest.raises(ValueError, match=r"module\.eval\(\)"):
        optimize_for_inference(lambda x: block(x), X)
    block.eval()
    check(block, X, packed=2)
    for fn in (block.__call__, lambda x: block(x)):
        assert_close(optimize_for_inference(fn, X)(X), block(X))


def test_flax_linen():
    from flax import linen

    class Block(linen.Module):
        training: bool = False

        @linen.compact
        def __call__(self, x):
            y = linen.Conv(8, (3, 3), use_bias=False)(x)
            y = jax.nn.silu(linen.BatchNorm(use_running_average=not self.training)(y))
            return linen.Dense(5)(y.mean((1, 2)))

    block = Block()
    variables = randomized(block.init(jax.random.key(0), X))
    check(lambda x: block.apply(variables, x), X, packed=2)
    expected = block.apply(variables, X)
    assert_close(optimize_for_inference(block.bind(variables), X)(X), expected)
    with pytest.raises(ValueError, match=r"Block has no parameters; pass lambda x: module\.apply"):
        optimize_for_inference(block, X)
    with pytest.raises(ValueError, match="fn fails on the example arguments"):
        optimize_for_inference(lambda x: Block(True).apply(variables, x), X)


@pytest.mark.slow
def test_haiku():
    import haiku

    def forward(x, training=False):
        y = haiku.Conv2D(8, 3, with_bias=False)(x)
        y = jax.nn.relu(haiku.BatchNorm(True, True, 0.9)(y, training))
        return haiku.Linear(5)(y.mean((1, 2)))

    network = haiku.without_apply_rng(haiku.transform_with_state(forward))
    init = haiku.transform_with_state(lambda x: forward(x, True)).init
    parameters, state = init(jax.random.key(0), X)
    parameters = randomized(parameters)
    check(lambda x: network.apply(parameters, state, x)[0], X, packed=2)
    with pytest.raises(TypeError, match="must be a function or a module"):
        optimize_for_inference(cast(Any, network), X)


@pytest.mark.slow
def test_equinox():
    """Modules take one example, channels first."""
    import equinox

    keys = iter(jax.random.split(jax.random.key(0), 3))
    network = equinox.nn.Sequential(
        [
            equinox.nn.Conv2d(3, 8, 3, key=next(keys)),
            equinox.nn.Lambda(jax.nn.relu),
            equinox.nn.Dropout(0.5),
            equinox.nn.Lambda(lambda y: y.mean((1, 2))),
            equinox.nn.Linear(8, 5, key=next(keys)),
        ]
    )
    x = jnp.moveaxis(X, -1, 1)
    with pytest.raises(ValueError, match=r"\(Dropout\) is in training mode"):
        optimize_for_inference(network, x[0])
    network = equinox.nn.inference_mode(network)
    optimized = optimize_for_inference(network, x[0])
    assert_close(optimized(x[0]), network(x[0]))
    assert_close(jax.vmap(optimized)(x), jax.vmap(network)(x))
    check(jax.vmap(network), x, packed=2)


@pytest.mark.slow
def test_keras():
    import keras

    if keras.backend.backend() != "jax":
        pytest.skip("Keras was imported with another backend")
    network = keras.Sequential(
        [
            keras.Input((9, 8, 3)),
            keras.layers.Conv2D(8, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(6.0),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(5),
        ]
    )
    network.set_weights([RNG.uniform(0.5, 1.5, each.shape) for each in network.get_weights()])
    check(network, X, packed=2)
    expected, optimized = network(X), optimize_for_inference(network, X)
    network.set_weights([0 * each for each in network.get_weights()])
    assert_close(optimized(X), expected)
    with pytest.raises(ValueError, match="has no parameters yet"):
        optimize_for_inference(keras.layers.Dense(3), X)


# --- errors ---------------------------------------------------------------------------------------


def test_a_wrong_result_is_refused_with_the_layer(monkeypatch):
    from flax import nnx

    class Two(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.first = nnx.Conv(3, F, (3, 3), rngs=rngs)
            self.second = nnx.Conv(F, 4, (3, 3), rngs=rngs)

        def __call__(self, x):
            return jnp.tanh(self.second(jax.nn.relu(self.first(x)) * SCALE) * SCALE[:4])

    right = packing._scaled

    def wrong(epilogue, kernel, operands, wide):
        return 1.01 * right(epilogue, kernel, operands, wide)

    network = Two()
    expected = network(X)
    monkeypatch.setattr(packing, "_scaled", wrong)
    with pytest.raises(ValueError, match=r"differs .* the convolution by second\.kernel"):
        optimize_for_inference(network, X)
    np.testing.assert_array_equal(network(X), expected)
    with pytest.raises(ValueError, match=r"the convolution by a kernel of shape \(3, 3, 3, 6\)"):
        optimize_for_inference(lambda x: jaxconv.conv(x, KERNEL) * SCALE, X)


def test_functions_that_keep_state_are_refused():
    calls = []

    def counting(x):
        calls.append(x)
        return jaxconv.conv(x, KERNEL) * len(calls)

    with pytest.raises(ValueError, match="not a function of its arguments alone"):
        optimize_for_inference(counting, X)

    means = [jnp.float32(1)]

    def remembering(x):
        means.append(x.mean())
        return jaxconv.conv(x, KERNEL) * means[-2]

    with pytest.raises(ValueError, match="keeps values from one call to the next"):
        optimize_for_inference(remembering, X)

    def printing(x):
        jax.debug.print("{}", x.sum())
        return jaxconv.conv(x, KERNEL)

    with pytest.raises(ValueError, match="fn has effects"):
        optimize_for_inference(printing, X)


@pytest.mark.parametrize(
    ("fn", "examples", "error", "match"),
    [
        (3, (X,), TypeError, "must be a function or a module, .* but got a int"),
        (dict, (X,), TypeError, "but got the class dict"),
        (_convolved, (), ValueError, "give an example of each argument"),
        (_convolved, (jax.ShapeDtypeStruct(X.shape, X.dtype),), TypeError, "arrays with values"),
        (_convolved, (X[..., :2],), ValueError, r"fails on the example .*float32\[2,9,8,2\]"),
        (_convolved, (X, X), TypeError, "fails on the example"),
        (_convolved, (X.astype(int),), TypeError, "fails on the example .*int32"),
        (
            lambda x: jaxconv.conv(x.astype("float32"), KERNEL),
            (X.astype("uint8"),),
            TypeError,
            "an example of integers is convolved",
        ),
        (lambda x: float(x.sum()), (X,), TypeError, "JAX cannot trace fn"),
    ],
    ids=range(9),
)
def test_bad_input(fn, examples, error, match):
    with pytest.raises(error, match=f"optimize_for_inference: .*{match}"):
        optimize_for_inference(fn, *examples)


def test_integers_may_be_scaled_or_look_up_embeddings():
    def image(x):
        return jaxconv.conv(x.astype("float32") / 255, KERNEL)

    pixels = jnp.asarray(RNG.integers(0, 256, X.shape), "uint8")
    assert_close(optimize_for_inference(image, pixels)(pixels), image(pixels))

    table, kernel = normal(10, 3), normal(3, 3, 4)
    tokens = jnp.asarray(RNG.integers(0, 10, (2, 7)))

    def text(tokens):
        return jaxconv.conv(table[tokens], kernel)

    assert_close(optimize_for_inference(text, tokens)(tokens), text(tokens))


def test_calls_unlike_the_examples():
    optimized = optimize_for_inference(lambda pair: _convolved(pair[0]), (X, X))
    with pytest.raises(ValueError, match="takes arguments like its examples"):
        optimized(X)
    with pytest.raises(TypeError, match="float32, float32, but got bfloat16, float32"):
        optimized((X.astype("bfloat16"), X))
    with pytest.raises(ValueError, match=r"fails on the example|float32\[2,9,8,2\]"):
        optimized((X[..., :2], X))


def test_random_keys():
    def noisy(key, x):
        return jaxconv.conv(x, KERNEL) + jax.random.normal(key, (F,))

    key = jax.random.key(0)
    optimized = optimize_for_inference(noisy, key, X)
    assert_close(optimized(key, X), noisy(key, X))


def test_tracers_are_no_examples():
    with pytest.raises(TypeError, match=r"outside of jax\.jit"):
        jax.jit(lambda x: optimize_for_inference(_convolved, x)(x))(X)
