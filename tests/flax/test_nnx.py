"""The nnx modules: Flax's own, computed by jaxconv, and the new ones against Flax's."""

import copy
import itertools
import pickle
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from flax import nnx
from hypothesis import strategies as st

import jaxconv
from jaxconv._src.geometry import padding as paddings
from jaxconv.nnx import CausalConv, Conv, ConvTranspose, DepthwiseConv, PointwiseConv, SeparableConv
from support.cases import operand
from support.operators import NAMES, assert_uses_primitives, primitives

# Flax promotes the inputs to the dtype of the parameters.
pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.lenient]

WIDE = {"param_dtype": np.float64}


def signal(*shape):
    return jnp.asarray(operand(shape, np.float64))


def drawn(key, shape, dtype):
    """An initializer that is not compiled for each shape, as Flax's are."""
    return signal(*shape).astype(dtype)


FIXED = {"kernel_init": drawn, **WIDE}


def small(kind, *args):
    """Makes a module of 6 in-features on one axis."""
    return lambda **options: kind(6, *args, **{"kernel_init": drawn, **options})


MODULES = {
    "Conv": small(Conv, 4, 3),
    "ConvTranspose": small(ConvTranspose, 4, 3, 2),
    "DepthwiseConv": small(DepthwiseConv, 3, 2),
    "PointwiseConv": small(PointwiseConv, 4),
    "SeparableConv": small(SeparableConv, 4, 3),
    "CausalConv": small(CausalConv, 4, 3),
}
every_module = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)


def pure(module):
    """``(parameters, x) -> y`` and the parameters, a plain dict."""
    graph, state = nnx.split(module)

    def apply(parameters, x):
        filled = jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(parameters))
        return nnx.merge(graph, filled)(x)

    return apply, nnx.to_pure_dict(state)


def compiled(function):
    """Compiled three times faster, for programs that run once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def value_and_gradients(apply):
    def loss(parameters, x):
        y = apply(parameters, x)
        return jnp.sum(jnp.sin(y)), y  # curved, so that gradients depend on the value

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)


def assert_computes(module, wanted, x):
    """``module`` is ``wanted(parameters, x)``, gradients included, with jaxconv's primitives."""
    apply, parameters = pure(module)
    parameters = jax.tree.map(lambda leaf: signal(*leaf.shape), parameters)
    got, want = (compiled(value_and_gradients(f))(parameters, x) for f in (apply, wanted))
    assert_trees_all_close(got, want, rtol=1e-11, atol=1e-11)
    assert_uses_primitives(value_and_gradients(apply), parameters, x, binds=NAMES)


def assert_same(ours, theirs, x):
    """The same parameters, initial values and results."""
    apply, parameters = pure(theirs)
    assert_trees_all_equal(pure(ours)[1], parameters)
    assert_computes(ours, apply, x)


# --- Flax's own -----------------------------------------------------------------------------------


CONVS = {
    "one axis": {"kernel_size": 3},
    "strides": {"kernel_size": (3, 2), "strides": (2, 3)},
    "valid": {"kernel_size": (3, 2), "padding": "VALID", "strides": None},
    "circular": {"kernel_size": (4, 3), "padding": "CIRCULAR", "kernel_dilation": (1, 2)},
    "reflect": {"kernel_size": (4, 3), "padding": "REFLECT", "strides": 2},
    "causal": {"kernel_size": (3,), "padding": "CAUSAL", "kernel_dilation": 2},
    "pairs": {"kernel_size": (3, 2), "padding": ((1, 0), (2, 3)), "strides": 2},
    "input dilation": {"kernel_size": (3, 2), "input_dilation": (2, 3), "padding": 1},
    "grouped": {"kernel_size": [3, 2], "feature_group_count": 2, "padding": (1, 2)},
    "mask": {"kernel_size": (3, 2), "mask": jnp.tri(24).reshape(3, 2, -1, 4)[:, :, :6]},
    "no bias": {"kernel_size": (3, 1, 2), "strides": (1, 2, 1), "use_bias": False},
}


