"""The linen modules: Flax's own, computed by jaxconv, and the new ones against Flax's."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from flax import linen

import jaxconv
from jaxconv.linen import (
    CausalConv,
    Conv,
    ConvTranspose,
    DepthwiseConv,
    PointwiseConv,
    SeparableConv,
)
from support.cases import operand
from support.operators import NAMES, assert_uses_primitives, primitives

# Flax promotes the inputs to the dtype of the parameters.
pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.lenient]

KEY = 3
WIDE = {"param_dtype": np.float64}


def signal(*shape):
    return jnp.asarray(operand(shape, np.float64))


def drawn(key, shape, dtype):
    """An initializer that is not compiled for each shape, as Flax's are."""
    return signal(*shape).astype(dtype)


def small(kind, *args, **fixed):
    return lambda **options: kind(*args, **{"kernel_init": drawn, **fixed, **options})


MODULES = {
    "Conv": small(Conv, 4, 3),
    "ConvTranspose": small(ConvTranspose, 4, 3, 2),
    "DepthwiseConv": small(DepthwiseConv, 3, 2),
    "PointwiseConv": small(PointwiseConv, 4),
    "SeparableConv": small(SeparableConv, 4, 3),
    "CausalConv": small(CausalConv, 4, 3),
}
every_module = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)


def compiled(function):
    """Compiled three times faster, for programs that run once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def initialized(module, x):
    return module.init(jax.random.key(KEY), x)


def value_and_gradients(apply):
    def loss(variables, x):
        y = apply(variables, x)
        return jnp.sum(jnp.sin(y)), y  # curved, so that gradients depend on the value

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)


def assert_computes(module, wanted, x):
    """``module`` is ``wanted(variables, x)``, gradients included, with jaxconv's primitives."""
    shapes = jax.eval_shape(module.init, jax.random.key(KEY), x)
    variables = jax.tree.map(lambda leaf: signal(*leaf.shape), shapes)
    got, want = (compiled(value_and_gradients(f))(variables, x) for f in (module.apply, wanted))
    assert_trees_all_close(got, want, rtol=1e-11, atol=1e-11)
    assert_uses_primitives(value_and_gradients(module.apply), variables, x, binds=NAMES)


def assert_same(ours, theirs, x):
    """The same parameters, initial values and results."""
    assert_trees_all_equal(initialized(ours, x), initialized(theirs, x))
    assert_computes(ours, theirs.apply, x)


# --- Flax's own -----------------------------------------------------------------------------------

CONVS = {
    "one axis": {"kernel_size": 3},
    "strides": {"kernel_size": (3, 2), "strides": (2, 3), "padding": "VALID"},
    "circular": {"kernel_size": (4, 3), "padding": "CIRCULAR", "kernel_dilation": (1, 2)},
    "causal": {"kernel_size": [3], "padding": "CAUSAL", "strides": None},
    "pairs": {"kernel_size": (3, 2), "padding": ((1, 0), 3), "input_dilation": (1, 2)},
    "grouped": {"kernel_size": 3, "feature_group_count": 2, "use_bias": False},
    "mask": {"kernel_size": 3, "mask": np.tri(18, 4).reshape(3, 6, 4)},
}


@pytest.mark.sample(7)
@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS)
def test_conv(options):
    ours, theirs = (kind(4, **options, **WIDE) for kind in (Conv, linen.Conv))
    rank = 1 if isinstance(ours.kernel_size, int) else len(ours.kernel_size)
    assert_same(ours, theirs, signal(2, *(7, 8)[:rank], 6))


@pytest.mark.sample(5)
@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR", 1, [(2, 0)]])
@pytest.mark.parametrize(("k", "s"), [(1, 3), (4, 2), (5, 1)])
def test_conv_transpose(k, s, padding, transpose_kernel):
    options = {"strides": (s,), "padding": padding, "kernel_dilation": (2,)}
    options |= {"transpose_kernel": transpose_kernel, "kernel_init": drawn, **WIDE}
    ours, theirs = (kind(3, k, **options) for kind in (ConvTranspose, linen.ConvTranspose))
    x = signal(2, 5, 2)
    variables = initialized(theirs, x)
    assert_trees_all_equal(initialized(ours, x), variables)
    assert_trees_all_close(ours.apply(variables, x), theirs.apply(variables, x), atol=1e-12)


def test_conv_transpose_in_two_axes():
    options = {"strides": (2, 3), "mask": np.tri(24, 15).reshape(3, 4, 6, 5)[:, :, :3], **WIDE}
    ours, theirs = (kind(5, (3, 4), **options) for kind in (ConvTranspose, linen.ConvTranspose))
    assert_same(ours, theirs, signal(2, 4, 3, 3))


