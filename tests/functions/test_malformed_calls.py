"""Malformed calls of every public function and module end in words; nightly, many more of them."""

from __future__ import annotations

import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.nnx import Rngs

import jaxconv
from jaxconv import filters, linen, nnx
from support import argument_fuzz
from support.call_targets import SPEC, TARGETS
from support.errors import TAPS, K, X, assert_raises, ones
from support.malformed import JaxArray, Raises

conv = jaxconv.conv
CALLS = int(os.environ.get("JAXCONV_MALFORMED_CALLS", "40"))


def test_random_malformed_calls():
    """In child processes, because the failures to look for include crashes and hangs."""
    assert argument_fuzz.run(CALLS) == []


def test_the_fuzzer_finds_faults(monkeypatch):
    """Of each kind: foreign types of error, errors without the function's name, wrong results."""

    def fault(function, words=("conv",), compared=False):
        target = TARGETS["conv 2-D"]._replace(function=function, words=words, compared=compared)
        monkeypatch.setitem(argument_fuzz.TARGETS, "broken", target)
        call = argument_fuzz.Call(0)
        call.name, call.target, call.traced = "broken", target, False
        return call.fault()

    def raises(error):
        def function(**_):
            raise error

        return function

    assert "OverflowError" in fault(raises(OverflowError("conv: too large")))
    assert "raised in test_malformed_calls.py" in fault(raises(ValueError("conv: no")))
    assert "none of ('pool',)" in fault(lambda **_: conv(X, K), ("pool",))
    results = itertools.count(1.0)
    assert "another result" in fault(lambda **_: jnp.full(2, next(results)), compared=True)
    assert fault(lambda **_: conv(X, K)) is None
    assert fault(lambda **_: jnp.ones(2), compared=True) is None


def test_a_child_that_dies_is_a_fault_of_its_call(monkeypatch):
    monkeypatch.setattr(
        argument_fuzz,
        "COMMAND",
        ("-c", "import os; print('call 7 conv()', flush=True); os.abort()"),
    )
    made, faults = argument_fuzz.run_batch(7, 5, 10)
    assert made == 1
    assert len(faults) == 1
    assert faults[0].startswith("7 conv(): exit -6")


