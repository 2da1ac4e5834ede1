"""``accelerate``: jaxconv computes every convolution of a program, and nothing else changes."""

from __future__ import annotations

import functools

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.custom_batching import custom_vmap
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxconv
from jaxconv import accelerate
from support.operators import NAMES, equations, primitives

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


X, KERNEL = normal(2, 7, 8, 6), normal(3, 2, 1, 6)


def conv(x, kernel, **options):
    """A depthwise convolution by lax, whose result has the shape of ``x``."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[-2],
        **options,
    )


def loss(x, kernel):
    return jnp.sum(jnp.sin(conv(x, kernel)))


def assert_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        scale = max(1.0, float(jnp.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=0, atol=200 * np.finfo(np.float32).eps * scale)


def bound_primitives(fn, *args) -> list[str]:
    """jaxconv's primitives that ``fn`` binds; it must not bind lax's convolution."""
    names = primitives(fn, *args)
    assert "conv_general_dilated" not in names
    return [name for name in names if name in (*NAMES, "fused_conv")]


def assert_accelerates(fn, *args):
    """The accelerated function has the values of ``fn``, and none of lax's convolutions."""
    assert "conv_general_dilated" in primitives(fn, *args)
    assert_close(jax.jit(accelerate(fn))(*args), jax.jit(fn)(*args))
    assert bound_primitives(accelerate(fn), *args)


# --- where a convolution may be -------------------------------------------------------------------


def in_scan(x, kernel):
    return lax.scan(lambda carry, k: (jnp.tanh(conv(carry, k)), carry.sum()), x, kernel[None])


def in_while(x, kernel):
    def body(state):
        return state[0] + 1, conv(state[1], kernel)

    return lax.while_loop(lambda state: conv(state[1], kernel)[0, 0, 0, 0] < state[0], body, (0, x))


def in_cond(x, kernel):
    return lax.cond(x[0, 0, 0, 0] > 0, lambda: conv(x, kernel), lambda: conv(x, kernel[::-1]))


def in_switch(x, kernel):
    return lax.switch(1, [lambda: x, lambda: conv(x, kernel), lambda: 2 * conv(x, kernel)])


def solved(x, kernel):
    """A linear solve has several jaxprs in one parameter."""

    def operator(y):
        return x + 0.01 * conv(y, kernel)

    def solve(matvec, b):
        return b - 0.01 * conv(b, kernel)

    _, linear = jax.linearize(operator, x)
    return lax.custom_linear_solve(lambda y: y + linear(y), x, solve, solve)


PLACES = {
    "itself": conv,
    "jit": jax.jit(conv),
    "jit in jit": jax.jit(lambda x, k: jax.jit(conv)(x, k) + jax.jit(conv)(2 * x, k)),
    "scan": in_scan,
    "while": in_while,
    "fori": lambda x, k: lax.fori_loop(0, 3, lambda _, y: jnp.tanh(conv(y, k)), x),
    "cond": in_cond,
    "switch": in_switch,
    "map": lambda x, k: lax.map(lambda y: conv(y[None], k), x),
    "linear solve": solved,
    "vmap": lambda x, k: jax.vmap(conv, (None, 0))(x, jnp.stack([k, 2 * k])),
    "named vmap": lambda x, k: jax.vmap(lambda y: lax.psum(conv(y[None], k), "n"), axis_name="n")(
        x
    ),
    "grad": jax.grad(loss, (0, 1)),
    "value and grad": jax.jit(jax.value_and_grad(loss, 1)),
    "jvp": lambda x, k: jax.jvp(loss, (x, k), (-x, k)),
    "forward over reverse": lambda x, k: jax.jvp(jax.grad(loss, 1), (x, k), (x, k))[1],
    "reverse over reverse": jax.grad(lambda x, k: jnp.sum(jax.grad(loss)(x, k) ** 2), 1),
    "hessian": lambda x, k: jax.hessian(loss, 1)(x[:1, :2, :3, :2], k[..., :2]),
    "per example": lambda x, k: jax.vmap(jax.grad(lambda k, x: loss(x[None], k)), (None, 0))(k, x),
    "remat": jax.grad(jax.checkpoint(loss), 1),
    "remat with a policy": jax.grad(
        jax.checkpoint(loss, policy=jaxconv.checkpoint_policies.convs_saveable)
    ),
}
by_place = pytest.mark.parametrize("fn", PLACES.values(), ids=PLACES)