def test_isinstance():
    assert isinstance(MODULES["Conv"](), linen.Conv)
    assert isinstance(MODULES["ConvTranspose"](), linen.ConvTranspose)


def test_conv_with_another_conv_general_dilated():
    x = signal(2, 7, 6)
    for option in (
        {"conv_general_dilated": jax.lax.conv_general_dilated},
        {"conv_general_dilated_cls": lambda: jax.lax.conv_general_dilated},
    ):
        layer = MODULES["Conv"](**option, **WIDE)
        bound = set(primitives(layer.apply, initialized(layer, x), x))
        assert "conv_general_dilated" in bound
        assert not bound & NAMES


class Network(linen.Module):
    """A network of the same layers, ours or Flax's."""

    layers: tuple

    @linen.compact
    def __call__(self, x):
        for make in self.layers:
            x = make()(linen.relu(x))
        return x


def network(conv, conv_transpose):
    return Network((lambda: conv(4, 3), lambda: conv_transpose(5, 3), lambda: conv(6, 1)))


def test_automatic_names():
    x = signal(2, 7, 6).astype(np.float32)
    ours, theirs = network(Conv, ConvTranspose), network(linen.Conv, linen.ConvTranspose)
    variables = initialized(ours, x)
    assert set(variables["params"]) == {"Conv_0", "ConvTranspose_0", "Conv_1"}
    assert_trees_all_equal(variables, initialized(theirs, x))
    assert_trees_all_close(ours.apply(variables, x), theirs.apply(variables, x), atol=1e-5)


def test_conv_accepts_what_flax_accepts():
    ours, theirs = (kind(4, 3, padding="VALID", kernel_init=drawn) for kind in (Conv, linen.Conv))
    integers = jnp.arange(20).reshape(1, 10, 2)
    variables = initialized(theirs, integers)
    assert_trees_all_close(
        ours.apply(variables, integers), theirs.apply(variables, integers), rtol=1e-6
    )
    for narrow in (signal(1, 2, 2), signal(0, 5, 2)):
        assert ours.apply(variables, narrow).shape == theirs.apply(variables, narrow).shape


# --- the new ones ---------------------------------------------------------------------------------


@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_conv(multiplier):
    ours = DepthwiseConv((3, 2), multiplier, strides=2, **WIDE)
    theirs = linen.Conv(4 * multiplier, (3, 2), strides=2, feature_group_count=4, **WIDE)
    assert_same(ours, theirs, signal(2, 7, 6, 4))


@pytest.mark.sample(3)
@pytest.mark.parametrize("shape", [(6,), (2, 7, 6), (2, 3, 5, 4, 2, 6)])
def test_pointwise_conv(shape):
    assert_same(PointwiseConv(4, **WIDE), linen.Dense(4, **WIDE), signal(*shape))


@pytest.mark.parametrize("strides", [2, [2, 2]])
def test_pointwise_conv_with_strides(strides):
    whole = PointwiseConv(4)

    def skipped(variables, x):
        return whole.apply(variables, x)[..., ::2, ::2, :]

    assert_computes(PointwiseConv(4, strides), skipped, signal(3, 7, 4, 6))
    if strides != 2:
        assert_computes(PointwiseConv(4, strides), skipped, signal(2, 3, 7, 4, 6))


def test_separable_conv():
    depthwise = linen.Conv(8, (3, 2), strides=2, feature_group_count=4, use_bias=False)
    pointwise = linen.Conv(5, (1, 1))

    def by_flax(variables, x):
        params = variables["params"]
        y = depthwise.apply({"params": {"kernel": params["depthwise_kernel"]}}, x)
        kernel = params["pointwise_kernel"][None, None]
        return pointwise.apply({"params": {"kernel": kernel, "bias": params["bias"]}}, y)

    ours, x = SeparableConv(5, (3, 2), 2, strides=2, kernel_init=drawn), signal(2, 7, 6, 4)
    shapes = {name: leaf.shape for name, leaf in initialized(ours, x)["params"].items()}
    assert shapes == {
        "depthwise_kernel": (3, 2, 1, 8),
        "pointwise_kernel": (8, 5),
        "bias": (5,),
    }
    assert_computes(ours, by_flax, x)


@pytest.mark.parametrize("padding", ["FULL", "REPLICATE", ("CAUSAL", "SAME_LOWER")])
def test_padding(padding):
    """The new modules take every padding that the functions take."""
    x = signal(2, 7, 6, 4)
    layer = DepthwiseConv((3, 2), padding=padding, kernel_init=drawn, **WIDE)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    wanted = jaxconv.depthwise_conv(x, variables["params"]["kernel"], padding=padding)
    assert_trees_all_close(y, wanted, rtol=1e-12)