@pytest.mark.sample(6)
@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS)
def test_conv(options):
    ours, theirs = (kind(6, 4, **options, **FIXED, rngs=nnx.Rngs(3)) for kind in (Conv, nnx.Conv))
    assert_same(ours, theirs, signal(2, *(7, 8, 5)[: len(ours.kernel_size)], 6))


def test_isinstance():
    assert isinstance(MODULES["Conv"](rngs=nnx.Rngs(0)), nnx.Conv)
    assert isinstance(MODULES["ConvTranspose"](rngs=nnx.Rngs(0)), nnx.ConvTranspose)


def test_conv_with_another_conv_general_dilated():
    by_lax = {"conv_general_dilated": jax.lax.conv_general_dilated}
    layer = MODULES["Conv"](**by_lax, rngs=nnx.Rngs(0))
    bound = set(primitives(layer, signal(2, 7, 6)))
    assert "conv_general_dilated" in bound
    assert not bound & NAMES


def test_conv_accepts_what_flax_accepts():
    ours, theirs = (kind(2, 4, 3, padding="VALID", rngs=nnx.Rngs(0)) for kind in (Conv, nnx.Conv))
    integers = jnp.arange(20).reshape(1, 10, 2)
    assert_trees_all_close(ours(integers), theirs(integers), rtol=1e-6)
    for narrow in (signal(1, 2, 2), signal(0, 5, 2)):
        assert ours(narrow).shape == theirs(narrow).shape
        assert ours(narrow).size == 0


GRID = list(itertools.product(range(1, 6), range(1, 5)))


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("padding", "transpose_kernel"),
    [("SAME", False), ("VALID", True), ("CIRCULAR", False), ("CIRCULAR", True), ([(2, 0)], False)],
)
def test_conv_transpose(padding, transpose_kernel):
    """Every kernel extent of 1 to 5 and stride of 1 to 4, in one module."""
    options = {"padding": padding, "transpose_kernel": transpose_kernel, **FIXED}

    def layers(kind):
        rngs = nnx.Rngs(3)
        return All([kind(2, 3, k, s, **options, rngs=rngs) for k, s in GRID])

    assert_same(layers(ConvTranspose), layers(nnx.ConvTranspose), signal(2, 5, 2))


class All(nnx.Module):
    """The outputs of all layers for one input, concatenated."""

    def __init__(self, layers):
        self.layers = nnx.List(layers)

    def __call__(self, x):
        return jnp.concatenate([layer(x) for layer in self.layers], axis=1)


@pytest.mark.sample(3)
@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR", (2, 1)])
def test_conv_transpose_in_two_axes(padding, transpose_kernel):
    """Unequal strides and dilations, and a period shorter than the kernel."""
    shape = (3, 4, 5, 3) if transpose_kernel else (3, 4, 3, 5)
    options = {
        "padding": padding,
        "transpose_kernel": transpose_kernel,
        "kernel_dilation": (2, 1),
        "mask": jnp.tri(12, 15, 5).reshape(shape),
        **FIXED,
    }
    ours, theirs = (
        kind(3, 5, (3, 4), (1, 3), **options, rngs=nnx.Rngs(1))
        for kind in (ConvTranspose, nnx.ConvTranspose)
    )
    assert_same(ours, theirs, signal(2, 2, 7, 3))


def test_conv_transpose_in_three_axes():
    ours, theirs = (
        kind(2, 3, (2, 1, 3), 2, padding=((0, 1), 1, (3, -1)), use_bias=False, **FIXED, rngs=rngs)
        for kind, rngs in ((ConvTranspose, nnx.Rngs(1)), (nnx.ConvTranspose, nnx.Rngs(1)))
    )
    assert_same(ours, theirs, signal(2, 3, 2, 4, 2))


def test_conv_transpose_of_empty_arrays():
    for padding in ("SAME", "VALID", "CIRCULAR"):
        layer = ConvTranspose(2, 3, 3, 2, padding=padding, rngs=nnx.Rngs(0))
        assert layer(signal(0, 5, 2)).shape == (0, 10 + (padding == "VALID"), 3)
    assert layer(signal(2, 0, 2)).shape == (2, 0, 3)