@pytest.mark.sample(6)
@by_place
def test_accelerate(fn):
    assert_accelerates(fn, X, KERNEL)


@pytest.mark.parametrize("place", ["itself", "jit in jit", "scan", "grad"])
def test_values_without_jit(place):
    assert_close(accelerate(PLACES[place])(X, KERNEL), PLACES[place](X, KERNEL))


OUTSIDE = {
    "grad": lambda fn: jax.grad(lambda x, k: total(fn(x, k)), (0, 1)),
    "jvp": lambda fn: lambda x, k: jax.jvp(fn, (x, k), (-x, k)),
    "linearize": lambda fn: lambda x, k: jax.linearize(fn, x, k)[1](x, k),
    "vmap": lambda fn: lambda x, k: jax.vmap(fn, (None, 0))(x, jnp.stack([k, 2 * k])),
    "hessian product": lambda fn: (
        lambda x, k: jax.jvp(jax.grad(lambda k: total(fn(x, k))), (k,), (k,))[1]
    ),
}


def total(tree):
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(tree) if leaf.dtype == X.dtype)


@pytest.mark.sample(11)
@pytest.mark.parametrize("outside", OUTSIDE.values(), ids=OUTSIDE)
@pytest.mark.parametrize("place", ["itself", "jit in jit", "scan", "cond", "linear solve", "remat"])
def test_transformed_from_outside(place, outside):
    fn = PLACES[place]
    expected = jax.jit(outside(fn))(X, KERNEL)
    accelerated = outside(accelerate(fn))
    assert_close(jax.jit(accelerated)(X, KERNEL), expected)
    assert bound_primitives(accelerated, X, KERNEL)


@pytest.mark.sample(2)
@pytest.mark.parametrize("shapes", [((2, 8, 9, 6), (4, 3, 6, 4)), ((1, 5, 4), (2, 4, 6))], ids=str)
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_transposed_convolutions(shapes, padding):
    """With dilation of the left-hand side, in all of lax's layouts, and their gradients."""
    x, kernel = (normal(*shape) for shape in shapes)
    strides = (2,) * (x.ndim - 2)

    def fn(x, kernel):
        return lax.conv_transpose(x, kernel, strides, padding)

    assert_accelerates(fn, x, kernel)
    assert_accelerates(jax.grad(lambda *args: jnp.sum(jnp.sin(fn(*args))), (0, 1)), x, kernel)


def test_gradients_inside_become_jaxconvs_gradients():
    def fn(x, k):
        y = lax.conv_general_dilated(x, k, (2, 2), "SAME", feature_group_count=6)
        return jnp.sum(jnp.sin(y))

    x, k = normal(2, 6, 8, 9), normal(12, 1, 3, 3)
    assert set(bound_primitives(accelerate(jax.grad(fn, (0, 1))), x, k)) == NAMES


# --- custom rules ---------------------------------------------------------------------------------


@jax.custom_jvp
def with_jvp(x, kernel):
    return conv(x, kernel)


@with_jvp.defjvp
def _jvp(primals, tangents):
    (x, k), (dx, dk) = primals, tangents
    return conv(x, k), 2 * (
        conv(dx, k) + conv(x, dk)
    )  # twice the derivative, to show that the rule is used


@jax.custom_vjp
def with_vjp(x, kernel):
    return conv(x, kernel)


def _backward(saved, g):
    return jax.tree.map(lambda leaf: 2 * leaf, jax.vjp(conv, *saved)[1](g))


with_vjp.defvjp(lambda x, k: (conv(x, k), (x, k)), _backward)