@pytest.mark.sample(4)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("strides", "dilation"), [(1, 3), (2, 1)])
def test_causal_conv(groups, strides, dilation):
    options = {"strides": strides, "kernel_dilation": dilation, "feature_group_count": groups}
    theirs = linen.Conv(8, 3, padding="CAUSAL", **options, **WIDE)
    assert_same(CausalConv(8, 3, **options, **WIDE), theirs, signal(2, 9, 4))


@pytest.mark.sample(3)
@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 4], [9], [1, 4, 1, 1, 1, 1]])
def test_causal_conv_streams(chunks):
    """Any chunking equals the whole."""
    layer = CausalConv(8, 3, kernel_dilation=2, feature_group_count=2, bias_init=drawn, **WIDE)
    x = signal(2, 9, 4)
    whole, variables = layer.init_with_output(jax.random.key(KEY), x)
    state, outputs = layer.apply(variables, 2, method="init_state"), []
    assert (state.shape, state.dtype) == ((2, 4, 4), np.float64)
    for chunk in jnp.split(x, np.cumsum(chunks)[:-1], axis=1):
        y, state = layer.apply(variables, state, chunk, method=CausalConv.step)
        outputs.append(y)
    assert_trees_all_close(jnp.concatenate(outputs, axis=1), whole, rtol=1e-12, atol=1e-12)


def test_causal_conv_starts_from_a_stream():
    """``init`` with ``step`` gives the same parameters as ``init`` with the call."""
    layer, x = CausalConv(4, 3, **WIDE), signal(2, 1, 6)
    state = jnp.zeros((2, 2, 6))
    assert_trees_all_equal(
        layer.init(jax.random.key(KEY), state, x, method="step"), initialized(layer, x)
    )


# --- what all share -------------------------------------------------------------------------------


@pytest.mark.sample(3)
@every_module
def test_leading_batch_axes(make):
    x = signal(2, 3, 5, 7, 6)
    layer = make(**WIDE)
    one_axis, variables = layer.init_with_output(jax.random.key(0), x.reshape(-1, 7, 6))
    tail = one_axis.shape[1:]
    assert_trees_all_close(layer.apply(variables, x), one_axis.reshape(2, 3, 5, *tail), rtol=1e-12)
    assert_trees_all_close(layer.apply(variables, x[1, 2, 4]), one_axis[-1], rtol=1e-12)
    assert layer.apply(variables, x[:, :0]).shape == (2, 0, 5, *tail)


@pytest.mark.sample(5)
@every_module
def test_dtypes(make):
    x = signal(2, 7, 6).astype(np.float32)
    wide, variables = make().init_with_output(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    layer = make(dtype=jnp.bfloat16)
    narrow = layer.apply(variables, x)
    assert narrow.dtype == jnp.bfloat16
    error = jnp.abs(narrow.astype(np.float32) - wide)
    assert 0 < jnp.max(error) < 0.03 * jnp.max(jnp.abs(wide))
    gradients = jax.grad(lambda variables: jnp.sum(layer.apply(variables, x)))(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {np.dtype(np.float32)}
    assert make().apply(variables, jnp.ones((2, 7, 6), int)).dtype == np.float32


@pytest.mark.parametrize("name", sorted({*MODULES} - {"Conv"}))  # Flax's has no such attribute
def test_preferred_element_type(name):
    layer = MODULES[name](param_dtype=jnp.bfloat16, preferred_element_type=np.float32)
    x = signal(2, 7, 6).astype(jnp.bfloat16)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert y.dtype == np.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(jnp.bfloat16)}


@pytest.mark.sample(5)
@every_module
def test_transforms(make):
    """jit, vmap over members, and the module lifted by ``linen.vmap`` and ``linen.remat``."""
    x = signal(2, 7, 6)
    layer = make(**WIDE)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert_trees_all_close(jax.jit(layer.apply)(variables, x), y, rtol=1e-12)
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), variables)
    wanted = jnp.stack([y, layer.apply(jax.tree.map(lambda leaf: 2 * leaf, variables), x)])
    members = jax.vmap(layer.apply, in_axes=(0, None))(both, x)
    assert_trees_all_close(members, wanted, rtol=1e-12)
    lifted = linen.vmap(
        linen.remat(type(layer)), variable_axes={"params": 0}, split_rngs={"params": True}
    )
    fields = {
        name: getattr(layer, name)
        for name in layer.__dataclass_fields__
        if name not in ("parent", "name")
    }
    assert_trees_all_close(lifted(**fields).apply(both, jnp.stack([x, x])), wanted, rtol=1e-12)