WRONG = {
    "an array of one axis for padding": (
        lambda: conv(X, K, groups=3, padding=np.array([1])),
        "padding",
    ),
    "endless padding": (lambda: conv(X, K, groups=3, padding=itertools.count()), "9 or more"),
    "a long range of strides": (lambda: conv(X, K, groups=3, strides=range(2**100)), "range(0, "),
    "an int of 5001 digits": (
        lambda: conv(X, K, groups=3, strides=10**5000),
        "strides must be at most",
    ),
    "bytes": (lambda: conv(X, K, groups=3, strides=b"\1\1"), r"b'\x01\x01'"),
    "a memory view": (lambda: conv(X, K, groups=3, dilation=memoryview(b"\1\1")), "memory at"),
    "a float for dilation": (
        lambda: conv(X, K, groups=3, dilation=2.0),
        "dilation must be a positive int, but got 2.0",
    ),
    "an object that raises": (
        lambda: conv(X, K, groups=3, strides=Raises()),
        "an object of type Raises",
    ),
    "an object as kernel_spatial": (
        lambda: jaxconv.conv_filter_grad(X, X, memoryview(np.array(2))),
        "conv_filter_grad: kernel_spatial",
    ),
    "no mesh axis": (
        lambda: jaxconv.sharding.halo_exchange(X, 1, ["time"]),
        "halo_exchange: there is no mesh axis ['time'] here",
    ),
    "a wide Gaussian": (lambda: filters.gaussian(1e300), "size must be at most 8,191"),
    "specs without strides": (
        lambda: jaxconv.receptive_field([SPEC.replace(strides=(0, 0))]),
        "receptive_field: strides of a ConvSpec must be a positive int, but got 0",
    ),
    "specs of strings": (
        lambda: jaxconv.receptive_field([SPEC.replace(padding="SAME")]),
        "receptive_field: padding of a ConvSpec must be a tuple",
    ),
    "specs with pairs of strings": (
        lambda: jaxconv.receptive_field([SPEC.replace(padding=("SAME", "SAME"))]),
        "padding of a ConvSpec must have (low, high) pairs",
    ),
    "specs of two ranks": (
        lambda: jaxconv.receptive_field([SPEC.replace(dilation=(1,))]),
        "dilation of a ConvSpec must be a tuple with one entry for each",
    ),
    "a module of too many parameters": (
        lambda: linen.DepthwiseConv((2**30, 2**30)).init(jax.random.key(0), ones(1, 9, 9, 4)),
        "DepthwiseConv: kernel would have shape (1073741824, 1073741824, 1, 4)",
    ),
    "a module of no channels": (
        lambda: linen.SeparableConv(3, (3, 3)).init(jax.random.key(0), ones(1, 9, 9, 0)),
        "SeparableConv: the number of channels, x's last extent, must be a positive int, but got 0",
    ),
    "padding of random keys": (
        lambda: jax.eval_shape(lambda: conv(X, K, padding=jax.random.split(jax.random.key(0), 2))),
        "conv: padding must be a name, an int or a sequence with one entry per axis",
    ),
    "padding of two axes of random keys": (
        lambda: conv(X, K, padding=jax.random.split(jax.random.key(0), (2, 2))),
        "conv: padding must be a name, an int or a sequence with one entry per axis",
    ),
    "an ambiguous flag": (
        lambda: jaxconv.causal_conv(ones(1, 7, 6), TAPS, return_final_state=ones(2)),
        "causal_conv: return_final_state must be True or False",
    ),
}


@pytest.mark.parametrize(("call", "words"), WRONG.values(), ids=WRONG)
def test_values(call, words):
    assert_raises(call, ValueError, words)


TYPES = {
    "what converts itself to no array": (
        lambda: conv(JaxArray(None), K),
        "conv: x.__jax_array__() must return an array",
    ),
    "what fails to convert itself": (
        lambda: conv(Raises(), K),
        "with ZeroDivisionError: from the object",
    ),
    "a dtype": (
        lambda: linen.DepthwiseConv(3, dtype="SAME").init(jax.random.key(0), ones(1, 9, 4)),
        "DepthwiseConv: dtype must be a dtype, but got 'SAME'",
    ),
    "text for an input": (
        lambda: linen.PointwiseConv(3).init(jax.random.key(0), "x"),
        "PointwiseConv: x must be an array (jax.Array or numpy.ndarray), but got str",
    ),
    "8-bit floats in a module": (
        lambda: linen.PointwiseConv(3).init(jax.random.key(0), jnp.ones((2, 4), jnp.float8_e4m3fn)),
        "PointwiseConv: inputs and parameters cannot be promoted to one dtype; pass dtype=",
    ),
    "text in explain": (
        lambda: jaxconv.explain(lambda x: conv(x, K), "x"),
        "conv: x must be an array",
    ),
    "an array of objects in cost": (
        lambda: jaxconv.cost(lambda x: conv(x, K), np.ones((1, 7, 5, 6), object)),
        "conv: x must be of a floating or complex dtype",
    ),
    "an array of text in accelerate": (
        lambda: jaxconv.accelerate(lambda x: conv(x, K))(np.array("SAME")),
        "accelerate: every leaf of the arguments must be an array or hashable",
    ),
}


@pytest.mark.parametrize(
    "names",
    [range(2**100), memoryview(np.ones((5, 4))), ("rows", 2)],
    ids=lambda n: type(n).__name__,
)
def test_mesh_axes_of_sharded_convolutions(names):
    call = lambda: jaxconv.sharding.conv(X, K, groups=3, axis_names=names)  # noqa: E731
    assert_raises(
        call, ValueError, "sharding.conv: axis_names must have one entry per spatial axis"
    )


