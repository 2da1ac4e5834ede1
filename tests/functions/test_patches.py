"""Patches and their sum: the index formula, PyTorch, the adjoint identity, and convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
from support.cases import BASIC, operand
from support.errors import assert_raises
from support.oracle import Case, padding_of, windows

pytestmark = pytest.mark.usefixtures("x64")

# Unequal extents; overlapping, disjoint and gappy patches; every kind of padding.
CASES = {
    **{f"{rank}d": (case, case.padding) for rank, case in BASIC.items()},
    "disjoint": (Case(2, 3, 1, (9, 8), (3, 2), (3, 2), ((0, 0), (0, 0)), (1, 1)), "SAME"),
    "gaps": (Case(1, 2, 1, (11, 7), (2, 1), (5, 3), ((0, 0), (0, 0)), (1, 1)), "VALID"),
    "frames": (Case(2, 1, 1, (23,), (7,), (3,), ((0, 0),), (1,)), "FULL"),
    "causal": (Case(2, 3, 1, (9,), (3,), (2,), ((0, 0),), (2,)), "CAUSAL"),
    "reflect": (Case(1, 2, 1, (7, 5), (4, 3), (2, 1), ((0, 0),) * 2, (1, 2)), "REFLECT"),
    "circular": (Case(1, 2, 1, (7, 5), (4, 3), (2, 1), ((0, 0),) * 2, (1, 2)), "CIRCULAR"),
    "replicate": (Case(1, 2, 1, (7, 5), (4, 3), (2, 1), ((0, 0),) * 2, (1, 2)), "REPLICATE"),
}
MODES = {"REFLECT": "reflect", "CIRCULAR": "wrap", "REPLICATE": "edge"}


def integers(shape):
    return np.random.default_rng(len(shape)).integers(-9, 10, shape).astype(np.float64)


def by_index(x, case: Case, padding):
    """``patches[n, o, t, c] = x[n, s*o + d*t - low, c]``, one output and tap at a time."""
    name = padding if isinstance(padding, str) else None
    pairs = padding
    if name:
        axes = zip(
            case.input_spatial, case.kernel_spatial, case.strides, case.dilation, strict=True
        )
        pairs = [padding_of(name, *axis) for axis in axes]
    outputs = [
        windows(n, k, s, pair, d) for (n, k, s, _, d), pair in zip(case.axes, pairs, strict=True)
    ]
    fill = [(max(low, 0), max(high, 0)) for low, high in pairs]
    x = np.pad(x, [(0, 0), *fill, (0, 0)], MODES.get(name, "constant"))
    crop = [max(-low, 0) for low, _ in pairs]
    patches = np.empty((len(x), *outputs, *case.kernel_spatial, x.shape[-1]))
    for o in np.ndindex(*outputs):
        for t in np.ndindex(*case.kernel_spatial):
            steps = zip(o, t, case.strides, case.dilation, crop, strict=True)
            at = tuple(s * i + d * j + start for i, j, s, d, start in steps)
            patches[:, *o, *t] = x[:, *at]
    return patches


@pytest.mark.sample(3)
@pytest.mark.parametrize(("case", "padding"), CASES.values(), ids=CASES)
def test_unfold(case, padding):
    """The formula; that the two are adjoints; that patches times a kernel are a convolution."""
    options = {"strides": case.strides, "padding": padding, "dilation": case.dilation}
    x = integers((case.batch, *case.input_spatial, case.in_features))
    kernel = integers((*case.kernel_spatial, case.in_features, 2))
    expected = by_index(x, case, padding)
    g = integers(expected.shape)

    @jax.jit
    def run(x, kernel, g):
        patches = jaxconv.unfold(x, case.kernel_spatial, **options)
        folded = jaxconv.fold(g, case.input_spatial, **options)
        product = jnp.tensordot(patches, kernel, case.rank + 1)
        return patches, folded, product, jaxconv.conv(x, kernel, **options)

    patches, folded, product, convolved = run(x, kernel, g)
    np.testing.assert_array_equal(patches, expected)
    assert np.sum(folded * x) == np.sum(g * expected)
    np.testing.assert_array_equal(product, convolved)


def test_fold_and_unfold_as_in_torch():
    functional = pytest.importorskip("torch").nn.functional
    from torch import tensor

    x = integers((2, 9, 8, 3))
    options = {"padding": (2, 1), "dilation": (2, 1)}
    theirs = functional.unfold(
        tensor(np.moveaxis(x, -1, 1).copy()), (3, 2), stride=(1, 3), **options
    )
    ours = jaxconv.unfold(x, (3, 2), strides=(1, 3), **options)
    n, oh, ow, *_ = ours.shape
    swapped = theirs.reshape(n, 3, 3, 2, oh, ow).permute(0, 4, 5, 2, 3, 1)
    np.testing.assert_array_equal(ours, swapped.numpy())
    folded = functional.fold(theirs, (9, 8), (3, 2), stride=(1, 3), **options)
    again = jaxconv.fold(ours, (9, 8), strides=(1, 3), **options)
    np.testing.assert_array_equal(again, np.moveaxis(folded.numpy(), 1, -1))


def test_derivatives_and_batching():
    """Both are linear: each derivative is one of the two, in both modes and under vmap."""
    x, options = operand((3, 2, 7, 2), np.float64), {"strides": 2, "padding": "REFLECT"}
    unfold = lambda x: jaxconv.unfold(x, (3,), **options)  # noqa: E731
    fold = lambda g: jaxconv.fold(g, (7,), **options)  # noqa: E731
    g = operand((3, 2, 4, 3, 2), np.float64)

    @jax.jit
    def run(x, g):
        cubes = lambda x: jnp.sum(unfold(x) ** 3)  # noqa: E731
        product = jax.jvp(jax.grad(cubes), (x[0],), (x[1],))[1]
        return (
            (jax.vmap(unfold)(x), jnp.stack([unfold(each) for each in x])),
            (jax.vmap(fold)(g), jnp.stack([fold(each) for each in g])),
            (jax.vjp(unfold, x[0])[1](g[0])[0], fold(g[0])),
            (jax.vjp(fold, g[0])[1](x[0])[0], unfold(x[0])),
            (jax.jvp(unfold, (x[0],), (x[1],))[1], unfold(x[1])),
            (product, fold(6 * unfold(x[0]) * unfold(x[1]))),
        )

    for ours, expected in run(x, g):
        np.testing.assert_allclose(ours, expected, rtol=1e-13, atol=1e-13)


def test_long_frames_need_few_slices():
    """As many as strides fit into a frame, not one per tap."""
    frames = lambda x: jaxconv.unfold(x, (1024,), strides=256, padding="VALID")  # noqa: E731
    x = jax.ShapeDtypeStruct((1, 4096, 1), np.float32)
    assert frames(np.arange(4096.0).reshape(1, 4096, 1)).shape == (1, 13, 1024, 1)
    inside = jax.make_jaxpr(frames)(x).eqns[0].params["jaxpr"]
    assert len(inside.eqns) < 12


def test_any_dtype_and_empty_arrays():
    image = np.arange(20, dtype=np.uint8).reshape(4, 5, 1)
    patches = jaxconv.unfold(image, (2, 2), padding="VALID")
    assert patches.dtype == np.uint8
    np.testing.assert_array_equal(patches[1, 2, ..., 0], image[1:3, 2:4, 0])
    assert jaxconv.unfold(np.ones((0, 5, 2)), 3).shape == (0, 5, 3, 2)
    assert jaxconv.unfold(np.ones((2, 0, 2)), 3).shape == (2, 0, 3, 2)
    np.testing.assert_array_equal(jaxconv.fold(np.ones((2, 0, 3, 2)), 0), np.ones((2, 0, 2)))


def test_errors_of_patches():
    x, patches = np.ones((2, 7, 6, 3)), np.ones((2, 7, 6, 3, 2, 3))
    for words, call in {
        "unfold: kernel_spatial must have 1 to 3 extents": lambda: jaxconv.unfold(x, ()),
        "unfold: x must be [N, H, W, C] or, unbatched": lambda: jaxconv.unfold(x[0, 0], (3, 3)),
        "unfold: the kernel must fit": lambda: jaxconv.unfold(x, (9, 9), padding="VALID"),
        "unfold: the patches would have shape": lambda: jaxconv.unfold(x[:1, :1], (1, 2**40)),
        "unfold: strides must be a positive int": lambda: jaxconv.unfold(x, (3, 2), strides=0),
        "fold: patches must be [N, *O, *K, C]": lambda: jaxconv.fold(patches, (7,)),
        "fold: input_spatial must have 1 to 3": lambda: jaxconv.fold(patches, (7,) * 4),
        "which is (2, 8, 6, 3, 2, 3)": lambda: jaxconv.fold(patches, (8, 6)),
    }.items():
        assert_raises(call, ValueError, words)
    assert_raises(lambda: jaxconv.unfold("x", 3), TypeError, "unfold: x must be an array")
    integer = patches.astype(int)
    assert_raises(lambda: jaxconv.fold(integer, (7, 6)), TypeError, "fold: patches must be float")
