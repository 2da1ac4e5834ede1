"""``fused_conv`` equals its definition: values, derivatives of every order, batching, errors."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import jet
from jax.sharding import PartitionSpec as P

import jaxconv
from jaxconv._src.geometry.epilogue import ACTIVATIONS, ALIASES
from support import oracle
from support.cases import BASIC, operand, operands
from support.meshes import mesh_of
from support.oracle import Case

PARTS = ("scale", "bias", "residual")
SUBSETS = [s for n in range(4) for s in itertools.combinations(PARTS, n)]
SMALL = Case(2, 4, 6, (5,), (3,), (2,), ((1, 2),), (1,), 2)

sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
erf = np.vectorize(math.erf, otypes=[float])

# The definitions in NumPy, with a bound on the derivative.
NUMPY = {
    None: (lambda z: z, 1),
    "relu": (lambda z: np.maximum(z, 0), 1),
    "relu6": (lambda z: np.clip(z, 0, 6), 1),
    "leaky_relu": (lambda z: np.where(z < 0, 0.01 * z, z), 1),
    "silu": (lambda z: z * sigmoid(z), 1.1),
    "gelu_tanh": (
        lambda z: z / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
        1.13,
    ),
    "gelu_exact": (lambda z: z / 2 * (1 + erf(z / math.sqrt(2))), 1.13),
    "sigmoid": (sigmoid, 0.25),
    "hard_swish": (lambda z: z * np.clip(z + 3, 0, 6) / 6, 1.5),
    "tanh": (np.tanh, 1),
}


def parts_of(case: Case, names, dtype=np.float32) -> dict:
    """Random arrays for these parts of the epilogue."""
    shapes = {"scale": (case.out_features,), "bias": (case.out_features,)}
    shapes["residual"] = case.shape("g")
    return {name: operand(shapes[name], dtype, ord(name[0])) for name in names}


def before_activation(case: Case, x, k, parts) -> np.ndarray:
    """In float64."""
    exact = {name: oracle.exact(value) for name, value in parts.items()}
    z = oracle.compute("g", case, x=x, k=k) * exact.get("scale", 1.0)
    return z + exact.get("bias", 0.0) + exact.get("residual", 0.0)


def composed(x, kernel, parts, activation=None, **options):
    """The definition in terms of ``conv`` and jnp."""
    z = jaxconv.conv(x, kernel, **options)
    per_feature = lambda a: jnp.reshape(a, (1,) * (z.ndim - 1) + (-1,))  # noqa: E731
    if "scale" in parts:
        z = z * per_feature(parts["scale"])
    if "bias" in parts:
        z = z + per_feature(parts["bias"])
    if "residual" in parts:
        z = z + parts["residual"]
    functions = {
        None: lambda z: z,
        "leaky_relu": jax.nn.leaky_relu,
        "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
        "gelu_exact": functools.partial(jax.nn.gelu, approximate=False),
        "tanh": jnp.tanh,
    }
    return functions.get(activation, getattr(jax.nn, str(activation), None))(z)


@pytest.mark.parametrize("activation", NUMPY)
@pytest.mark.parametrize("rank", BASIC)
def test_values(rank, activation):
    case = BASIC[rank]
    x, k = operands(case, np.float32, "xk")
    parts = parts_of(case, SUBSETS[(rank + len(str(activation))) % len(SUBSETS)])
    got = jaxconv.fused_conv(x, k, activation=activation, **parts, **case.options())
    function, slope = NUMPY[activation]
    wanted = function(before_activation(case, x, k, parts))
    scale = np.max(np.abs(parts.get("scale", 1.0)))
    # The convolution's own error, scaled; then at most eight roundings of values of this size.
    allowed = slope * scale * oracle.tolerance("g", case, np.float32, x=x, k=k)
    allowed += 8 * oracle.epsilon(np.float32) * max(1.0, np.max(np.abs(wanted)))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=0, atol=allowed)


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_small_integers_are_exact(names, activation):
    case = BASIC[2]
    rng = np.random.default_rng(len(names))
    integers = lambda shape: rng.integers(-3, 4, shape).astype(np.float32)  # noqa: E731
    x, k = integers(case.shape("x")), integers(case.shape("k"))
    parts = {name: integers(value.shape) for name, value in parts_of(case, names).items()}
    got = jaxconv.fused_conv(x, k, activation=activation, **parts, **case.options())
    np.testing.assert_array_equal(
        got, NUMPY[activation][0](before_activation(case, x, k, parts)).astype(np.float32)
    )


def test_every_activation_has_a_definition_and_every_alias_a_meaning():
    assert set(NUMPY) == {None, *ACTIVATIONS}
    x, k = operands(SMALL, np.float32, "xk")
    for alias, name in ALIASES.items():
        got, wanted = (
            jaxconv.fused_conv(x, k, activation=each, **SMALL.options()) for each in (alias, name)
        )
        np.testing.assert_array_equal(got, wanted)
    by_function = jaxconv.fused_conv(x, k, activation=jax.nn.silu, **SMALL.options())
    by_name = jaxconv.fused_conv(x, k, activation="silu", **SMALL.options())
    np.testing.assert_array_equal(by_function, by_name)


def test_unbatched_and_borders():
    x, kernel = operand((9, 7, 3), np.float32), operand((3, 3, 3, 4), np.float32)
    residual = operand((9, 7, 4), np.float32, 1)
    options = {"padding": ("REFLECT", "CIRCULAR")}
    got = jaxconv.fused_conv(x, kernel, residual=residual, activation="relu", **options)
    wanted = jax.nn.relu(jaxconv.conv(x, kernel, **options) + residual)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-5)


def test_empty_results_and_empty_sums():
    """Without products the epilogue still applies."""
    x, kernel, bias = jnp.ones((2, 4, 0)), jnp.ones((3, 0, 5)), jnp.arange(-2.0, 3.0)
    got = jaxconv.fused_conv(x, kernel, bias, activation="relu")
    np.testing.assert_array_equal(got, np.broadcast_to([0, 0, 0, 1, 2], (2, 4, 5)))
    assert jaxconv.fused_conv(jnp.ones((0, 4, 2)), jnp.ones((3, 2, 5)), bias).shape == (0, 4, 5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("activation", NUMPY)
def test_special_values_propagate_as_in_jax(activation, value):
    x = jnp.array([[[1.0], [value], [-2.0]]])
    got = jaxconv.fused_conv(x, jnp.ones((1, 1, 1)), activation=activation)
    np.testing.assert_allclose(
        got, composed(x, jnp.ones((1, 1, 1)), {}, activation), rtol=1e-6, atol=1e-7
    )


def both(case, activation, names):
    """Two functions of (x, kernel, parts): the fused one and its definition."""
    options = case.options()

    def fused(x, kernel, parts):
        return jaxconv.fused_conv(x, kernel, activation=activation, **parts, **options)

    return fused, functools.partial(composed, activation=activation, **options)


def smooth(function):
    """A scalar with derivatives of any order."""
    return lambda *arguments: jnp.sum(jnp.sin(function(*arguments)))


@pytest.fixture
def arguments(x64):
    x, k = operands(SMALL, np.float64, "xk")
    return x, k, parts_of(SMALL, PARTS, np.float64)


def without_scale(arguments):
    x, k, parts = arguments
    return x, k, {name: value for name, value in parts.items() if name != "scale"}


def assert_equal_trees(got, wanted):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), got, wanted)


by_activation = pytest.mark.parametrize("activation", NUMPY)


@by_activation
@pytest.mark.parametrize("scaled", [True, False])
def test_gradients(arguments, activation, scaled):
    given = arguments if scaled else without_scale(arguments)
    got, wanted = (jax.grad(smooth(f), (0, 1, 2))(*given) for f in both(SMALL, activation, PARTS))
    assert_equal_trees(got, wanted)


@by_activation
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_second_order(arguments, activation, mode):
    """Of every argument by every other, forward and reverse over reverse."""
    fused, definition = both(SMALL, activation, PARTS)
    direction = jax.tree.map(jnp.cos, arguments)

    def derivative(function):
        def along(*at):
            gradients = jax.grad(smooth(function), (0, 1, 2))(*at)
            return sum(map(jnp.vdot, jax.tree.leaves(gradients), jax.tree.leaves(direction)))

        return mode(along, (0, 1, 2))(*arguments)

    assert_equal_trees(derivative(fused), derivative(definition))


@by_activation
def test_third_order_mixed(arguments, activation):
    _, k, parts = arguments

    def third(function):
        f = lambda x: smooth(function)(x, k, parts)  # noqa: E731
        along = lambda g: lambda x: jax.jvp(g, (x,), (jnp.cos(x),))[1]  # noqa: E731
        return jax.grad(along(along(f)))(arguments[0])

    assert_equal_trees(*map(third, both(SMALL, activation, PARTS)))


@by_activation
@pytest.mark.parametrize(
    "axes", [(0, None, None), (None, 0, None), (0, 0, 0), (0, None, 0), (None, None, 0)], ids=str
)
def test_vmap_of_gradients(arguments, activation, axes):
    stacked = [
        given if axis is None else jax.tree.map(lambda a: jnp.stack([a, 2 * a, -a]), given)
        for given, axis in zip(arguments, axes, strict=True)
    ]
    got, wanted = (
        jax.vmap(jax.value_and_grad(smooth(f), (0, 1, 2)), in_axes=axes)(*stacked)
        for f in both(SMALL, activation, PARTS)
    )
    assert_equal_trees(got, wanted)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_vmap_over_a_residual_alone_and_over_other_axes(arguments, axis):
    x, k, parts = arguments
    residuals = jnp.stack([parts["residual"], -parts["residual"]], axis)
    got, wanted = (
        jax.vmap(lambda r, f=f: f(x, k, parts | {"residual": r}), axis, axis)(residuals)
        for f in both(SMALL, "relu", PARTS)
    )
    assert_equal_trees(got, wanted)


def test_taylor_mode(arguments):
    x, k, parts = arguments
    got, wanted = (
        jet.jet(lambda x, f=f: f(x, k, parts), (x,), ((jnp.cos(x), jnp.sin(x)),))
        for f in both(SMALL, "tanh", PARTS)
    )
    assert_equal_trees(got, wanted)


def test_transpose_of_a_linear_epilogue(arguments):
    x, k, parts = arguments
    y = jnp.ones(SMALL.shape("g"))
    got, wanted = (
        jax.linear_transpose(lambda x, f=f: f(x, k, {"scale": parts["scale"]}), x)(y)
        for f in both(SMALL, None, PARTS)
    )
    assert_equal_trees(got, wanted)


@by_activation
def test_derivatives_in_shard_map(arguments, activation):
    """Per device, with the kernel replicated: gradients are summed over the devices once."""
    x, k, parts = arguments
    mesh = mesh_of((2,), ("b",))
    spec = {"scale": P(), "bias": P(), "residual": P("b")}

    def total(function):
        mapped = jax.shard_map(function, mesh=mesh, in_specs=(P("b"), P(), spec), out_specs=P("b"))
        return jax.jit(
            lambda *given: (
                jax.grad(smooth(mapped), (0, 1, 2))(*given),
                jax.jvp(mapped, given, jax.tree.map(jnp.cos, given)),
            )
        )(x, k, parts)

    assert_equal_trees(*map(total, both(SMALL, activation, PARTS)))


def test_derivatives_stay_on_jaxconvs_primitives(arguments):
    fused, _ = both(SMALL, "relu", PARTS)
    text = str(jax.make_jaxpr(jax.grad(smooth(fused), (0, 1, 2)))(*without_scale(arguments)))
    assert "fused_conv" in text
    assert "conv_input_grad" in text
    assert "conv_filter_grad" in text
    assert "conv_general_dilated" not in text
    # The value before the activation is neither computed nor stored: ReLU's mask follows from y.
    assert " conv[" not in text


def test_jit_over_several_devices():
    case = Case(8, 4, 8, (6,), (3,), (1,), ((1, 1),), (1,))
    x, k = operands(case, np.float32, "xk")
    parts = parts_of(case, PARTS)
    sharded = jax.NamedSharding(mesh_of((8,), ("b",)), P("b"))
    fused, definition = both(case, "silu", PARTS)
    got = jax.jit(fused)(jax.device_put(x, sharded), k, parts)
    assert got.sharding.is_equivalent_to(sharded, 3)
    np.testing.assert_allclose(got, definition(x, k, parts), rtol=1e-5, atol=1e-5)


def test_export_holds_plain_xla():
    x, k = operands(SMALL, np.float32, "xk")
    fused = jax.jit(lambda x, k: jaxconv.fused_conv(x, k, activation="gelu", **SMALL.options()))
    exported = jax.export.export(fused)(x, k)
    assert "custom_call" not in exported.mlir_module()
    np.testing.assert_allclose(exported.call(x, k), fused(x, k), rtol=1e-5, atol=1e-6)


def test_explain_shows_the_epilogue():
    x, k = operands(SMALL, np.float32, "xk")
    explained = jaxconv.explain(
        lambda x, k: jaxconv.fused_conv(x, k, k[0, 0], activation="relu", **SMALL.options()), x, k
    )
    (conv,) = explained.convs
    assert (conv.operator.value, conv.epilogue.operands, conv.epilogue.activation) == (
        "conv",
        ("bias",),
        "relu",
    )
    assert "conv + bias + relu" in str(explained)


X, KERNEL = jnp.ones((2, 8, 3)), jnp.ones((3, 3, 4))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"activation": "rely"}, ValueError, 'activation must be None, one of "relu", "relu6"'),
        ({"activation": jnp.sin}, ValueError, "apply any other function to the result of conv"),
        ({"activation": 3}, ValueError, "activation must be None"),
        ({"residual": jnp.ones(4)}, ValueError, r"residual must have the shape of the output"),
        ({"residual": jnp.ones((2, 1, 4))}, ValueError, r"\(2, 8, 4\), but got \(2, 1, 4\)"),
        ({"scale": jnp.ones(3)}, ValueError, r"scale must have shape \[F\] = \(4,\)"),
        ({"bias": jnp.ones((4, 1))}, ValueError, r"bias must have shape \[F\] = \(4,\)"),
        ({"scale": np.ones(4, np.float16)}, TypeError, "all arrays must have one dtype"),
        ({"residual": 1.0}, TypeError, "residual must be an array"),
        (
            {"activation": "leaky_relu", "negative_slope": jnp.ones(())},
            TypeError,
            "negative_slope must be a number",
        ),
    ],
)
def test_errors(changes, error, words):
    with pytest.raises(error, match=words) as caught:
        jaxconv.fused_conv(X, KERNEL, **changes)
    assert str(caught.value).startswith("fused_conv: ")


def test_complex_activations_are_refused():
    x, kernel = X.astype(complex), KERNEL.astype(complex)
    assert jaxconv.fused_conv(x, kernel, jnp.ones(4, complex)).dtype == jnp.complex64
    with pytest.raises(TypeError, match='"relu" is not defined for complex64'):
        jaxconv.fused_conv(x, kernel, activation="relu")