@pytest.mark.parametrize("view", [np.ones((5, 4), np.float32), np.array(2)], ids=["2d", "0d"])
def test_memory_views_are_no_specs(view):
    assert_raises(
        lambda: jaxconv.receptive_field(memoryview(view)),
        TypeError,
        "receptive_field: give a function",
    )


@pytest.mark.parametrize("name", ["cost", "explain", "receptive_field", "summarize"])
def test_what_only_looks_like_an_array(name):
    """A masked array, and a module with ``shape`` and ``dtype``: the function's own errors."""
    for x in (np.ma.masked_array(X), np):
        with pytest.raises(TypeError, match="conv: x must be an array"):
            getattr(jaxconv, name)(lambda x: conv(x, K, groups=3), x)


class Six:
    """What Python takes for an int where it needs one."""

    def __index__(self):
        return 6


def test_sizes_of_modules_that_are_no_python_ints():
    """Arithmetic with them would be traced, or fail."""
    three, x = (3,), ones(1, 7, 6)

    def shapes(six):
        for module, sizes in {
            nnx.CausalConv: (six, six, three),
            nnx.DepthwiseConv: (six, three, six),
            nnx.PointwiseConv: (six, six),
            nnx.SeparableConv: (six, six, three, six),
        }.items():
            yield module(*sizes, rngs=Rngs(0))(x).shape[-1]
        for module in (
            linen.CausalConv(six, three),
            linen.DepthwiseConv(three, multiplier=six),
            linen.PointwiseConv(six),
            linen.SeparableConv(six, three, multiplier=six),
        ):
            yield module.init_with_output(jax.random.key(0), x)[0].shape[-1]

    for six in (np.int64(6), jnp.int32(6), Six()):
        found = []
        jax.eval_shape(lambda six=six, found=found: found.extend(shapes(six)))
        assert found == [6, 36, 6, 6] * 2


def test_strides_of_numpy_are_ints():
    for strides in (np.array([2, 2]), [np.int64(2)] * 2):
        y = jaxconv.conv_general_dilated(ones(1, 3, 8, 8), ones(4, 3, 3, 3), strides, "SAME")
        assert y.shape == (1, 4, 4, 4)


def test_inputs_that_are_too_large_for_a_transposed_convolution():
    layer = nnx.ConvTranspose(3, 4, (3, 3), rngs=Rngs(0))
    assert_raises(lambda: layer(2**32), TypeError, "ConvTranspose: x must be an array")


@pytest.mark.parametrize(("call", "words"), TYPES.values(), ids=TYPES)
def test_types(call, words):
    assert_raises(call, TypeError, words)


def test_what_converts_itself_to_an_array_is_one():
    y = conv(JaxArray(jnp.asarray(X)), K, groups=3)
    np.testing.assert_array_equal(y, conv(X, K, groups=3))


def test_functions_may_return_what_is_no_array():
    """Only their convolutions matter."""
    function = lambda x: {"name": "text", "y": conv(x, K, groups=3), "none": None}  # noqa: E731
    assert len(jaxconv.cost(function, X).convs) == 1
    assert len(jaxconv.explain(function, X).convs) == 1
    assert jaxconv.receptive_field(function, X).size == (3, 2)
    assert len(jaxconv.summarize(function, X).layers) == 1


def test_every_public_function_is_called():
    names = {words.split(":")[0] for target in TARGETS.values() for words in target.words}
    functions = {
        name for name in jaxconv.__all__ if callable(getattr(jaxconv, name)) and name.islower()
    }
    # ``install`` and ``uninstall`` change the process, and ``installed`` takes the same argument;
    # ``optimize_for_inference`` computes, and so cannot be traced first.
    assert not functions - names - {"install", "installed", "uninstall", "optimize_for_inference"}