# --- the new ones ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extents", "multiplier"), [((3,), 3), ((3, 2), 1), ((3, 2), 3), ((2, 1, 3), 1)]
)
def test_depthwise_conv(extents, multiplier):
    ours = DepthwiseConv(4, extents, multiplier, strides=2, **FIXED, rngs=nnx.Rngs(5))
    options = {"strides": 2, "feature_group_count": 4, **FIXED}
    theirs = nnx.Conv(4, 4 * multiplier, extents, **options, rngs=nnx.Rngs(5))
    assert ours.kernel.shape == (*extents, 1, 4 * multiplier)
    assert_same(ours, theirs, signal(2, *(7, 6, 5)[: len(extents)], 4))


@pytest.mark.parametrize("shape", [(6,), (2, 7, 6), (2, 3, 5, 4, 2, 6)])
def test_pointwise_conv(shape):
    ours, theirs = (kind(6, 4, **FIXED, rngs=nnx.Rngs(5)) for kind in (PointwiseConv, nnx.Linear))
    assert_same(ours, theirs, signal(*shape))


@pytest.mark.parametrize("strides", [2, (2, 3), [3, 2]])
def test_pointwise_conv_with_strides(strides):
    ours = PointwiseConv(6, 4, strides, **FIXED, rngs=nnx.Rngs(5))
    whole, _ = pure(PointwiseConv(6, 4, **FIXED, rngs=nnx.Rngs(5)))
    rows, columns = (2, 2) if strides == 2 else strides

    def skipped(parameters, x):
        return whole(parameters, x)[..., ::rows, ::columns, :]

    assert_computes(ours, skipped, signal(3, 7, 4, 6))
    if strides != 2:
        assert_computes(ours, skipped, signal(2, 3, 7, 4, 6))
        assert_computes(ours, skipped, signal(7, 4, 6))


@pytest.mark.parametrize("options", [{}, {"strides": 2, "kernel_dilation": (1, 2)}])
def test_separable_conv(options):
    depthwise, _ = pure(
        nnx.Conv(4, 8, (3, 2), feature_group_count=4, use_bias=False, **options, rngs=nnx.Rngs(0))
    )
    pointwise, _ = pure(nnx.Conv(8, 5, (1, 1), rngs=nnx.Rngs(0)))

    def by_flax(parameters, x):
        y = depthwise({"kernel": parameters["depthwise_kernel"]}, x)
        kernel = parameters["pointwise_kernel"][None, None]
        return pointwise({"kernel": kernel, "bias": parameters["bias"]}, y)

    ours = SeparableConv(4, 5, (3, 2), 2, **options, **FIXED, rngs=nnx.Rngs(5))
    shapes = {name: leaf.shape for name, leaf in pure(ours)[1].items()}
    assert shapes == {
        "depthwise_kernel": (3, 2, 1, 8),
        "pointwise_kernel": (8, 5),
        "bias": (5,),
    }
    assert_computes(ours, by_flax, signal(2, 7, 6, 4))


def test_initial_values():
    """Those of Flax's modules with the same random stream."""
    pairs = {
        "Conv": (Conv(4, 6, 3, rngs=nnx.Rngs(5)), nnx.Conv(4, 6, 3, rngs=nnx.Rngs(5))),
        "ConvTranspose": (
            ConvTranspose(4, 6, 3, rngs=nnx.Rngs(5)),
            nnx.ConvTranspose(4, 6, 3, rngs=nnx.Rngs(5)),
        ),
        "DepthwiseConv": (
            DepthwiseConv(4, 3, 2, bias_init=drawn, rngs=nnx.Rngs(5)),
            nnx.Conv(4, 8, 3, feature_group_count=4, bias_init=drawn, rngs=nnx.Rngs(5)),
        ),
        "PointwiseConv": (
            PointwiseConv(4, 6, rngs=nnx.Rngs(5)),
            nnx.Linear(4, 6, rngs=nnx.Rngs(5)),
        ),
        "CausalConv": (CausalConv(4, 6, 3, rngs=nnx.Rngs(5)), nnx.Conv(4, 6, 3, rngs=nnx.Rngs(5))),
    }
    for name, modules in pairs.items():
        ours, theirs = (pure(module)[1] for module in modules)
        assert_trees_all_equal(ours, theirs, custom_message=name)
        assert jnp.std(ours["kernel"]) > 0.1