@custom_vmap
def with_vmap(x, kernel):
    return conv(x, kernel)


@with_vmap.def_vmap
def _vmap(size, mapped, x, kernel):
    return 2 * jax.vmap(conv, [0 if axis else None for axis in mapped])(x, kernel), True


@pytest.mark.parametrize("fn", [with_jvp, with_vjp, with_vmap], ids=lambda fn: fn.__name__)
def test_custom_rules(fn):
    def outside(fn):
        if fn is with_vmap or getattr(fn, "__wrapped__", None) is with_vmap:
            return lambda x, k: jax.vmap(fn, (0, None))(jnp.stack([x, 2 * x]), k)
        return jax.grad(lambda x, k: jnp.sum(jnp.sin(fn(x, k))), (0, 1))

    expected = outside(fn)(X, KERNEL)
    assert_accelerates(fn, X, KERNEL)
    assert_accelerates(outside(fn), X, KERNEL)
    assert_close(outside(accelerate(fn))(X, KERNEL), expected)
    assert bound_primitives(outside(accelerate(fn)), X, KERNEL)


def test_custom_jvp_forward_and_reverse():
    for transform in (
        lambda fn: lambda x, k: jax.jvp(fn, (x, k), (x, k)),
        lambda fn: jax.grad(lambda x, k: jnp.sum(fn(x, k) ** 2), (0, 1)),
    ):
        assert_close(transform(accelerate(with_jvp))(X, KERNEL), transform(with_jvp)(X, KERNEL))
        assert bound_primitives(transform(accelerate(with_jvp)), X, KERNEL)


def test_symbolic_zeros_reach_a_backward_rule():
    seen = []

    @jax.custom_vjp
    def fn(x, k):
        return conv(x, k), conv(x, 2 * k)

    def forward(x, k):
        return fn(x.value, k.value), (x.value, k.value)

    def backward(saved, gs):
        seen.append([type(g) is jax.custom_derivatives.SymbolicZero for g in gs])
        return jax.vjp(conv, *saved)[1](gs[0])

    fn.defvjp(forward, backward, symbolic_zeros=True)

    def total(fn):
        return lambda x, k: jnp.sum(fn(x, k)[0])

    accelerated = jax.grad(total(accelerate(fn)), (0, 1))
    assert_close(accelerated(X, KERNEL), jax.grad(total(fn), (0, 1))(X, KERNEL))
    assert seen == [[False, True]] * 2


# --- meshes ---------------------------------------------------------------------------------------

needs_devices = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight (host) devices")