@every_module
def test_tabulate(make):
    layer = make(name="shown")
    table = layer.tabulate(jax.random.key(0), signal(2, 7, 6), console_kwargs={"width": 300})
    table = re.sub(r"\x1b\[[\d;]*m", "", table)  # its colors
    assert type(layer).__name__ in table
    for name, leaf in initialized(layer, signal(2, 7, 6))["params"].items():
        assert f"{name}: float32[{','.join(map(str, leaf.shape))}]" in table


@every_module
def test_no_bias(make):
    layer = make(use_bias=False)
    y, variables = layer.init_with_output(jax.random.key(0), jnp.zeros((2, 7, 6)))
    assert "bias" not in variables["params"]
    assert not jnp.any(y)


def test_variance():
    """Outputs of the depthwise part have the variance of the inputs: the fan-in is prod(K)."""
    params = initialized(SeparableConv(64, (3, 2)), signal(1, 3, 2, 4096))["params"]
    assert 0.95 < 6 * jnp.var(params["depthwise_kernel"]) < 1.05
    assert 0.95 < 4096 * jnp.var(params["pointwise_kernel"]) < 1.05


ERRORS = {
    "DepthwiseConv: multiplier must be a positive int, but got 0": small(DepthwiseConv, 3, 0),
    "DepthwiseConv: kernel_size must be an int or a sequence of ints for 1 to 3 spatial axes": (
        small(DepthwiseConv, (3, 3, 3, 3))
    ),
    "PointwiseConv: features must be a positive int, but got -1": small(PointwiseConv, -1),
    "SeparableConv: kernel_size[0] must be a positive int, but got None": (
        small(SeparableConv, 4, None)
    ),
    "separable_conv: padding must be one of SAME, SAME_LOWER": (
        small(SeparableConv, 4, 3, padding="SAMME")
    ),
    "CausalConv: out_features must be a multiple of feature_group_count, but 4 % 3 = 1": (
        small(CausalConv, 4, 3, feature_group_count=3)
    ),
    "ConvTranspose: kernel_size[1] must be a positive int, but got 0": (
        small(ConvTranspose, 4, (3, 0))
    ),
    'ConvTranspose: padding must be "SAME", "VALID", "CIRCULAR"': (
        small(ConvTranspose, 4, 3, padding="CAUSAL")
    ),
    "ConvTranspose: mask must have the kernel's shape, (3, 6, 4), but has (3, 4)": (
        small(ConvTranspose, 4, 3, mask=np.ones((3, 4)))
    ),
}


@pytest.mark.parametrize(("words", "make"), ERRORS.items())
def test_errors(words, make):
    with pytest.raises(ValueError, match="^" + re.escape(words)):
        initialized(make(), signal(2, 7, 6))


@pytest.mark.parametrize("name", [name for name in MODULES if name != "Conv"])
def test_scalars_are_errors(name):
    with pytest.raises(ValueError, match=rf"^{name}: x must be \[\.\.\., \*S, C\]"):
        MODULES[name]().init(jax.random.key(0), 1.0)


def test_streaming_errors():
    x = signal(2, 1, 6)
    strided = CausalConv(4, 3, strides=2, kernel_init=drawn)
    with pytest.raises(ValueError, match=r"^CausalConv\.step: streaming needs strides=1"):
        strided.apply(initialized(strided, x), signal(2, 2, 6), x, method="step")
    with pytest.raises(
        ValueError, match=r"^CausalConv\.init_state: the number of channels of the state"
    ):
        strided.apply({}, 2, method="init_state")


def test_causal_conv_of_packed_sequences():
    layer = CausalConv(8, 3, feature_group_count=4, activation=jax.nn.silu)
    x, state = (signal(2, length, 4).astype(np.float32) for length in (9, 2))
    ids = np.arange(18).reshape(2, 9) // 5
    beside = {"segment_ids": ids, "initial_state": state, "lengths": np.array([3, 9])}
    variables = layer.init(jax.random.key(0), x)
    got = layer.apply(variables, x, **beside, return_final_state=True)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    wanted = jaxconv.causal_conv(
        x, kernel, bias, groups=4, activation="silu", return_final_state=True, **beside
    )
    assert_trees_all_equal(got, wanted)
    one, _ = layer.apply(variables, state, x, method="step")
    whole = layer.apply(variables, x, initial_state=state)
    np.testing.assert_allclose(one, whole, rtol=1e-5, atol=1e-6)