def test_separable_conv_has_fewer_parameters_than_dense():
    layer = SeparableConv(8, 32, (3, 3), use_bias=False, rngs=nnx.Rngs(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer))) == 328


@pytest.mark.parametrize(
    ("groups", "strides", "dilation"), [(1, 1, 1), (1, 2, 2), (2, 1, 3), (4, 1, 1), (4, 2, 3)]
)
def test_causal_conv(groups, strides, dilation):
    options = {"strides": strides, "kernel_dilation": dilation, "feature_group_count": groups}
    ours = CausalConv(4, 8, 3, **options, **FIXED, rngs=nnx.Rngs(5))
    theirs = nnx.Conv(4, 8, 3, padding="CAUSAL", **options, **FIXED, rngs=nnx.Rngs(5))
    assert_same(ours, theirs, signal(2, 9, 4))


step_compiled = nnx.jit(lambda layer, state, x: layer.step(state, x))


@hypothesis.settings(max_examples=10)
@hypothesis.given(st.sets(st.integers(1, 8)).map(sorted))
def test_causal_conv_streams(cuts):
    """Any chunking equals the whole."""
    options = {"kernel_dilation": 2, "feature_group_count": 2, **FIXED}
    layer = CausalConv(4, 8, 3, **options, bias_init=drawn, rngs=nnx.Rngs(5))
    x = signal(2, 9, 4)
    state, outputs = layer.init_state(batch_size=2), []
    assert state.shape == (2, 4, 4)
    for chunk in jnp.split(x, cuts, axis=1):
        y, state = step_compiled(layer, state, chunk)
        outputs.append(y)
    assert_trees_all_close(jnp.concatenate(outputs, axis=1), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "requested"), [(jnp.bfloat16, None), (None, None), (None, np.float64)]
)
def test_causal_conv_streams_in_scan(dtype, requested):
    """The state keeps its dtype: that of the computation, or the one that was requested."""
    layer = MODULES["CausalConv"](dtype=dtype, rngs=nnx.Rngs(5))
    x = signal(2, 5, 6).astype(requested or np.float32)
    state = layer.init_state(2, requested)

    def step(state, pixel):
        y, state = layer.step(state, pixel[:, None])
        return state, y[:, 0]

    state, y = jax.lax.scan(step, state, x.swapaxes(0, 1))
    assert state.dtype == y.dtype == (dtype or requested or np.float32)
    whole = layer(x).astype(float)
    np.testing.assert_allclose(y.swapaxes(0, 1).astype(float), whole, atol=1e-5)


PADDINGS = [*sorted({*paddings.NAMES} - {"CAUSAL"}), 1, ((0, 2), "REPLICATE"), ["CAUSAL", 1]]


@pytest.mark.parametrize("padding", PADDINGS)
def test_padding(padding):
    """The new modules take every padding that the functions take."""
    x = signal(2, 7, 6, 4)
    options = {"padding": padding, "strides": 2, "kernel_dilation": (1, 2), **FIXED}
    depthwise = DepthwiseConv(4, (3, 2), **options, use_bias=False, rngs=nnx.Rngs(0))
    separable = SeparableConv(4, 4, (3, 2), **options, use_bias=False, rngs=nnx.Rngs(0))
    separable.depthwise_kernel[...] = depthwise.kernel[...]
    separable.pointwise_kernel[...] = jnp.eye(4)
    wanted = jaxconv.depthwise_conv(
        x, depthwise.kernel[...], strides=2, padding=padding, dilation=(1, 2)
    )
    assert_trees_all_close((depthwise(x), separable(x)), (wanted, wanted), rtol=1e-12)


# --- what all share -------------------------------------------------------------------------------


