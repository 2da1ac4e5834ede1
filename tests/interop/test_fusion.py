"""``accelerate`` fuses convolutions with what follows them: values, gradients, and reasons."""

from __future__ import annotations

import contextlib
import functools
import math

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxconv import accelerate, conv, explain, use_implementation
from jaxconv._src.geometry.epilogue import Epilogue
from jaxconv._src.interop.fusion.dense import fuse_dense_layers
from jaxconv._src.interop.fusion.fusions import fusions
from support.operators import equations

pytestmark = pytest.mark.sample(4)

RNG = np.random.default_rng(0)
F = 6


def normal(*shape, dtype="float32"):
    return jnp.asarray(RNG.standard_normal(shape), dtype)


X, KERNEL, RESIDUAL = normal(2, 7, 5, 3), normal(3, 2, 3, F), normal(2, 7, 5, F)
MEAN, SCALE, BIAS = normal(F), normal(F), normal(F)
VARIANCE = jnp.abs(normal(F)) + 1


def convolved(x, kernel, numbers=("NHWC", "HWIO", "NHWC"), **options):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers, **options)


def fused(fn, *args) -> list[Epilogue]:
    """The epilogues of all fused convolutions in the program that ``accelerate`` makes."""
    found = equations(jax.make_jaxpr(accelerate(fn))(*args).jaxpr)
    return [eqn.params["epilogue"] for eqn in found if eqn.primitive.name == "fused_conv"]


def bound_primitives(fn, *args) -> list[str]:
    return [eqn.primitive.name for eqn in equations(jax.make_jaxpr(fn)(*args).jaxpr)]


def tolerance(terms: int, dtype) -> float:
    """A sum of products, and an epilogue of about eight roundings, for values of about one."""
    return 8 * (math.sqrt(terms) + 8) * float(jnp.finfo(dtype).eps)