def sharded(x, kernel):
    mesh = jax.make_mesh((4,), ("b",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        lambda x, k: lax.psum(jnp.sum(jnp.sin(conv(x, k))), "b"),
        mesh=mesh,
        in_specs=(P("b"), P()),
        out_specs=P(),
        check_vma=True,
    )
    return mapped(x, kernel)


@needs_devices
def test_shard_map():
    """Types survive: a shared kernel's gradient is summed over the devices once."""
    x = normal(8, 5, 4, 6)
    expected = jax.grad(loss, (0, 1))(x, KERNEL)
    assert_close(jax.grad(accelerate(sharded), (0, 1))(x, KERNEL), expected)
    assert_close(jax.jit(accelerate(jax.grad(sharded, (0, 1))))(x, KERNEL), expected)
    assert bound_primitives(accelerate(jax.grad(sharded, (0, 1))), x, KERNEL)


@needs_devices
@pytest.mark.parametrize("features", [None, "f"])
def test_explicit_shardings(features):
    """The types of lax's results, those that are asked for among them."""
    x, kernel = normal(8, 5, 4, 6), normal(3, 2, 6, 4)
    out = P("b", None, None, features)

    def fn(x, k, out_sharding=out):
        return jnp.sum(jnp.sin(conv(x, k, out_sharding=out_sharding)))

    step = jax.grad(fn, (0, 1))
    expected = jax.grad(functools.partial(fn, out_sharding=None), (0, 1))(x, kernel)
    with jax.set_mesh(jax.make_mesh((4, 2), ("b", "f"), axis_types=(AxisType.Explicit,) * 2)):
        placed = jax.device_put(x, P("b")), jax.device_put(kernel, P(None, None, None, features))
        theirs, ours = jax.jit(step)(*placed), jax.jit(accelerate(step))(*placed)
        assert list(map(jax.typeof, ours)) == list(map(jax.typeof, theirs))
        assert bound_primitives(accelerate(step), *placed)
    assert_close(jax.tree.map(np.asarray, ours), expected)


# --- what is preserved ----------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit], ids=["eager", "jit"])
def test_traced_once(wrap):
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def fn(x, kernel):
        return conv(x, kernel)

    accelerated = wrap(accelerate(fn))
    for scale in (1.0, 2.0, 3.0):
        assert_close(accelerated(scale * X, KERNEL), conv(scale * X, KERNEL))


def test_a_repeated_jit_stays_one_jaxpr():
    block = jax.jit(lambda x, k: jnp.tanh(conv(x, k)))
    program = jax.make_jaxpr(accelerate(lambda x, k: block(block(x, k), k)))(X, KERNEL)
    first, second = program.jaxpr.eqns
    assert first.params["jaxpr"] is second.params["jaxpr"]
    assert first.params["name"] == "<lambda>"


def test_programs_without_convolutions_are_unchanged():
    block = jax.jit(lambda x: jnp.sin(x))
    programs = [jax.make_jaxpr(fn)(X).jaxpr.eqns[0].params for fn in (block, accelerate(block))]
    assert programs[0]["jaxpr"] is programs[1]["jaxpr"]


def test_donation_and_static_arguments():
    @functools.partial(jax.jit, static_argnums=2, static_argnames="flip", donate_argnums=0)
    def fn(x, kernel, times, *, flip=False):
        kernel = kernel[::-1] if flip else kernel
        for _ in range(times):
            x = conv(x, kernel)
        return x

    x = X + 0
    assert_close(accelerate(fn)(x, KERNEL, 2, flip=True), fn(X + 0, KERNEL, 2, flip=True))
    assert x.is_deleted()
    x = X + 0
    assert_close(jax.jit(accelerate(conv), donate_argnums=0)(x, KERNEL), conv(X, KERNEL))
    assert x.is_deleted()


def test_pytrees_keywords_and_leaves_that_are_not_arrays():
    def fn(tree, *, mode, flag=False):
        y = conv(tree["x"], tree["k"][0]) if mode == "same" and flag else tree["x"]
        return {"y": y, "mode": mode, "flag": flag, "none": None, "numbers": (1, 2.0)}

    result = accelerate(fn)({"x": X, "k": [KERNEL]}, mode="same", flag=True)
    assert_close(result.pop("y"), conv(X, KERNEL))
    assert result == {"mode": "same", "flag": True, "none": None, "numbers": (1, 2.0)}
    assert result["flag"] is True


def test_equal_values_of_different_types_are_different_arguments():
    accelerated = accelerate(lambda x, flag: conv(x, KERNEL) if flag is True else x)
    assert accelerated(X, 1) is not None
    assert_close(accelerated(X, 1), X)
    assert_close(accelerated(X, True), conv(X, KERNEL))


def test_names_of_functions_and_scopes():
    @jax.named_scope("block")
    def network(x, kernel):
        return conv(x, kernel)

    accelerated = accelerate(network)
    assert (accelerated.__name__, accelerated.__wrapped__) == ("network", network)
    bound = [e for e in equations(jax.make_jaxpr(accelerated)(X, KERNEL).jaxpr) if e.primitive.name]
    stacks = {str(e.source_info.name_stack) for e in bound if e.primitive.name in NAMES}
    assert stacks == {"block"}
    assert "jit_network" in jax.jit(accelerated).lower(X, KERNEL).as_text()


def test_effects(capfd):
    def fn(x, kernel):
        jax.debug.print("sum {}", jnp.sum(x), ordered=True)
        return conv(x, kernel)

    for accelerated in (accelerate(fn), jax.jit(accelerate(fn))):
        accelerated(jnp.ones_like(X), KERNEL).block_until_ready()
        jax.effects_barrier()
        assert capfd.readouterr().out == f"sum {X.size:.1f}\n"


def test_mutable_arrays():
    def fn(state, kernel):
        state[...] = conv(state[...], kernel)

    for accelerated in (accelerate(fn), jax.jit(accelerate(fn))):
        state = jax.new_ref(X + 0)
        accelerated(state, KERNEL)
        assert_close(state[...], conv(X, KERNEL))


def test_what_is_closed_over():
    """Arrays, and tracers of an outer transformation."""

    def outer(w):
        return jnp.sum(accelerate(lambda x: conv(x, w * KERNEL))(X))

    assert_close(jax.grad(outer)(jnp.float32(2)), jnp.sum(conv(X, KERNEL)))


def test_forced_implementations_apply():
    def forced(name):
        with jaxconv.use_implementation(name):
            (eqn,) = jax.make_jaxpr(accelerated)(X, KERNEL).jaxpr.eqns
        return eqn.params["implementation"]

    accelerated = accelerate(conv)
    assert [forced(name) for name in ("taps", None, "lax", "taps")] == ["taps", None, "lax", "taps"]
    with jaxconv.use_implementation("taps"), pytest.raises(ValueError, match="depthwise conv"):
        accelerate(conv)(X, normal(3, 2, 6, 4))


def test_policies_apply():
    """With convolutions saved, the backward pass does not recompute them."""

    def count(policy):
        block = jax.checkpoint(lambda x, k: jnp.sum(jnp.sin(conv(x, k)) ** 2), policy=policy)
        step = jax.grad(accelerate(block), 1)
        return bound_primitives(step, X, KERNEL).count("conv")

    assert count(jaxconv.checkpoint_policies.convs_saveable) < count(None)


def test_export_with_symbolic_sizes():
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 7, 8, 6"), jnp.float32)
    exported = jax.export.export(jax.jit(accelerate(conv)))(shape, KERNEL)
    assert_close(exported.call(X, KERNEL), conv(X, KERNEL))


def test_without_jit():
    with jax.disable_jit():
        assert_close(accelerate(jax.jit(conv))(X, KERNEL), conv(X, KERNEL))


# --- errors, and what is left to lax --------------------------------------------------------------


def test_convolutions_left_to_lax_are_reported_with_the_reason():
    def fn(x, kernel):
        return conv(x, kernel), conv(x.astype(jnp.int32), kernel.astype(jnp.int32))

    ours, left = jaxconv.explain(accelerate(fn), X, KERNEL).convs
    assert ours.operator is jaxconv.Operator.CONV
    assert (left.operator, left.implementation) == (None, "lax")
    assert "int32 operands" in left.reason
    assert_close(accelerate(fn)(X, KERNEL), fn(X, KERNEL))


@pytest.mark.parametrize("given", [3, None, "conv", X, jnp.ndarray], ids=str)
def test_only_functions(given):
    with pytest.raises(TypeError, match="fn must be a function"):
        accelerate(given)


def by_numpy(x):
    return np.sum(np.asarray(x))


def by_its_value(x):
    return conv(x, KERNEL) if x[0, 0, 0, 0] > 0 else -conv(x, KERNEL)


def by_its_count(x):
    return x.reshape(-1)[: int(x[0, 0, 0, 0])]


@pytest.mark.parametrize("fn", [by_numpy, by_its_value, by_its_count, np.sort])
def test_untraceable_functions_run_unchanged_and_are_reported(fn):
    accelerated = accelerate(fn)
    np.testing.assert_array_equal(accelerated(X), fn(X))
    report = jaxconv.explain(accelerated, X)
    assert report.convs == ()
    assert report.fallback_reason is not None
    assert report.fallback_reason.startswith("JAX cannot trace it (")
    sentence = f"{fn.__name__} was not converted and runs unchanged: {report.fallback_reason}"
    assert str(report) == report.unconverted == sentence


def test_untraceable_functions_fail_in_jit_as_before():
    with pytest.raises(jax.errors.TracerArrayConversionError):
        jax.jit(accelerate(by_numpy))(X)
    with pytest.raises(jax.errors.TracerArrayConversionError):
        jaxconv.explain(by_numpy, X)


def test_a_forced_implementation_needs_a_traceable_function():
    with jaxconv.use_implementation("taps"), pytest.raises(TypeError, match="traced array"):
        accelerate(by_numpy)(X)


def test_errors_of_the_function_are_unchanged():
    with pytest.raises(ValueError, match="6 // 1 != 5"):
        accelerate(conv)(X, normal(3, 2, 5, 6))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_integers_are_left_to_lax(dtype):
    def fn(x, kernel):
        return conv(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.int32)

    x, kernel = jnp.round(X), jnp.round(KERNEL)
    (left,) = jaxconv.explain(accelerate(fn), x, kernel).convs
    assert (left.operator, left.implementation) == (None, "lax")
    assert f"{dtype} operands" in left.reason
    assert "conv_general_dilated" in primitives(accelerate(fn), x, kernel)
    assert_close(jax.jit(accelerate(fn))(x, kernel), jax.jit(fn)(x, kernel))


@pytest.mark.sample(4)
@pytest.mark.parametrize("preferred", [None, "float32"])
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_floats_of_8_bits(dtype, preferred):
    """Values and gradients as by lax, the only implementation with 8-bit results."""

    def fn(x, kernel):
        y = conv(x.astype(dtype), kernel.astype(dtype), preferred_element_type=preferred)
        return y.astype(jnp.float32)

    (found,) = jaxconv.explain(accelerate(fn), X, KERNEL).convs
    assert found.operator is jaxconv.Operator.CONV
    assert preferred or found.implementation == "lax"
    energy = lambda fn: lambda *args: jnp.sum(jnp.sin(fn(*args)))  # noqa: E731
    gradient = jax.grad(energy(fn), (0, 1))
    for step in (fn, gradient):
        assert_close(jax.jit(accelerate(step))(X, KERNEL), jax.jit(step)(X, KERNEL))
    # When jaxconv's primitives are differentiated, cotangents are wider than residuals.
    outside = jax.grad(energy(accelerate(fn)), (0, 1))
    assert_close(outside(X, KERNEL), gradient(X, KERNEL))


def test_objects_that_are_flattened_to_new_arrays():
    @jax.tree_util.register_pytree_node_class
    class Pair:
        def __init__(self, stacked):
            self.stacked = stacked

        def tree_flatten(self):
            return (self.stacked[0], self.stacked[1]), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(children)

    fn = lambda pair, x: conv(x, pair.stacked[0])  # noqa: E731
    pair = Pair(jnp.stack([KERNEL, KERNEL]))
    assert_close(accelerate(fn)(pair, X), conv(X, KERNEL))


def test_unhashable_arguments_are_rejected():
    with pytest.raises(TypeError, match=r"an array or hashable, .* but got a set; pass a hashable"):
        accelerate(lambda x, options: x)(X, {1, 2})


def test_changes_in_place_are_rejected():
    @jax.tree_util.register_pytree_node_class
    class Counter:
        def __init__(self, count):
            self.count = count

        def tree_flatten(self):
            return (self.count,), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

    def fn(counter, x):
        counter.count = counter.count + 1
        return conv(x, KERNEL)

    with pytest.raises(ValueError, match="changes an object among its arguments in place"):
        accelerate(fn)(Counter(jnp.zeros(())), X)

    def harmless(batch):
        return conv(batch.pop("x"), KERNEL)

    assert_close(accelerate(harmless)({"x": X}), conv(X, KERNEL))