@every_module
def test_leading_batch_axes(make):
    layer = make(**WIDE, rngs=nnx.Rngs(0))
    x = signal(2, 3, 5, 7, 6)
    one_axis = layer(x.reshape(-1, 7, 6))
    assert one_axis.ndim == 3
    tail = one_axis.shape[1:]
    assert_trees_all_close(layer(x), one_axis.reshape(2, 3, 5, *tail), rtol=1e-12)
    assert_trees_all_close(layer(x[1, 2, 4]), one_axis[-1], rtol=1e-12)
    assert layer(x[:, :0]).shape == (2, 0, 5, *tail)


@every_module
def test_dtypes(make):
    layer = make(dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    wide = make(rngs=nnx.Rngs(0))
    x = signal(2, 7, 6).astype(np.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(layer))} == {np.dtype(np.float32)}
    assert layer(x).dtype == jnp.bfloat16
    error = jnp.abs(layer(x).astype(np.float32) - wide(x))
    assert 0 < jnp.max(error) < 0.03 * jnp.max(jnp.abs(wide(x)))
    gradients = nnx.grad(lambda layer: jnp.sum(layer(x) ** 2))(layer)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {np.dtype(np.float32)}
    assert wide(x.astype(jnp.bfloat16)).dtype == np.float32
    assert wide(jnp.ones((2, 7, 6), int)).dtype == np.float32
    narrow = make(param_dtype=jnp.bfloat16, preferred_element_type=np.float32, rngs=nnx.Rngs(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(narrow))} == {np.dtype(jnp.bfloat16)}
    assert narrow(x.astype(jnp.bfloat16)).dtype == np.float32


@pytest.mark.sample(3)
@every_module
def test_transforms(make):
    x = signal(2, 7, 6)
    layer = make(**WIDE, rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)
    assert_trees_all_equal(nnx.merge(graph, state)(x), layer(x))
    assert_trees_all_close(nnx.jit(lambda layer, x: layer(x))(layer, x), layer(x), rtol=1e-12)
    assert hash(graph) == hash(nnx.graphdef(make(**WIDE, rngs=nnx.Rngs(1))))

    rngs = nnx.Rngs(0)
    members = [make(**WIDE, rngs=rngs) for _ in range(3)]
    stacked = nnx.merge(graph, jax.tree.map(lambda *a: jnp.stack(a), *map(nnx.state, members)))
    ensemble = nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))
    wanted = jnp.stack([member(x) for member in members])
    assert_trees_all_close(ensemble(stacked, x), wanted, rtol=1e-12)


@every_module
def test_no_bias(make):
    layer = make(use_bias=False, rngs=nnx.Rngs(0))
    assert not any("bias" in name for name in nnx.to_pure_dict(nnx.state(layer)))
    assert not jnp.any(layer(jnp.zeros((2, 7, 6))))


@every_module
def test_initializers(make):
    ones, twos = nnx.initializers.ones, nnx.initializers.constant(2.0)
    layer = make(kernel_init=ones, bias_init=twos, rngs=nnx.Rngs(0))
    for name, value in nnx.to_pure_dict(nnx.state(layer)).items():
        assert jnp.all(value == (2 if name == "bias" else 1)), name


@every_module
def test_copies(make):
    """By pickle, by deepcopy, and by nnx's own functions."""
    layer, x = make(kernel_init=nnx.initializers.lecun_normal(), rngs=nnx.Rngs(0)), signal(2, 7, 6)
    for copied in (
        pickle.loads(pickle.dumps(layer)),
        copy.deepcopy(layer),
        nnx.clone(layer),
        nnx.merge(*nnx.split(layer)),
    ):
        assert type(copied) is type(layer)
        assert_trees_all_equal(copied(x), layer(x))


@every_module
def test_metadata(make):
    layer = make(
        kernel_metadata={"role": "filters"}, bias_metadata={"role": "offset"}, rngs=nnx.Rngs(0)
    )
    roles = {
        path[0]: param.get_metadata("role") for path, param in nnx.to_flat_state(nnx.state(layer))
    }
    assert roles.pop("bias") == "offset"
    assert set(roles.values()) == {"filters"}