def assert_close(ours, theirs, terms=KERNEL[..., 0].size, dtype=None):
    """``dtype`` is the one that values are rounded to on the way; by default their own."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        wide = np.complex128 if jnp.iscomplexobj(b) else np.float64
        exact = [np.asarray(array, wide) for array in (a, b)]
        size = max(1.0, float(np.abs(exact[1]).max()))
        np.testing.assert_allclose(*exact, rtol=0, atol=tolerance(terms, dtype or a.dtype) * size)


def assert_fused(fn, expected: Epilogue, *args) -> None:
    """One fused convolution and no other, and the values and outer gradients of ``fn``."""
    assert fused(fn, *args) == [expected]
    names = bound_primitives(accelerate(fn), *args)
    assert not {"conv", "conv_general_dilated"} & set(names)
    assert_close(jax.jit(accelerate(fn))(*args), jax.jit(fn)(*args), dtype=args[0].dtype)

    def loss(fn):
        return lambda args: jnp.sum(jnp.sin(fn(*args).astype(jnp.float32)))

    ours = jax.jit(jax.grad(loss(accelerate(fn))))(args)
    theirs = jax.jit(jax.grad(loss(fn)))(args)
    largest = max(leaf.size for leaf in jax.tree.leaves(args))
    assert_close(ours, theirs, terms=largest, dtype=args[0].dtype)


# --- activations ----------------------------------------------------------------------------------

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)

ACTIVATIONS = {
    "relu": [
        jax.nn.relu,
        lambda x: jnp.maximum(x, 0),
        lambda x: jnp.maximum(0.0, x),
        lambda x: lax.max(x, jnp.zeros_like(x)),
        lambda x: jnp.where(x > 0, x, 0),
        lambda x: x * (x > 0).astype(x.dtype),
        lambda x: jnp.clip(x, 0),
        lambda x: (x + jnp.abs(x)) / 2,
        jax.jit(lambda x: jax.jit(jax.nn.relu)(x)),
    ],
    "relu6": [
        jax.nn.relu6,
        lambda x: jnp.minimum(jnp.maximum(x, 0), 6),
        lambda x: jnp.maximum(jnp.minimum(x, 6), 0),
        lambda x: jnp.clip(x, 0, 6),
        lambda x: lax.clamp(jnp.zeros((), x.dtype), x, jnp.full((), 6, x.dtype)),
        lambda x: jnp.minimum(jax.nn.relu(x), 6),
    ],
    "leaky_relu": [
        lambda x: jax.nn.leaky_relu(x, 0.125),
        lambda x: jnp.where(x > 0, x, 0.125 * x),
        lambda x: jnp.where(x < 0, x / 8, x),
        lambda x: jnp.maximum(x, 0.125 * x),
    ],
    "silu": [
        jax.nn.silu,
        jax.nn.swish,
        lambda x: x * jax.nn.sigmoid(x),
        lambda x: x / (1 + jnp.exp(-x)),
        lambda x: 0.5 * x * (1 + jnp.tanh(0.5 * x)),
    ],
    "gelu_tanh": [
        jax.nn.gelu,
        lambda x: 0.5 * x * (1 + jnp.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x**3))),
        lambda x: x * jax.nn.sigmoid(2 * SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)),
    ],
    "gelu_exact": [
        functools.partial(jax.nn.gelu, approximate=False),
        lambda x: 0.5 * x * (1 + lax.erf(x / math.sqrt(2))),
        lambda x: x * (lax.erf(x * math.sqrt(0.5)) + 1) / 2,
    ],
    "sigmoid": [jax.nn.sigmoid, lax.logistic, lambda x: 1 / (1 + jnp.exp(-x))],
    "hard_swish": [
        jax.nn.hard_swish,
        jax.nn.hard_silu,
        lambda x: x * jax.nn.relu6(x + 3) / 6,
        lambda x: x * jnp.clip(x + 3, 0, 6) * (1 / 6),
        lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1),
        lambda x: x * jax.nn.hard_sigmoid(x),
    ],
    "tanh": [jnp.tanh, lax.tanh],
}


@pytest.mark.parametrize(
    ("name", "activation"),
    [(name, form) for name, forms in ACTIVATIONS.items() for form in forms],
    ids=[f"{name}-{at}" for name, forms in ACTIVATIONS.items() for at in range(len(forms))],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_activations_are_recognized(name, activation, dtype):
    slope = 0.125 if name == "leaky_relu" else 0.0
    (found,) = fusions(
        jax.make_jaxpr(lambda x, k: activation(convolved(x, k)))(
            X.astype(dtype), KERNEL.astype(dtype)
        ).jaxpr
    )
    assert found.epilogue == Epilogue(activation=name, negative_slope=slope)


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("name", "activation"),
    [(name, form) for name, forms in ACTIVATIONS.items() for form in forms],
    ids=[f"{name}-{at}" for name, forms in ACTIVATIONS.items() for at in range(len(forms))],
)
def test_values_and_gradients(name, activation):
    slope = 0.125 if name == "leaky_relu" else 0.0
    expected = Epilogue(bias=True, activation=name, negative_slope=slope)
    assert_fused(
        lambda x, k, b: activation(convolved(x, k) + b[None, None, None]), expected, X, KERNEL, BIAS
    )


NOT_ACTIVATIONS = {
    "softplus": jax.nn.softplus,
    "elu": jax.nn.elu,
    "clipped at 5": lambda x: jnp.maximum(jnp.minimum(x, 5), 0),
    "clipped at 1000": lambda x: jnp.maximum(jnp.minimum(x, 1000), 0),
    "quick gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "another constant": lambda x: 0.5 * x * (1 + jnp.tanh(0.8 * (x + 0.044715 * x**3))),
    "shifted": lambda x: jnp.maximum(x, 1e-3),
    "steep": lambda x: jnp.maximum(x, 3 * x),
    "one exception": lambda x: jnp.where(x > 7777, 0.0, jax.nn.relu(x)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NOT_ACTIVATIONS)
def test_other_functions_are_not_activations(name, dtype):
    def fn(x, k):
        return NOT_ACTIVATIONS[name](convolved(x, k)).astype(dtype)

    (found,) = fusions(jax.make_jaxpr(fn)(X.astype(dtype), KERNEL.astype(dtype)).jaxpr)
    assert found.epilogue is None
    assert found.reason is not None
    assert "no activation has the values of what follows" in found.reason


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_are_those_of_the_fused_convolution(name, dtype):
    """For the activations of jax.nn; then training runs the fused convolution, too."""
    activation = ACTIVATIONS[name][0]

    def fn(x, k):
        return activation(convolved(x, k))

    names = bound_primitives(accelerate(fn), X.astype(dtype), KERNEL.astype(dtype))
    assert "fused_conv" in names
    assert "custom_jvp_call" not in names


def assert_gradient_at(activation, start: float, expected: float) -> None:
    """The derivative where every pre-activation is exactly ``start``."""

    def fn(x, kernel, bias):
        return jnp.sum(activation(convolved(x, kernel) + bias[None, None, None]))

    args = X, jnp.zeros_like(KERNEL), jnp.full_like(BIAS, start)
    assert len(fused(fn, *args)) == 1
    gradient = jax.grad(accelerate(fn), 2)(*args)
    np.testing.assert_allclose(gradient, expected * RESIDUAL[..., 0].size)
    np.testing.assert_allclose(gradient, jax.grad(fn, 2)(*args))


@pytest.mark.parametrize(
    ("activation", "start", "expected"),
    [
        (jax.nn.relu, 0, 0.0),
        (lambda x: jnp.maximum(x, 0), 0, 0.5),
        (jax.nn.relu6, 6, 0.0),
        (lambda x: jnp.minimum(jnp.maximum(x, 0), 6), 6, 0.5),
        (lambda x: jnp.where(x > 0, x, x / 8), 0, 0.125),
    ],
)
def test_derivatives_at_kinks_are_the_functions_own(activation, start, expected):
    assert_gradient_at(activation, start, expected)


def test_custom_derivatives_are_kept():
    """A function with the values of ReLU, and the derivative of the identity."""

    @jax.custom_jvp
    def straight_through(x):
        return jnp.maximum(x, 0)

    straight_through.defjvp(lambda primals, tangents: (straight_through(*primals), *tangents))

    def fn(x, kernel):
        return jnp.sum(straight_through(convolved(x, kernel)))

    assert fused(fn, X, KERNEL) == [Epilogue(activation="relu")]
    ours, theirs = (jax.grad(f, (0, 1))(X, KERNEL) for f in (accelerate(fn), fn))
    assert_close(ours, theirs, terms=X.size)
    hessian = lambda fn: jax.jvp(jax.grad(fn, 1), (X, KERNEL), (X, KERNEL))[1]  # noqa: E731
    assert_close(hessian(accelerate(fn)), hessian(fn), terms=X.size)


# --- scale, bias and residual ---------------------------------------------------------------------


def vector(values):
    return values[None, None, None]


def full(values):
    return lax.broadcast_in_dim(values, RESIDUAL.shape, (3,))


def normalized(y, mean, variance, scale, bias):
    return (y - vector(mean)) * (vector(scale) * lax.rsqrt(vector(variance) + 1e-5)) + vector(bias)


AFFINE = {
    "bias": (lambda y, m, v, s, b, r: y + vector(b), Epilogue(bias=True)),
    "broadcast bias": (lambda y, m, v, s, b, r: full(b) + y, Epilogue(bias=True)),
    "scale": (lambda y, m, v, s, b, r: vector(s) * y, Epilogue(scale=True)),
    "subtracted": (lambda y, m, v, s, b, r: y - full(b), Epilogue(bias=True)),
    "subtracted from": (lambda y, m, v, s, b, r: vector(b) - y, Epilogue(scale=True, bias=True)),
    "divided": (lambda y, m, v, s, b, r: y / vector(v), Epilogue(scale=True)),
    "numbers": (lambda y, m, v, s, b, r: 2 * y + 1, Epilogue(scale=True, bias=True)),
    "scalars": (lambda y, m, v, s, b, r: y * s[0] + b[:1], Epilogue(scale=True, bias=True)),
    "negative": (lambda y, m, v, s, b, r: -y + r, Epilogue(scale=True, residual=True)),
    "normalization": (
        lambda y, m, v, s, b, r: normalized(y, m, v, s, b),
        Epilogue(scale=True, bias=True),
    ),
    "bias, normalization": (
        lambda y, m, v, s, b, r: jax.nn.relu(normalized(y + vector(m), m, v, s, b)),
        Epilogue(scale=True, bias=True, activation="relu"),
    ),
    "all": (
        lambda y, m, v, s, b, r: jax.nn.silu(normalized(y, m, v, s, b) + r),
        Epilogue(scale=True, bias=True, residual=True, activation="silu"),
    ),
    "bias after the residual": (
        lambda y, m, v, s, b, r: jax.nn.relu((r + y) + vector(b)),
        Epilogue(bias=True, residual=True, activation="relu"),
    ),
    "residual minus": (
        lambda y, m, v, s, b, r: r - (y + vector(b)),
        Epilogue(scale=True, bias=True, residual=True),
    ),
    "in calls": (
        lambda y, m, v, s, b, r: jax.jit(lambda y: jax.nn.relu(jax.jit(jnp.add)(y * full(s), r)))(
            y
        ),
        Epilogue(scale=True, residual=True, activation="relu"),
    ),
    "copies and views": (
        lambda y, m, v, s, b, r: (
            jax.nn.relu(
                jnp.array(jnp.swapaxes((y + vector(b)).reshape(2, 35, F), 1, 2), copy=True)
            ).swapaxes(1, 2)
            * 1
        ),
        Epilogue(bias=True, activation="relu"),
    ),
}


@pytest.mark.lenient  # [F] and [1] meet arrays of rank 4
@pytest.mark.sample(2)
@pytest.mark.parametrize("name", AFFINE)
def test_affine(name):
    epilogue, expected = AFFINE[name]

    def fn(x, kernel, *rest):
        return epilogue(convolved(x, kernel), *rest)

    assert_fused(fn, expected, X, KERNEL, MEAN, VARIANCE, SCALE, BIAS, RESIDUAL)


LAYOUTS = {
    "NCHW": ("NCHW", "OIHW", "NCHW"),
    "NHWC to NCHW": ("NHWC", "HWIO", "NCHW"),
    "CHWN": ("CHWN", "IHWO", "CHWN"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name):
    """The features are where the convolution leaves them, and so is the residual."""
    numbers = LAYOUTS[name]
    arrays = [
        jnp.transpose(array, [own.index(axis) for axis in axes])
        for array, own, axes in zip(
            (X, KERNEL, RESIDUAL), ("NHWC", "HWIO", "NHWC"), numbers, strict=True
        )
    ]
    axis = numbers[2].index("C")
    shape = [F if at == axis else 1 for at in range(4)]

    def fn(x, kernel, residual, mean, variance, scale, bias):
        vectors = [values.reshape(shape) for values in (mean, variance, scale, bias)]
        mean, variance, scale, bias = vectors
        y = convolved(x, kernel, numbers)
        y = (y - mean) * (scale * lax.rsqrt(variance + 1e-5)) + bias
        return jax.nn.relu(y + residual)

    expected = Epilogue(scale=True, bias=True, residual=True, activation="relu")
    assert_fused(fn, expected, *arrays, MEAN, VARIANCE, SCALE, BIAS)


def test_transposes_between():
    """Convolution in NCHW, epilogue in NHWC."""

    def fn(x, kernel, bias, residual):
        y = convolved(jnp.moveaxis(x, 3, 1), kernel, ("NCHW", "HWIO", "NCHW"))
        y = jnp.moveaxis(y, 1, 3) + vector(bias)
        return jax.nn.gelu(y + residual)

    expected = Epilogue(bias=True, residual=True, activation="gelu_tanh")
    assert_fused(fn, expected, X, KERNEL, BIAS, RESIDUAL)


def test_jaxconvs_own_functions():
    def fn(x, kernel, bias):
        return jax.nn.relu(conv(x, kernel, bias))

    assert_fused(fn, Epilogue(bias=True, activation="relu"), X, KERNEL, BIAS)


def test_vmap_inside():
    """One example at a time, as Equinox layers are written."""

    def one(x, kernel, bias):
        return jax.nn.relu(convolved(x[None], kernel)[0] + bias[None, None])

    fn = jax.vmap(one, (0, None, None))
    assert_fused(fn, Epilogue(bias=True, activation="relu"), X, KERNEL, BIAS)


def test_two_convolutions_that_are_added():
    """The second one adds the result of the first."""

    def fn(x, kernel, other, bias):
        shortcut = convolved(x, other) + vector(bias)
        return jax.nn.relu(convolved(x, kernel) * 2 + shortcut)

    args = X, KERNEL, KERNEL[:1, :1], BIAS
    expected = [Epilogue(bias=True), Epilogue(scale=True, residual=True, activation="relu")]
    assert fused(fn, *args) == expected
    assert_close(jax.jit(accelerate(fn))(*args), jax.jit(fn)(*args))


def test_a_residual_that_is_computed_after_the_convolution():
    """The fused convolution takes the place of the last equation."""

    def fn(x, kernel, residual):
        y = convolved(x, kernel)
        return jax.nn.relu(y + jnp.sin(residual))

    assert_fused(fn, Epilogue(residual=True, activation="relu"), X, KERNEL, RESIDUAL)


@pytest.mark.parametrize("place", ["scan", "cond", "remat", "vmap"])
def test_in_other_programs(place):
    def layer(x, kernel):
        return jax.nn.relu(convolved(x, kernel) + 1)

    fn = {
        "scan": lambda x, k: lax.scan(lambda x, k: (layer(x, k), None), x, k[None])[0],
        "cond": lambda x, k: lax.cond(x[0, 0, 0, 0] > 0, layer, lambda x, k: x, x, k),
        "remat": jax.checkpoint(layer),
        "vmap": lambda x, k: jax.vmap(layer, (0, None))(x[:, None], k)[:, 0],
    }[place]
    kernel = normal(3, 2, F, F)
    assert_fused(fn, Epilogue(bias=True, activation="relu"), RESIDUAL, kernel)


@pytest.mark.parametrize("place", ["reduced", "wide arithmetic"])
def test_narrow_dtypes(place):
    """With epilogues in bfloat16, or in float32 and rounded once."""
    x, kernel, residual = (array.astype(jnp.bfloat16) for array in (X, KERNEL, RESIDUAL))

    def reduced(x, kernel, scale, bias, residual):
        y = convolved(x, kernel) * vector(scale.astype(jnp.bfloat16))
        return jax.nn.relu(y + vector(bias.astype(jnp.bfloat16)) + residual)

    def wide(x, kernel, scale, bias, residual):
        y = convolved(x, kernel).astype(jnp.float32) * vector(scale) + vector(bias)
        return jax.nn.relu(y + residual.astype(jnp.float32)).astype(jnp.bfloat16)

    fn = reduced if place == "reduced" else wide
    expected = Epilogue(scale=True, bias=True, residual=True, activation="relu")
    assert_fused(fn, expected, x, kernel, SCALE, BIAS, residual)


# --- what is not fused ----------------------------------------------------------------------------


def two_results(x, k):
    y = convolved(x, k)
    return y, jax.nn.relu(y)


def read_twice(x, k):
    y = convolved(x, k)
    return jax.nn.relu(y) + jnp.sum(y)


def read_inside(x, k):
    y = convolved(x, k) + 1
    return jax.nn.relu(y), jnp.sum(y)


def by_example(x, k):
    return convolved(x, k) * x[:, :1, :1, :1]


def by_row(x, k):
    return convolved(x, k) + x[:1, :, :1, :1]


def wrong_axis(x, k):
    """As many rows as features."""
    y = convolved(jnp.concatenate([x, x[:, :1]], 1)[:, :F], k)
    return y * x[0, 0, 0, 0] * jnp.arange(1.0, F + 1)[None, :, None, None]


def scaled_sum(x, k):
    y = convolved(x, k)
    return (jnp.cumsum(y, 1) + 0) * 2


def integers(x, k):
    y = convolved(x.astype(jnp.int32), k.astype(jnp.int32))
    return jnp.maximum(y, 0).astype(jnp.float32)


def converted(x, k):
    return jax.nn.relu(convolved(x, k).astype(jnp.bfloat16))


def wide_residual(x, k):
    y = convolved(x.astype(jnp.bfloat16), k.astype(jnp.bfloat16))
    return (y.astype(jnp.float32) + jnp.sin(RESIDUAL)).astype(jnp.bfloat16)


def complex_numbers(x, k):
    return convolved(x.astype(jnp.complex64), k.astype(jnp.complex64)) + 1


def softened(x, k):
    return jax.nn.softplus(convolved(x, k))


def regrouped(x, k):
    return jax.nn.relu(convolved(x, k).reshape(2, 7, 5, 2, 3))


def a_gradient(x, k):
    g = lax.conv_general_dilated(
        x,
        k,
        (1, 1),
        ((2, 1), (1, 0)),
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jax.nn.relu(g)


LEFT = {
    two_results: "also a result of the program",
    read_twice: r"another equation \(reduce_sum\) reads its result",
    by_example: "the multiplier is not per feature",
    by_row: "the addend is neither per feature nor of the shape of the result",
    scaled_sum: "cumsum reads its result",
    integers: "int32",
    converted: "converted to bfloat16",
    wide_residual: "the residual is float32 and the result bfloat16",
    complex_numbers: "complex64",
    softened: "no activation has the values of what follows",
    regrouped: "reshape changes the axis of features",
    a_gradient: "a transposed convolution or a gradient",
}


@pytest.mark.parametrize("fn", LEFT, ids=lambda fn: fn.__name__)
def test_what_is_not_fused(fn):
    assert fused(fn, X, KERNEL) == []
    (found,) = fusions(jax.make_jaxpr(fn)(X, KERNEL).jaxpr)
    assert found.epilogue is None
    with pytest.raises(AssertionError, match=LEFT[fn]):
        raise AssertionError(found.reason)
    assert_close(jax.jit(accelerate(fn))(X, KERNEL), jax.jit(fn)(X, KERNEL))


@pytest.mark.parametrize(
    ("fn", "expected"),
    [(read_inside, Epilogue(bias=True)), (wrong_axis, Epilogue(scale=True))],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_part_that_can_be_fused(fn, expected):
    assert fused(fn, X, KERNEL) == [expected]
    assert_close(jax.jit(accelerate(fn))(X, KERNEL), jax.jit(fn)(X, KERNEL))


def test_gradients_inside_keep_what_they_read():
    """The backward pass reads the value before the activation, so only the bias is fused."""

    def step(kernel, bias, x):
        def loss(kernel, bias):
            return jnp.sum(jax.nn.silu(convolved(x, kernel) + vector(bias)) ** 2)

        return jax.value_and_grad(loss, (0, 1))(kernel, bias)

    assert fused(step, KERNEL, BIAS, X) == [Epilogue(bias=True)]
    ours, theirs = (jax.jit(fn)(KERNEL, BIAS, X) for fn in (accelerate(step), step))
    assert_close(ours, theirs, terms=X.size)


@pytest.mark.parametrize("name", ["relu", "relu6", "sigmoid", "tanh"])
def test_gradients_inside_that_need_only_the_result(name):
    """Where ReLU is positive, so is its argument."""
    activation = ACTIVATIONS[name][0]

    def step(kernel, bias, x):
        def loss(kernel, bias):
            return jnp.sum(activation(convolved(x, kernel) + vector(bias)) ** 2)

        return jax.value_and_grad(loss, (0, 1))(kernel, bias)

    assert fused(step, KERNEL, BIAS, X) == [Epilogue(bias=True, activation=name)]
    ours, theirs = (jax.jit(fn)(KERNEL, BIAS, X) for fn in (accelerate(step), step))
    assert_close(ours, theirs, terms=X.size)


def test_other_comparisons_keep_the_value_before_the_activation():
    def fn(x, kernel, bias):
        z = convolved(x, kernel) + vector(bias)
        return jax.nn.relu(z), z > -1

    assert fused(fn, X, KERNEL, BIAS) == [Epilogue(bias=True)]
    assert_close(*[jax.jit(f)(X, KERNEL, BIAS)[0] for f in (accelerate(fn), fn)])
    np.testing.assert_array_equal(*[f(X, KERNEL, BIAS)[1] for f in (accelerate(fn), fn)])


def test_forced_implementations_apply():
    def fn(x, kernel):
        return jax.nn.relu(convolved(x, kernel))

    with use_implementation("lax"):
        found = equations(jax.make_jaxpr(accelerate(fn))(X, KERNEL).jaxpr)
        assert [e.params["implementation"] for e in found if e.primitive.name == "fused_conv"] == [
            "lax"
        ]


def test_unread_broadcasts_are_dropped():
    def fn(x, kernel, bias):
        return jax.nn.relu(convolved(x, kernel) + full(bias))

    program = jax.make_jaxpr(accelerate(fn))(X, KERNEL, BIAS)
    shapes = [v.aval.shape for eqn in equations(program.jaxpr) for v in eqn.outvars]
    assert shapes.count(RESIDUAL.shape) == 1


# --- shardings, export and other transformations --------------------------------------------------

needs_devices = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight (host) devices")


def block(x, kernel, scale, bias, residual):
    return jax.nn.relu(convolved(x, kernel) * vector(scale) + vector(bias) + residual)


BLOCK = X, KERNEL, SCALE, BIAS, RESIDUAL


@needs_devices
@pytest.mark.parametrize("kind", ["auto", "explicit", "shard_map"])
def test_meshes(kind):
    x, residual = (jnp.concatenate([array] * 4) for array in (X, RESIDUAL))
    shared = KERNEL, SCALE, BIAS
    types = (AxisType.Explicit if kind == "explicit" else AxisType.Auto,)
    mesh = jax.make_mesh((4,), ("b",), axis_types=types)
    split = NamedSharding(mesh, P("b"))

    def fn(x, residual, *shared):
        if kind != "shard_map":
            return block(x, *shared, residual)
        mapped = jax.shard_map(
            lambda x, residual, *shared: block(x, *shared, residual),
            mesh=mesh,
            in_specs=(P("b"), P("b"), P(), P(), P()),
            out_specs=P("b"),
        )
        return mapped(x, residual, *shared)

    def step(fn):
        def loss(*args):
            return jnp.sum(jnp.sin(fn(*args)))

        return jax.jit(lambda *args: (fn(*args), jax.grad(loss, range(5))(*args)))

    expected = step(lambda x, residual, *shared: block(x, *shared, residual))(x, residual, *shared)
    with jax.set_mesh(mesh) if kind == "explicit" else contextlib.nullcontext():
        placed = jax.device_put(x, split), jax.device_put(residual, split)
        ours = step(accelerate(fn))(*placed, *shared)
        found = fused(fn, *placed, *shared)
    assert len(found) == (0 if kind == "explicit" else 1)
    assert_close(jax.tree.map(np.asarray, ours), expected, terms=x.size)


def test_export_with_symbolic_sizes():
    (n,) = jax.export.symbolic_shape("n")
    shapes = [jax.ShapeDtypeStruct((n, *a.shape[1:]), a.dtype) for a in (X, RESIDUAL)]
    exported = jax.export.export(jax.jit(accelerate(block)))(
        shapes[0], KERNEL, SCALE, BIAS, shapes[1]
    )
    assert_close(exported.call(*BLOCK), block(*BLOCK))


@pytest.mark.parametrize("transform", ["eager", "jvp", "vmap", "hessian product", "without jit"])
def test_transformed_from_outside(transform):
    transformed = {
        "eager": lambda fn: fn,
        "jvp": lambda fn: lambda *args: jax.jvp(fn, args, args),
        "vmap": lambda fn: lambda *args: jax.vmap(fn)(*[jnp.stack([a, 2 * a]) for a in args]),
        "hessian product": lambda fn: (
            lambda *args: jax.jvp(
                jax.grad(lambda k: jnp.sum(jnp.sin(fn(X, k, *args[2:])))), args[1:2], args[1:2]
            )
        ),
        "without jit": lambda fn: fn,
    }[transform]
    with jax.disable_jit(transform == "without jit"):
        ours = transformed(accelerate(block))(*BLOCK)
    assert_close(ours, transformed(block)(*BLOCK), terms=X.size)


# --- dense layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3), (2, 5, 3), (2, 7, 5, 3), (2, 2, 1, 3, 2, 2, 3)], ids=str)
def test_dense_layers_are_fused_where_that_is_asked_for(shape):
    x, kernel = normal(*shape), normal(3, F)
    ones = (1,) * (len(shape) - 1)

    def fn(x, kernel, bias):
        return jax.nn.gelu(x @ kernel + bias.reshape(*ones, F))

    assert fused(fn, x, kernel, BIAS) == []
    with fuse_dense_layers():
        expected = Epilogue(bias=True, activation="gelu_tanh")
        assert_fused(fn, expected, x, kernel, BIAS)


def test_other_products_are_not_dense_layers():
    def fn(x, y):
        return jax.nn.relu(jnp.einsum("nhwc,nhwd->nhcd", x, y)), jax.nn.relu(x[:, 0] @ y[:, 0].mT)

    with fuse_dense_layers():
        assert fused(fn, X, RESIDUAL[..., :3]) == []


# --- random programs ------------------------------------------------------------------------------


def random_program(seed: int):
    """A convolution and random operations after it, on any of the values so far."""
    choices = np.random.default_rng(seed).integers(0, 1000, (8, 4)).tolist()
    activations = [form for forms in ACTIVATIONS.values() for form in forms]

    def operations(y, v, variance, residual, earlier, form):
        return [
            lambda: activations[form % len(activations)](y),
            lambda: y + v,
            lambda: v - y,
            lambda: y * v,
            lambda: y / vector(variance),
            lambda: y + residual,
            lambda: residual - y,
            lambda: -y / 3,
            lambda: jnp.moveaxis(jnp.moveaxis(y, 3, 1) + jnp.moveaxis(residual, 3, 1), 1, 3),
            lambda: (y.reshape(14, 5, F) - v.reshape(1, 1, F)).reshape(2, 7, 5, F),
            lambda: y * jnp.mean(y, (1, 2), keepdims=True) if form % 3 == 0 else y + 1,
            lambda: y + earlier,
        ]

    def fn(x, kernel, mean, variance, scale, bias, residual):
        vectors, values = (mean, variance, scale, bias), [convolved(x, kernel)]
        for kind, source, which, form in choices:
            # Mostly the last value, so that chains are long; sometimes one that is read before.
            y = values[-1] if source % 6 else values[source % len(values)]
            earlier = values[which % len(values)]
            possible = operations(y, vector(vectors[which % 4]), variance, residual, earlier, form)
            values.append(possible[kind % len(possible)]())
        return values[-1] if seed % 3 else (values[-1], values[choices[0][1] % len(values)])

    return fn


@pytest.mark.sample(32)
@pytest.mark.parametrize("seed", range(64))
def test_random_programs(seed):
    fn, args = random_program(seed), (X, KERNEL, MEAN, VARIANCE, SCALE, BIAS, RESIDUAL)

    def step(fn):
        def loss(args):
            return sum(jnp.sum(jnp.sin(y / 8)) for y in jax.tree.leaves(fn(*args)))

        return lambda args: (fn(*args), jax.grad(loss)(args))

    with jax.enable_x64(True):
        args = [array.astype(jnp.float64) for array in args]
        expected = jax.jit(step(fn))(args)
        for ours in (step(accelerate(fn)), accelerate(step(fn))):
            assert_close(jax.jit(ours)(args), expected, terms=X.size)


# --- explain --------------------------------------------------------------------------------------


def explained_network(x, kernel, bias):
    y = jax.nn.relu(convolved(x, kernel) + vector(bias))
    y = jax.nn.softplus(convolved(y, normal(1, 1, F, F)))
    return jax.nn.relu(convolved(y, normal(1, 1, F, F)) + 1) + jnp.cumsum(y, 1)


def test_explain_lists_fusions_and_reasons():
    report = explain(accelerate(explained_network), X, KERNEL, BIAS)
    first, second, third = report.convs
    for found in (first, third):
        assert found.epilogue == Epilogue(bias=True, activation="relu")
        assert found.unfused_reason is None
    assert second.epilogue.trivial
    assert second.unfused_reason.startswith("no activation has the values of what follows")
    table = str(report).split("\n\n")[-1].splitlines()
    assert table[0].split("  ")[0] == "#"
    assert table[1].split() == ["1", "3", "bias", "+", "relu"]
    assert table[2].startswith("2 ")
    assert "no activation has the values" in table[2]


def test_explain_says_what_accelerate_would_fuse():
    (found,) = explain(lambda x, k: jax.nn.relu(conv(x, k)), X, KERNEL).convs
    assert found.unfused_reason == "accelerate fuses it with relu, but was not applied"
