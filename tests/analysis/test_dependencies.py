"""Receptive fields contain every pixel that an output depends on, whatever the program does."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback

import jaxconv

EXTENT = 24
K3, K7 = np.ones((3, 1, 1), np.float32), np.ones((7, 1, 1), np.float32)
LOWER = np.tril(np.ones((EXTENT, EXTENT), np.float32)) + np.eye(EXTENT, dtype=np.float32)
FULL = LOWER + 0.1 * LOWER.T


def over_space(fn):
    """``fn`` of the pixels of one feature, laid out on the last axis."""
    return lambda x: jnp.swapaxes(fn(jnp.swapaxes(x, 1, 2)), 1, 2)


def on_host(call):
    def fn(x):
        return call(lambda x: np.flip(x, 1), jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    return fn


def always(x, *branches):
    """A switch whose index does not depend on the input."""
    return lax.switch(jnp.argmax(jnp.zeros(3)), branches, x)


def loop(x):
    return lax.while_loop(
        lambda state: state[0] < 3, lambda state: (state[0] + 1, jaxconv.conv(state[1], K3)), (0, x)
    )[1]


def written(x):
    ref = jax.new_ref(jnp.zeros_like(x))
    ref[...] = jaxconv.conv(x, K3)
    return ref[...]


def position(x):
    """An index that depends on every pixel."""
    return jnp.argmax(x[0, :, 0])


def interleaved(x):
    """Even outputs see one pixel and odd ones all."""
    padding = ((0, 0, 0), (0, 1, 1), (0, 0, 0)), ((0, 0, 0), (1, 0, 1), (0, 0, 0))
    return lax.pad(x, 0.0, padding[0]) + lax.pad(lax.sort(x, dimension=1), 0.0, padding[1])


def max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 1), (1, 1, 1), "SAME")


def windows(x):
    """Two operands, combined by a function, and dilated."""
    results = lax.reduce_window(
        (x, 2 * x),
        (np.float32(0), np.float32(0)),
        lambda a, b: (a[0] + b[0], a[1] + b[1]),
        (1, 5, 1),
        (1, 1, 1),
        "VALID",
        base_dilation=(1, 2, 1),
    )
    return results[1]


def solved(x):
    multiply = lambda v: (FULL @ v[0])[None]  # noqa: E731
    solve = lambda _, b: jnp.linalg.solve(FULL, b[0])[None]  # noqa: E731
    return lax.custom_linear_solve(multiply, x, solve, solve)


WHOLE = {
    "cond on the input": (lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x), "reduce_sum"),
    "top_k": (over_space(lambda x: lax.top_k(x, EXTENT)[0]), "top_k"),
    "indices of top_k": (
        over_space(lambda x: lax.top_k(x, EXTENT)[1].astype(np.float32)),
        "top_k",
    ),
    "sort": (lambda x: lax.sort(x, dimension=1), "sort"),
    "sort by keys": (lambda x: lax.sort((x, 2 * x), dimension=1, num_keys=1)[1], "sort"),
    "cumlogsumexp": (lambda x: lax.cumlogsumexp(x, 1), "cumlogsumexp"),
    "reversed cumlogsumexp": (lambda x: lax.cumlogsumexp(x, 1, reverse=True), "cumlogsumexp"),
    "cumsum": (lambda x: lax.cumsum(x, 1), "cumsum"),
    "reversed cumprod": (lambda x: lax.cumprod(x, 1, reverse=True), "cumprod"),
    "cummax": (lambda x: lax.cummax(x, 1), "cummax"),
    "cummin": (lambda x: lax.cummin(x, 1), "cummin"),
    "triangular_solve": (
        lambda x: lax.linalg.triangular_solve(LOWER[None], x, left_side=True, lower=True),
        "triangular_solve",
    ),
    "custom_linear_solve": (solved, "custom_linear_solve"),
    "solve": (lambda x: jnp.linalg.solve(FULL, x[0])[None], "custom_linear_solve"),
    "qr": (lambda x: jnp.linalg.qr(x)[0], "qr"),
    "pure_callback": (on_host(jax.pure_callback), "pure_callback"),
    "io_callback": (on_host(io_callback), "io_callback"),
    "fft": (lambda x: jnp.fft.fft(x, axis=1).real, "fft"),
    "inverse of rfft": (lambda x: jnp.fft.irfft(jnp.fft.rfft(x, axis=1) ** 2, axis=1), "fft"),
    "gather": (lambda x: x[:, jnp.argsort(x[0, :, 0])], "gather"),
    "dynamic_slice": (
        lambda x: lax.dynamic_slice_in_dim(x, position(x), EXTENT // 2, 1),
        "dynamic_slice",
    ),
    "dynamic_update_slice": (
        lambda x: lax.dynamic_update_slice_in_dim(x, x[:, 3:12], position(x), 1),
        "dynamic_update_slice",
    ),
    "scatter": (lambda x: x.at[:, position(x)].set(0.0), "argmax"),
    "while": (loop, "while"),
    "scan": (
        lambda x: lax.scan(lambda c, _: (jaxconv.conv(c, K3), None), x, None, length=3)[0],
        "scan",
    ),
    "scan over space": (
        over_space(lambda x: lax.scan(lambda c, x: (c + x, c + x), 0.0, x[0, 0])[1][None, None]),
        "scan",
    ),
    "softmax": (lambda x: jax.nn.softmax(x, 1), "reduce_sum"),
    "matrix product": (lambda x: jnp.einsum("ts,nsc->ntc", FULL, x), "dot_general"),
    "reduce": (
        lambda x: x + lax.reduce(x, np.float32(0), lambda a, b: a + 2 * b, (1,))[:, None],
        "reduce",
    ),
    "mutable array": (written, "swap"),
    "interleaved": (interleaved, "sort"),
    "gradient of max pooling": (
        jax.grad(lambda x: jnp.sum(max_pool(x) ** 2)),
        "select_and_scatter_add",
    ),
}

SIZES = {
    "conv in the first branch": (
        lambda x: lax.cond(jnp.sum(jnp.ones(3)) > 0, lambda x: jaxconv.conv(x, K7), lambda x: x, x),
        7,
    ),
    "conv in the second branch": (
        lambda x: lax.cond(jnp.sum(jnp.ones(3)) < 0, lambda x: x, lambda x: jaxconv.conv(x, K7), x),
        7,
    ),
    "switch": (lambda x: always(x, jnp.sin, max_pool, lambda x: jnp.roll(x, 2, 1)), 4),
    "nested switches": (
        lambda x: always(x, jnp.sin, lambda x: always(x, max_pool, lambda x: 2 * x)),
        3,
    ),
    "one value twice": (lambda x: always(x, lambda x: (x, x), lambda x: (max_pool(x), x))[0], 3),
    "platform": (lambda x: lax.platform_dependent(x, cpu=max_pool, default=jnp.sin), 3),
    "conv before a cond": (lambda x: always(jaxconv.conv(x, K7), jnp.sin, jnp.cos), 7),
    "split": (lambda x: jnp.split(jnp.concatenate([x, max_pool(x)], 1), 2, 1)[0], 1),
    "second part of a split": (
        lambda x: jnp.split(jnp.concatenate([x, max_pool(x)], 1), 2, 1)[1],
        3,
    ),
    "stacked": (lambda x: jnp.stack([x, max_pool(x)], 2).max(2), 3),
    "unstacked": (lambda x: jnp.stack(jnp.unstack(max_pool(x), axis=0)), 3),
    "tiled": (lambda x: jnp.tile(max_pool(x), (1, 1, 3)), 3),
    "second operand": (lambda x: jnp.einsum("fc,nsc->nfs", np.ones((2, 1)), x).mT, 1),
    "barrier": (lambda x: lax.optimization_barrier((x, max_pool(x)))[1], 3),
    "other result of a barrier": (lambda x: lax.optimization_barrier((x, max_pool(x)))[0], 1),
    "top_k of features": (lambda x: lax.top_k(max_pool(x), 1)[0], 3),
    "cumsum of features": (lambda x: lax.cumsum(max_pool(x), 2), 3),
    "slice of features": (lambda x: lax.dynamic_slice_in_dim(max_pool(x), 0, 1, 2), 3),
    "dilated windows": (windows, 3),
    "tangent of max pooling": (lambda x: jax.jvp(max_pool, (x,), (x,))[1], 3),
}


def depends(fn, x, at: int) -> set[int]:
    """The pixels of ``x`` whose change changes output ``at``."""
    fn = jax.jit(fn)
    before = np.asarray(fn(x))[0, at]
    pixels = set()
    for pixel in range(x.shape[1]):
        for change in (-5.0, 0.3, 7.0):
            changed = x.copy()
            changed[0, pixel] += change
            if not np.array_equal(np.asarray(fn(changed))[0, at], before):
                pixels.add(pixel)
    return pixels


CASES = {name: fn for name, (fn, _) in (WHOLE | SIZES).items()}


@pytest.mark.lenient
@pytest.mark.parametrize("name", CASES)
def test_fields_contain_every_pixel_that_an_output_depends_on(name):
    fn = CASES[name]
    x = np.random.default_rng(0).uniform(0.5, 2, (1, EXTENT, 1)).astype(np.float32)
    field = jaxconv.receptive_field(fn, x)[0]
    middle = jax.eval_shape(fn, x).shape[1] // 2
    for at in (middle, middle + 1):
        pixels = depends(fn, x, at)
        assert pixels
        start = field.offset + field.stride * at
        assert min(pixels) >= math.floor(start)
        assert max(pixels) <= math.ceil(start) + field.size - 1


@pytest.mark.lenient
@pytest.mark.parametrize("name", WHOLE)
def test_operations_that_may_read_everything_are_named(name):
    fn, through = WHOLE[name]
    field = jaxconv.receptive_field(fn, np.ones((1, EXTENT, 1), np.float32))
    assert (field.size, field.stride, field.offset) == ((EXTENT,), (0,), (0,))
    assert field[0].whole
    assert through in field[0].through
    assert "whole input (through " in str(field)
    assert "whole input (through " in repr(field)


@pytest.mark.lenient
@pytest.mark.parametrize("name", SIZES)
def test_known_operations_are_followed_exactly(name):
    fn, size = SIZES[name]
    field = jaxconv.receptive_field(fn, np.ones((1, EXTENT, 1), np.float32))
    assert field.size == (size,)
    assert (field[0].whole, field[0].through) == (False, ())
    assert "whole" not in str(field)
    assert "whole" not in repr(field)


def test_only_the_axis_that_is_read_whole_is_named():
    field = jaxconv.receptive_field(lambda x: lax.cumsum(x, 2), np.ones((1, 5, 8, 3), np.float32))
    assert (field.size, field.stride) == ((1, 8), (1, 0))
    assert str(field) == (
        "size (1, 8), stride (1, 0), offset (0, 0); axis 1: whole input (through cumsum)"
    )
    assert repr(field).splitlines()[0].split() == ["axis", "size", "stride", "offset", "note"]


UNARY = (
    *(lax.abs, lax.neg, lax.sign, lax.floor, lax.ceil, lax.round, lax.is_finite, lax.integer_pow),
    *(lax.sqrt, lax.rsqrt, lax.cbrt, lax.exp, lax.exp2, lax.expm1, lax.log, lax.log1p, lax.square),
    *(lax.sin, lax.cos, lax.tan, lax.asin, lax.acos, lax.atan, lax.sinh, lax.cosh, lax.tanh),
    *(lax.asinh, lax.acosh, lax.atanh, lax.logistic, lax.erf, lax.erfc, lax.erf_inv, lax.lgamma),
    *(lax.digamma, lax.bessel_i0e, lax.bessel_i1e, lax.reciprocal, lax.stop_gradient, jnp.copy),
    *(jax.nn.gelu, jax.nn.silu, jax.nn.softplus, jax.nn.elu, jax.nn.hard_swish, jax.nn.log_softmax),
)
BINARY = (
    *(lax.add, lax.sub, lax.mul, lax.div, lax.rem, lax.pow, lax.atan2, lax.nextafter),
    *(lax.max, lax.min, lax.eq, lax.ne, lax.lt, lax.le, lax.gt, lax.ge, lax.complex),
    *(lax.igamma, lax.igammac, lax.zeta, lax.polygamma),
)


@pytest.mark.lenient
@pytest.mark.parametrize("fn", [*UNARY, *BINARY], ids=lambda fn: fn.__name__)
def test_elementwise_functions_read_one_pixel(fn):
    def call(x):
        if fn is lax.integer_pow:
            return fn(x, 3)
        return fn(x) if fn in UNARY else fn(x, 2 * x)

    field = jaxconv.receptive_field(call, np.ones((1, 9, 2), np.float32))
    assert (field.size, field.stride, field.offset) == ((1,), (1,), (0,))


def test_elementwise_functions_of_other_dtypes_and_scalars():
    def call(x):
        bits = lax.bitcast_convert_type(x, np.uint32)
        bits = ~(bits << np.uint32(1)) & (bits >> np.uint32(3)) | lax.clz(bits) ^ bits
        x = lax.clamp(0.0, lax.convert_element_type(lax.population_count(bits), np.float32), 1.0)
        return jnp.where(x > 0.5, lax.reduce_precision(x, 5, 7), lax.real(lax.conj(x)))

    field = jaxconv.receptive_field(call, np.ones((1, 9, 2), np.float32))
    assert (field.size, field.stride, field.offset) == ((1,), (1,), (0,))