def test_variance():
    """Outputs of the depthwise part have the variance of the inputs: the fan-in is prod(K)."""
    layer = SeparableConv(4096, 64, (3, 2), rngs=nnx.Rngs(0))
    assert 0.95 < 6 * jnp.var(layer.depthwise_kernel[...]) < 1.05
    assert 0.95 < 4096 * jnp.var(layer.pointwise_kernel[...]) < 1.05
    assert 0.95 < 6 * jnp.var(DepthwiseConv(4096, (3, 2), rngs=nnx.Rngs(0)).kernel[...]) < 1.05


SIMPLE = {"kernel_init": drawn, "rngs": nnx.Rngs(0)}
ERRORS = {
    "DepthwiseConv: multiplier must be a positive int, but got 0": (
        lambda: DepthwiseConv(4, 3, 0, **SIMPLE)
    ),
    "DepthwiseConv: in_features must be a positive int, but got 4.0": (
        lambda: DepthwiseConv(4.0, 3, **SIMPLE)
    ),
    "DepthwiseConv: kernel_size must be an int or a sequence of ints for 1 to 3 spatial axes": (
        lambda: DepthwiseConv(4, (3, 3, 3, 3), **SIMPLE)
    ),
    "DepthwiseConv: kernel_size[1] must be a positive int, but got 0": (
        lambda: DepthwiseConv(4, (3, 0), **SIMPLE)
    ),
    "depthwise_conv: kernel's last axis must be a multiple of x's 5 channels": (
        lambda: DepthwiseConv(4, 3, **SIMPLE)(jnp.ones((2, 7, 5)))
    ),
    "depthwise_conv: x must be [N, H, W, C]": (
        lambda: DepthwiseConv(4, (3, 3), **SIMPLE)(jnp.ones((7, 4)))
    ),
    "depthwise_conv: padding must be one of SAME, SAME_LOWER, VALID, FULL": (
        lambda: DepthwiseConv(4, 3, padding="SAMME", **SIMPLE)(jnp.ones((2, 7, 4)))
    ),
    "depthwise_conv: strides must be a positive int, but got 0": (
        lambda: DepthwiseConv(4, 3, strides=0, **SIMPLE)(jnp.ones((2, 7, 4)))
    ),
    "PointwiseConv: out_features must be a positive int, but got -1": (
        lambda: PointwiseConv(4, -1, **SIMPLE)
    ),
    "pointwise_conv: x's channels must equal the kernel's, but 5 != 4": (
        lambda: PointwiseConv(4, 3, **SIMPLE)(jnp.ones((2, 7, 5)))
    ),
    "pointwise_conv: a kernel [C, F] has no spatial axes to stride over": (
        lambda: PointwiseConv(4, 3, 2, **SIMPLE)(jnp.ones((2, 4)))
    ),
    "SeparableConv: kernel_size[0] must be a positive int, but got None": (
        lambda: SeparableConv(4, 3, None, **SIMPLE)
    ),
    "SeparableConv: kernel_size[0] must be a positive int, but got 2.5": (
        lambda: SeparableConv(4, 3, (2.5,), **SIMPLE)
    ),
    "CausalConv: in_features must be a multiple of feature_group_count, but 4 % 3 = 1": (
        lambda: CausalConv(4, 6, 3, feature_group_count=3, **SIMPLE)
    ),
    "CausalConv: kernel_size must be an int or a sequence of ints for one axis, but got (3, 3)": (
        lambda: CausalConv(4, 6, (3, 3), **SIMPLE)
    ),
    "CausalConv.step: streaming needs strides=1": (
        lambda: CausalConv(4, 6, 3, 2, **SIMPLE).step(jnp.ones((2, 2, 4)), jnp.ones((2, 1, 4)))
    ),
    "causal_conv_step: state must be [N, (K-1)*dilation, C] = (2, 2, 4)": (
        lambda: CausalConv(4, 6, 3, **SIMPLE).step(jnp.ones((2, 3, 4)), jnp.ones((2, 1, 4)))
    ),
    "Conv: x must have C = 4 channels, as the kernel, but has 5. Got x [N, W, C] =": (
        lambda: Conv(4, 6, 3, **SIMPLE)(jnp.ones((2, 7, 5)))
    ),
    "Conv: x must be [..., *S, C] with 2 spatial axes": (
        lambda: Conv(4, 6, (3, 3), **SIMPLE)(jnp.ones(4))
    ),
    "Conv: strides must be a positive int, but got 0": (
        lambda: Conv(4, 6, 3, 0, **SIMPLE)(jnp.ones((2, 7, 4)))
    ),
    "Conv: kernel_dilation must be a positive int, but got -1": (
        lambda: Conv(4, 6, 3, kernel_dilation=-1, **SIMPLE)(jnp.ones((2, 7, 4)))
    ),
    'Conv: padding must be "SAME", "SAME_LOWER"': (
        lambda: Conv(4, 6, 3, padding="SAMEE", **SIMPLE)(jnp.ones((2, 7, 4)))
    ),
    "ConvTranspose: x must have C = 4 channels, as the kernel, but has 5": (
        lambda: ConvTranspose(4, 6, 3, **SIMPLE)(jnp.ones((2, 7, 5)))
    ),
    "ConvTranspose: x must be [..., *S, C] with 2 spatial axes, but has 2 axes": (
        lambda: ConvTranspose(4, 6, (3, 3), **SIMPLE)(jnp.ones((7, 4)))
    ),
    'ConvTranspose: padding must be "SAME", "VALID", "CIRCULAR"': (
        lambda: ConvTranspose(4, 6, 3, padding="REFLECT", **SIMPLE)(jnp.ones((2, 7, 4)))
    ),
    "ConvTranspose: padding must have one entry per spatial axis (2), but got 1": (
        lambda: ConvTranspose(4, 6, (3, 3), padding=((1, 1),), **SIMPLE)(jnp.ones((2, 7, 7, 4)))
    ),
    "ConvTranspose: strides must be a positive int, but got 0": (
        lambda: ConvTranspose(4, 6, 3, 0, **SIMPLE)(jnp.ones((2, 7, 4)))
    ),
    "ConvTranspose: mask must have the kernel's shape, (3, 4, 6), but has (3, 6, 4)": (
        lambda: ConvTranspose(4, 6, 3, mask=jnp.ones((3, 6, 4)), **SIMPLE)(jnp.ones((2, 7, 4)))
    ),
}


