"""Rearrangements of channels and pixels: their formulas, PyTorch, inverses, errors."""

import jax
import numpy as np
import pytest

import jaxconv
from support.errors import assert_raises


def numbered(*shape):
    return np.arange(np.prod(shape)).reshape(shape)


@pytest.mark.parametrize(
    ("shape", "factor"),
    [
        ((2, 5, 6), (3,)),
        ((2, 3, 5, 18), (3, 2)),
        ((2, 3, 2, 5, 36), (2, 3, 2)),
        ((3, 5, 18), (3, 2)),
    ],
)
def test_pixel_unshuffle_inverts_pixel_shuffle(shape, factor):
    """``y[n, r*o + i, c] = x[n, o, c*prod(r) + i]``, one output at a time."""
    x = numbered(*shape)
    y = np.asarray(jaxconv.pixel_shuffle(x, factor))
    first = len(shape) - len(factor) - 1
    for at in np.ndindex(*y.shape):
        outer = [i // r for i, r in zip(at[first:-1], factor, strict=True)]
        inner = np.ravel_multi_index(
            [i % r for i, r in zip(at[first:-1], factor, strict=True)], factor
        )
        assert y[at] == x[*at[:first], *outer, at[-1] * np.prod(factor) + inner]
    np.testing.assert_array_equal(jaxconv.pixel_unshuffle(y, factor), x)


def test_shuffles_as_in_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    first = lambda array: torch.tensor(np.moveaxis(array, -1, 1).copy())  # noqa: E731
    x, y = numbered(2, 3, 5, 24), numbered(2, 6, 10, 3)
    for ours, theirs in [
        (jaxconv.pixel_shuffle(x, 2), functional.pixel_shuffle(first(x), 2)),
        (jaxconv.pixel_unshuffle(y, 2), functional.pixel_unshuffle(first(y), 2)),
        (jaxconv.channel_shuffle(x, 3), functional.channel_shuffle(first(x).float(), 3)),
    ]:
        np.testing.assert_array_equal(ours, np.moveaxis(theirs.numpy(), 1, -1))


def test_pixel_shuffle_of_reordered_channels_is_depth_to_space():
    """The order of TensorFlow: a block's first pixel has the first C channels, and so on."""
    x, r, channels = numbered(1, 2, 3, 12), 2, 3
    reordered = x.reshape(*x.shape[:-1], r * r, channels).swapaxes(-1, -2).reshape(x.shape)
    y = jaxconv.pixel_shuffle(reordered, r)
    np.testing.assert_array_equal(y[0, 0, 0], x[0, 0, 0, :3])
    np.testing.assert_array_equal(y[0, 0, 1], x[0, 0, 0, 3:6])
    np.testing.assert_array_equal(y[0, 1, 0], x[0, 0, 0, 6:9])


def test_channel_shuffle():
    x = numbered(2, 12)
    y = jaxconv.channel_shuffle(x, 3)
    for k, g in np.ndindex(4, 3):
        np.testing.assert_array_equal(y[:, k * 3 + g], x[:, g * 4 + k])
    np.testing.assert_array_equal(jaxconv.channel_shuffle(y, 4), x)  # undone by C/G groups


def test_shuffles_are_permutations_under_transformations():
    """Gradients are the inverses, exactly; batching adds an axis."""
    x = numbered(3, 2, 4, 4, 8).astype(np.float32)
    shuffles = [
        (lambda x: jaxconv.pixel_shuffle(x, 2), lambda y: jaxconv.pixel_unshuffle(y, 2)),
        (lambda x: jaxconv.pixel_unshuffle(x, 2), lambda y: jaxconv.pixel_shuffle(y, 2)),
        (lambda x: jaxconv.channel_shuffle(x, 2), lambda y: jaxconv.channel_shuffle(y, 4)),
    ]
    for forward, inverse in shuffles:
        shape = jax.eval_shape(jax.vmap(forward), x).shape
        g = np.random.default_rng(0).permutation(x.size).reshape(shape).astype(np.float32)

        @jax.jit
        def run(x, g, forward=forward, inverse=inverse):
            y, pull = jax.vjp(jax.vmap(forward), x)
            return (y[1], forward(x[1])), (pull(g)[0], jax.vmap(inverse)(g))

        for ours, expected in run(x, g):
            np.testing.assert_array_equal(ours, expected)


def test_empty_shuffles():
    assert jaxconv.pixel_shuffle(np.ones((0, 3, 5, 8)), 2).shape == (0, 6, 10, 2)
    assert jaxconv.pixel_unshuffle(np.ones((2, 0, 4, 3)), 2).shape == (2, 0, 2, 12)
    assert jaxconv.channel_shuffle(np.ones((2, 0)), 3).shape == (2, 0)


def test_errors_of_shuffles():
    x = np.ones((2, 6, 9, 4))
    for words, call in {
        "pixel_shuffle: the number of channels": lambda: jaxconv.pixel_shuffle(x, 3),
        "4 % 9 = 4": lambda: jaxconv.pixel_shuffle(x, 3),
        "does not say which axes": lambda: jaxconv.pixel_shuffle(x[0], 2),
        "pixel_shuffle: factor must be a positive int": lambda: jaxconv.pixel_shuffle(x, 0),
        "pixel_shuffle: factor must be an int for x": lambda: jaxconv.pixel_shuffle(x, (2,) * 4),
        "on spatial axis 1 9 % 2 = 1": lambda: jaxconv.pixel_unshuffle(x, 2),
        "pixel_unshuffle: factor must": lambda: jaxconv.pixel_unshuffle(x, "2"),
        "C % groups = 4 % 3 = 1": lambda: jaxconv.channel_shuffle(x, 3),
        "channel_shuffle: x must have a channel": lambda: jaxconv.channel_shuffle(np.ones(()), 3),
        "channel_shuffle: groups must be": lambda: jaxconv.channel_shuffle(x, -1),
    }.items():
        assert_raises(call, ValueError, words)
    assert_raises(lambda: jaxconv.pixel_shuffle([1], 2), TypeError, "x must be an array")
