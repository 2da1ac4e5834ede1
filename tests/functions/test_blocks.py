"""Partial, gated and dynamic convolutions and blurred pooling, against NumPy loops and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
from support import oracle
from support.cases import BASIC, by_rank, operand, operands
from support.errors import assert_raises
from support.oracle import Case

pytestmark = pytest.mark.usefixtures("x64")
CASE = BASIC[2]
SMALL = Case(2, 4, 6, (5, 4), (2, 3), (1, 2), ((1, 0), (1, 1)), (1, 1), 2)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def assert_derivatives(function, *arguments):
    """Of first and second order and in both modes, against central differences, in one program."""
    directions = [operand(each.shape, np.float64, 7) for each in arguments]
    numbers = tuple(range(len(arguments)))
    loss = lambda *a: jnp.sum(function(*a) ** 3)  # noqa: E731
    slope = jax.grad(loss, numbers)
    shifted = lambda t: [a + t * d for a, d in zip(arguments, directions, strict=True)]  # noqa: E731
    along = lambda each: sum(map(jnp.vdot, each, directions))  # noqa: E731

    @jax.jit
    def run(step):
        tangent = jax.jvp(loss, arguments, tuple(directions))[1]
        curvature = jax.jvp(lambda *a: along(slope(*a)), arguments, tuple(directions))[1]
        near, far = (shifted(sign * step) for sign in (1, -1))
        first = (loss(*near) - loss(*far)) / (2 * step)
        second = (along(slope(*near)) - along(slope(*far))) / (2 * step)
        return tangent, along(slope(*arguments)), curvature, first, second

    tangent, pulled, curvature, first, second = run(1e-5)
    assert abs(first) > 1e-3
    np.testing.assert_allclose(tangent, pulled, rtol=1e-10)
    np.testing.assert_allclose(tangent, first, rtol=1e-6)
    np.testing.assert_allclose(curvature, second, rtol=1e-6)


def masked(case: Case, x, k, bias, mask):
    """Equations 1 and 2 of the paper, with one sum for products and one for valid entries."""
    valid = np.broadcast_to(mask != 0, x.shape).astype(np.float64)
    y = oracle.compute("g", case, x=np.where(valid, x, 0), k=k)
    counts = oracle.compute("g", case, x=valid, k=np.ones_like(k))
    window = np.prod(case.kernel_spatial) * case.in_features // case.groups
    some = counts > 0
    return np.where(some, y * window / np.where(some, counts, 1) + bias, 0), some


@pytest.mark.sample(4)
@by_rank
@pytest.mark.parametrize("channels", [1, None], ids=["one mask", "a mask per channel"])
def test_partial_conv(case, channels):
    x, k, _ = operands(case, np.float64)
    bias = operand((case.out_features,), np.float64)
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, (*x.shape[:-1], channels or x.shape[-1]))
    mask[:, : x.shape[1] // 2] = 0  # so that some windows are empty
    x[np.broadcast_to(mask == 0, x.shape)] = np.nan

    @jax.jit
    def run(x, k, bias, mask):
        y, after = jaxconv.partial_conv(x, k, bias, mask=mask, **case.options())
        of_bools = jaxconv.partial_conv(x, k, bias, mask=mask != 0, **case.options())[1]
        return y, after, of_bools

    y, after, of_bools = run(x, k, bias, mask)
    expected, some = masked(case, np.nan_to_num(x), k, bias, mask)
    assert not some.all()
    assert some.any()
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(after, some[..., :1] if channels else some)
    assert (after.dtype, of_bools.dtype) == (mask.dtype, bool)


def test_partial_conv_of_valid_pixels_is_conv():
    """Without padding; and its padding counts as masked pixels."""
    x, k, _ = operands(SMALL, np.float64)

    @jax.jit
    def run(x, k):
        ones = jnp.ones((*x.shape[:-1], 1))
        inside = jaxconv.partial_conv(x, k, mask=ones, padding="VALID", groups=2)[0]
        border = jaxconv.partial_conv(x * 0 + 1, k[:, :, :1] * 0 + 1, mask=ones, groups=4)[0]
        return inside, jaxconv.conv(x, k, padding="VALID", groups=2), border

    k = np.concatenate([k, k], axis=-1)[..., : 2 * 6]
    inside, expected, border = run(x, k)
    np.testing.assert_allclose(inside, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(border, 6, rtol=1e-12)  # the same everywhere: 2x3 taps of ones


def test_derivatives_of_partial_conv():
    x, k, _ = operands(SMALL, np.float64)
    bias = operand((6,), np.float64)
    mask = np.random.default_rng(1).integers(0, 2, (*x.shape[:-1], 1))
    partial = lambda *a: jaxconv.partial_conv(*a, mask=mask, **SMALL.options())[0]  # noqa: E731
    assert_derivatives(partial, x, k, bias)


def test_gated_conv():
    x, k, _ = operands(CASE, np.float64)
    gate_kernel = operand(k.shape, np.float64, 3)
    bias, gate_bias = operand((2, CASE.out_features), np.float64)
    convolved = oracle.compute("g", CASE, x=x, k=k)
    gate = oracle.compute("g", CASE, x=x, k=gate_kernel)

    @jax.jit
    def run(x, k, gate_kernel, bias, gate_bias):
        gated = jaxconv.gated_conv
        plain = gated(x, k, gate_kernel, **CASE.options())
        options = {**CASE.options(), "activation": "relu"}
        return plain, gated(x, k, gate_kernel, bias, gate_bias, **options)

    plain, activated = run(x, k, gate_kernel, bias, gate_bias)
    np.testing.assert_allclose(plain, convolved * sigmoid(gate), rtol=1e-11, atol=1e-12)
    expected = np.maximum(convolved + bias, 0) * sigmoid(gate + gate_bias)
    np.testing.assert_allclose(activated, expected, rtol=1e-11, atol=1e-12)


def test_derivatives_of_gated_conv():
    x, k, _ = operands(SMALL, np.float64)
    more = operand(k.shape, np.float64, 3), *operand((2, 6), np.float64)
    gated = lambda *a: jaxconv.gated_conv(*a, activation="tanh", **SMALL.options())  # noqa: E731
    assert_derivatives(gated, x, k, *more)


@pytest.mark.sample(2)
@by_rank
def test_dynamic_conv(case):
    """Each example by the oracle; and one primitive with an axis of examples does it."""
    x, k, _ = operands(case, np.float64)
    kernels = operand((case.batch, *k.shape), np.float64)
    bias = operand((case.batch, case.out_features), np.float64)
    convolve = lambda *a: jaxconv.dynamic_conv(*a, **case.options())  # noqa: E731
    y, shared = jax.jit(lambda x, k, b: (convolve(x, k, b), convolve(x, k, b[0])))(x, kernels, bias)
    one = case.replace(batch=1)
    for n in range(case.batch):
        expected = oracle.compute("g", one, x=x[n : n + 1], k=kernels[n])[0]
        np.testing.assert_allclose(y[n], expected + bias[n], rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(shared[n], expected + bias[0], rtol=1e-11, atol=1e-12)
    if case.rank == 2:
        (found,) = jaxconv.explain(convolve, x, kernels).convs
        assert found.spec.examples == case.batch


def test_derivatives_and_batches_of_dynamic_conv():
    x, k, _ = operands(SMALL, np.float64)
    kernels, bias = operand((2, *k.shape), np.float64), operand((2, 6), np.float64)
    convolve = lambda *a: jaxconv.dynamic_conv(*a, **SMALL.options())  # noqa: E731
    assert_derivatives(convolve, x, kernels, bias)
    pairs = np.stack([x, -x]), np.stack([kernels, kernels * 2])
    mapped, alone = jax.jit(lambda x, k: (jax.vmap(convolve)(x, k), convolve(x[1], k[1])))(*pairs)
    np.testing.assert_allclose(mapped[1], alone, rtol=1e-11, atol=1e-12)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("size", "strides"), [((3,), 2), ((4, 3), (2, 3)), ((1, 5, 2), (1, 2, 1))], ids=str
)
def test_blur_pool(size, strides):
    """A loop over outputs of the mirrored image, with rows of Pascal's triangle."""
    rank = len(size)
    x = operand((*(2, 7, 6, 5)[: rank + 1], 3), np.float64)
    rows = {1: [1], 2: [1, 1], 3: [1, 2, 1], 4: [1, 3, 3, 1], 5: [1, 4, 6, 4, 1]}
    steps = np.broadcast_to(strides, rank)
    around = [((k - 1) // 2, k // 2) for k in size]
    padded = np.pad(x, [(0, 0), *around, (0, 0)], "reflect")
    outputs = [-(-n // s) for n, s in zip(x.shape[1:-1], steps, strict=True)]
    expected = np.zeros((2, *outputs, 3))
    for o in np.ndindex(*outputs):
        for t in np.ndindex(*size):
            weight = np.prod([rows[k][i] / 2 ** (k - 1) for k, i in zip(size, t, strict=True)])
            at = tuple(s * i + j for s, i, j in zip(steps, o, t, strict=True))
            expected[:, *o] += weight * padded[:, *at]
    blurred = jax.jit(lambda x: jaxconv.blur_pool(x, size=size, strides=strides))(x)
    np.testing.assert_allclose(blurred, expected, rtol=1e-12, atol=1e-12)


def test_blur_pool_as_in_torch():
    """The module of the paper's authors: reflected border, grouped strided convolution."""
    torch = pytest.importorskip("torch")
    x = operand((2, 8, 7, 3), np.float64)
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    kernel = torch.outer(row, row).expand(3, 1, 4, 4)
    images = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
    padded = torch.nn.functional.pad(images, (1, 2, 1, 2), mode="reflect")
    theirs = torch.nn.functional.conv2d(padded, kernel, stride=2, groups=3)
    theirs.pow(3).sum().backward()
    blur = lambda x: jaxconv.blur_pool(x, size=4)  # noqa: E731
    y, dx = jax.jit(lambda x: (blur(x), jax.grad(lambda x: jnp.sum(blur(x) ** 3))(x)))(x)
    np.testing.assert_allclose(y, np.moveaxis(theirs.detach().numpy(), 1, -1), rtol=1e-11)
    np.testing.assert_allclose(dx, np.moveaxis(images.grad.numpy(), 1, -1), rtol=1e-10, atol=1e-12)


def test_blur_pool_keeps_constants_and_removes_the_highest_frequency():
    x = np.stack([np.full((6, 8), 3.0), np.indices((6, 8)).sum(0) % 2], -1)[None]
    y = jaxconv.blur_pool(x)
    np.testing.assert_array_equal(y[..., 0], 3)
    np.testing.assert_array_equal(y[..., 1], 0.5)


def test_empty_blocks():
    x, k = np.ones((0, 5, 4, 2)), np.ones((3, 3, 2, 6))
    y, mask = jaxconv.partial_conv(x, k, mask=np.ones((0, 5, 4, 1)))
    assert (y.shape, mask.shape) == ((0, 5, 4, 6), (0, 5, 4, 1))
    nothing = np.ones((1, 5, 4, 0))
    y, mask = jaxconv.partial_conv(nothing, k[:, :, :0], mask=nothing)
    assert y.shape == mask.shape == (1, 5, 4, 6)
    assert not np.any(mask)
    assert jaxconv.dynamic_conv(x, np.ones((0, *k.shape))).shape == (0, 5, 4, 6)
    assert jaxconv.blur_pool(x).shape == (0, 3, 2, 2)
    assert jaxconv.blur_pool(nothing).shape == (1, 3, 2, 0)


def test_errors_of_blocks():
    x, k = np.ones((2, 7, 6, 4)), np.ones((3, 3, 4, 6))
    bias, mask = np.ones(5), np.ones((2, 7, 6, 1))
    for words, call in {
        "add the axis of channels with mask[..., None]": lambda: jaxconv.partial_conv(
            x, k, mask=mask[..., 0]
        ),
        "partial_conv: mask must have the shape of x": lambda: jaxconv.partial_conv(
            x, k, mask=mask[:1]
        ),
        "partial_conv: bias must have shape": lambda: jaxconv.partial_conv(x, k, bias, mask=mask),
        "partial_conv: strides must be": lambda: jaxconv.partial_conv(x, k, mask=mask, strides=0),
        "gated_conv: gate_kernel must have the shape": lambda: jaxconv.gated_conv(x, k, k[:2]),
        "gated_conv: gate_bias must have shape [F] = (6,)": lambda: jaxconv.gated_conv(
            x, k, k, None, bias
        ),
        "gated_conv: activation must be None": lambda: jaxconv.gated_conv(x, k, k, activation=3),
        "dynamic_conv: kernel must be [N, *K, C/G, F]": lambda: jaxconv.dynamic_conv(x, k),
        "each of the N = 2 examples of x, but has 3": lambda: jaxconv.dynamic_conv(
            x, np.ones((3, *k.shape))
        ),
        "dynamic_conv: bias must have shape": lambda: jaxconv.dynamic_conv(
            x, np.stack([k, k]), bias
        ),
        "Got x [H, W, C] = (7, 6, 4), kernel [KH, KW, C/G, F] = (3, 3, 4, 6)": lambda: (
            jaxconv.dynamic_conv(x, np.stack([k, k]), groups=3)
        ),
        "blur_pool: size must be at most 255": lambda: jaxconv.blur_pool(x, size=256),
        "blur_pool: size = 3 does not say which axes": lambda: jaxconv.blur_pool(x[0]),
        'blur_pool: padding "REFLECT" of spatial axis': lambda: jaxconv.blur_pool(x, size=15),
    }.items():
        assert_raises(call, ValueError, words)
    for words, call in {
        "partial_conv: mask must be an array": lambda: jaxconv.partial_conv(x, k, mask=None),
        "partial_conv: mask must be bool or a number": lambda: jaxconv.partial_conv(
            x, k, mask=jax.random.key(0)
        ),
        'gated_conv: activation "sigmoid" is not defined': lambda: jaxconv.gated_conv(
            x + 0j, k + 0j, k + 0j
        ),
        "blur_pool: x must be floating or complex": lambda: jaxconv.blur_pool(x.astype(int)),
    }.items():
        assert_raises(call, TypeError, words)