@pytest.mark.parametrize(("words", "call"), ERRORS.items())
def test_errors(words, call):
    with pytest.raises(ValueError, match="^" + re.escape(words)):
        call()


def test_unknown_keywords():
    with pytest.raises(TypeError, match="use_bais"):
        SeparableConv(4, 3, 3, use_bais=False, rngs=nnx.Rngs(0))


def test_causal_conv_of_packed_sequences():
    """Segments, states and lengths with any leading axes, as the function takes them."""
    options = {"kernel_dilation": 2, "feature_group_count": 4}
    layer = CausalConv(4, 8, 3, activation="silu", **options, **FIXED, rngs=nnx.Rngs(5))
    x, state = signal(3, 2, 9, 4), signal(3, 2, 4, 4)
    ids = np.arange(54).reshape(3, 2, 9) // 5
    beside = {"segment_ids": ids, "initial_state": state, "lengths": np.arange(6).reshape(3, 2)}
    y, after = layer(x, **beside, return_final_state=True)
    flat = {name: value.reshape(6, *value.shape[2:]) for name, value in beside.items()}
    wanted = jaxconv.causal_conv(
        x.reshape(6, 9, 4),
        layer.kernel[...],
        None if layer.bias is None else layer.bias[...],
        dilation=2,
        groups=4,
        activation="silu",
        return_final_state=True,
        **flat,
    )
    np.testing.assert_array_equal(y, wanted[0].reshape(3, 2, 9, 8))
    np.testing.assert_array_equal(after, wanted[1].reshape(3, 2, 4, 4))
    one, _ = layer.step(state[0], x[0])
    whole = layer(x[0], initial_state=state[0])
    np.testing.assert_allclose(one, whole, rtol=1e-12)
    with pytest.raises(ValueError, match=r"CausalConv: lengths must have the leading axes"):
        layer(x, lengths=np.zeros(6, int), return_final_state=True)
    with pytest.raises(ValueError, match="activation must be None"):
        CausalConv(4, 8, 3, activation="rely", rngs=nnx.Rngs(0))(x)
