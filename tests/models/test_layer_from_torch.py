"""``layer_from_torch``: every layer and option against PyTorch's own forward pass."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxconv
from jaxconv.models import layer_from_torch

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.models

SPATIAL = (11, 9, 8)


def randomized(layer):
    generator = torch.Generator().manual_seed(0)
    for name, entry in layer.state_dict().items():
        if entry.dtype.is_floating_point:
            values = torch.randn(entry.shape, generator=generator, dtype=torch.float64)
            entry.copy_(values.abs() + 0.5 if name == "running_var" else values)
    return layer


def images(rank: int, channels: int, batch: tuple[int, ...] = (2,)) -> np.ndarray:
    shape = (*batch, *SPATIAL[:rank], channels)
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def expected_of(layer, x: np.ndarray, batch_axes: int = 1) -> np.ndarray:
    """PyTorch's output for channels-last images, channels last."""
    with torch.no_grad():
        y = layer(torch.from_numpy(np.moveaxis(x, -1, batch_axes).copy()).to(layer.weight.dtype))
    return np.moveaxis(y.double().numpy(), batch_axes, -1)


def assert_equal(got, expected, terms: int) -> None:
    """To the rounding of a sum of so many float32 products of standard normal values."""
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=8 * 6e-8 * terms**0.5 * 4)


def assert_converted(layer, x: np.ndarray) -> None:
    layer = randomized(layer)
    terms = max(1, layer.weight[0].numel()) + layer.weight.shape[0]
    assert_equal(layer_from_torch(layer)(jnp.asarray(x)), expected_of(layer, x), terms)


# Kernel, strides, padding, dilation and groups; sizes of a second and third axis differ.
WINDOWS = (
    {},
    {"stride": (2, 3, 1), "padding": (1, 0, 2)},
    {"padding": (3, 4, 2), "dilation": (2, 1, 2), "groups": 2, "bias": False},
    {"stride": (1, 2, 2), "padding": (1, 2, 0), "groups": 6},
    {"padding": "same", "dilation": (1, 2, 3)},
    {"padding": "valid", "stride": (3, 2, 1), "groups": 3},
)
KERNEL = (4, 3, 2)


even_same = pytest.mark.filterwarnings(
    "ignore:Using padding='same' with even kernel lengths:UserWarning"
)


def of_rank(rank: int, options: dict) -> dict:
    return {n: v[:rank] if isinstance(v, tuple) else v for n, v in options.items()}


@even_same
@pytest.mark.sample(2)
@pytest.mark.parametrize(("rank", "options"), [*itertools.product((1, 2, 3), WINDOWS)])
def test_convolutions(rank, options):
    make = getattr(torch.nn, f"Conv{rank}d")
    layer = make(6, 12, KERNEL[:rank], **of_rank(rank, options))
    assert_converted(layer, images(rank, 6))


@even_same
@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_padding_modes(rank, mode):
    """With paddings that are not half of the kernel's extent, and with ``"same"``."""
    make = getattr(torch.nn, f"Conv{rank}d")
    for padding in ((3, 1, 2)[:rank], "same"):
        layer = make(4, 6, KERNEL[:rank], padding=padding, padding_mode=mode, groups=2)
        assert_converted(layer, images(rank, 4))


TRANSPOSES = (
    {},
    {"stride": (2, 3, 2), "padding": (1, 0, 1), "output_padding": (1, 2, 0)},
    {"stride": (3, 1, 2), "padding": (2, 1, 0), "dilation": (2, 3, 1), "groups": 2},
    {"stride": (2, 2, 3), "output_padding": (0, 1, 2), "groups": 6, "bias": False},
)


@pytest.mark.sample(2)
@pytest.mark.parametrize(("rank", "options"), [*itertools.product((1, 2, 3), TRANSPOSES)])
def test_transposed_convolutions(rank, options):
    make = getattr(torch.nn, f"ConvTranspose{rank}d")
    layer = make(6, 12, KERNEL[:rank], **of_rank(rank, options))
    assert_converted(layer, images(rank, 6))


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_one_example_without_a_batch_axis(name, mode):
    if (name, mode) == ("ConvTranspose2d", "circular"):
        mode = "zeros"  # the only mode of PyTorch
    layer = randomized(getattr(torch.nn, name)(3, 5, 3, padding=2, padding_mode=mode))
    x = images(2, 3, batch=())
    expected = expected_of(layer, x, batch_axes=0)
    assert_equal(layer_from_torch(layer)(jnp.asarray(x)), expected, 32)


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias):
    layer = randomized(torch.nn.Linear(5, 7, bias=bias))
    x = images(1, 5)
    expected = layer(torch.from_numpy(x)).detach().numpy()
    assert_equal(layer_from_torch(layer)(jnp.asarray(x)), expected, 6)


NORMS = (
    *((f"BatchNorm{rank}d", rank, (6,), {"eps": 1e-2}) for rank in (1, 2, 3)),
    ("GroupNorm", 1, (3, 6), {"eps": 1e-3}),
    ("GroupNorm", 2, (2, 6), {}),
    ("GroupNorm", 3, (6, 6), {}),
)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("name", "rank", "sizes", "options"), NORMS)
def test_normalizations(name, rank, sizes, options, training):
    layer = randomized(getattr(torch.nn, name)(*sizes, **options)).train(training)
    converted = layer_from_torch(layer)
    x = images(rank, 6) * 2 + 1
    y = converted(jnp.asarray(x))
    assert_equal(y, expected_of(layer, x), 40)
    if "Batch" in name and training:
        n = x[..., 0].size
        mean, var = layer.running_mean.numpy(), layer.running_var.numpy()
        np.testing.assert_allclose(converted.mean[...], mean, rtol=1e-5, atol=1e-6)
        unbiased = 0.1 * x.reshape(-1, 6).var(0) / (n - 1)  # of Flax's smaller variance
        np.testing.assert_allclose(converted.var[...] + unbiased, var, rtol=1e-5)


def test_batch_norm_of_vectors_without_parameters():
    layer = torch.nn.BatchNorm1d(6, affine=False).eval()
    layer.running_mean.copy_(torch.arange(6.0))
    x = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
    converted = layer_from_torch(layer)
    assert not jax.tree.leaves(nnx.state(converted, nnx.Param))
    assert_equal(converted(jnp.asarray(x)), layer(torch.from_numpy(x)).numpy(), 4)


@pytest.mark.parametrize(
    "options", [{}, {"bias": False, "eps": 0.1}, {"elementwise_affine": False}]
)
def test_layer_norm(options):
    layer = randomized(torch.nn.LayerNorm(8, **options))
    x = images(2, 8)
    expected = layer(torch.from_numpy(x)).detach().numpy()
    assert_equal(layer_from_torch(layer)(jnp.asarray(x)), expected, 8)


def test_kinds_of_layers():
    conv = layer_from_torch(torch.nn.Conv2d(4, 6, 3, groups=2))
    assert type(conv) is jaxconv.nnx.Conv
    assert conv.kernel.shape == (3, 3, 2, 6)
    padded = layer_from_torch(torch.nn.Conv2d(4, 6, 3, padding_mode="reflect", padding=1))
    assert isinstance(padded, jaxconv.nnx.Conv)
    assert isinstance(layer_from_torch(torch.nn.Linear(2, 3)), nnx.Linear)
    assert isinstance(layer_from_torch(torch.nn.BatchNorm3d(2)), nnx.BatchNorm)


def test_converted_layers_are_differentiable_and_survive_pickling():
    for source in (
        torch.nn.Conv1d(3, 3, 4, padding=2, padding_mode="replicate"),
        torch.nn.ConvTranspose1d(3, 3, 4, stride=2, groups=3),
    ):
        layer = layer_from_torch(source)
        x = jnp.asarray(images(1, 3))
        gradient = nnx.grad(lambda layer, x=x: jnp.sum(layer(x) ** 2))(layer)
        assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))
        copy = pickle.loads(pickle.dumps(layer))
        assert np.array_equal(copy(x), layer(x))


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float64"])
def test_dtypes(name):
    layer = randomized(torch.nn.Conv2d(3, 4, 3, dtype=getattr(torch, name)))
    converted = layer_from_torch(layer)
    assert converted.kernel.dtype == ("float32" if name == "float64" else name)
    exact = layer.weight.detach().double().numpy().transpose(2, 3, 1, 0).astype(np.float32)
    assert np.array_equal(converted.kernel[...].astype(jnp.float32), exact)


@pytest.mark.usefixtures("x64")
def test_float64():
    layer = randomized(torch.nn.ConvTranspose2d(3, 4, 3, stride=2, dtype=torch.float64))
    x = images(2, 3).astype(np.float64)
    expected = expected_of(layer, x)
    np.testing.assert_allclose(
        layer_from_torch(layer)(jnp.asarray(x)), expected, rtol=1e-12, atol=1e-12
    )


def test_parametrized_layers_have_their_current_weights():
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(3, 4, 3))
    layer.parametrizations.weight.original0.data.mul_(2)
    assert_equal(
        layer_from_torch(layer)(jnp.asarray(images(2, 3))), expected_of(layer, images(2, 3)), 28
    )


class Own(torch.nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


class Inherited(torch.nn.Conv2d):
    pass


def test_subclasses():
    assert_converted(Inherited(3, 4, 3), images(2, 3))
    with pytest.raises(TypeError, match=r"one of BatchNorm1d, .*, Linear, but got Own"):
        layer_from_torch(Own(3, 4, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.nn.LSTM(3, 4),
        lambda: torch.nn.LazyConv2d(3, 3),
        lambda: torch.nn.InstanceNorm2d(3),
        lambda: torch.nn.Sequential(),
        lambda: 3,
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_unsupported_layers_are_refused(make):
    with pytest.raises(
        TypeError, match=r"^layer_from_torch: layer must be a layer of torch.nn, one"
    ):
        layer_from_torch(make())


def hooked():
    layer = torch.nn.Linear(2, 3)
    layer.register_forward_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.nn.LayerNorm((3, 4)), r"one axis, but normalized_shape is \(3, 4\)"),
        (lambda: torch.nn.BatchNorm2d(3, track_running_stats=False), "track_running_stats"),
        (lambda: torch.nn.BatchNorm2d(3, momentum=None), "cumulative average"),
        (lambda: torch.nn.Conv2d(3, 4, 3, dtype=torch.complex64), "but its weight is complex64"),
        (hooked, "forward hooks"),
    ],
)
def test_unsupported_options_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^layer_from_torch: .*{message}"):
        layer_from_torch(make())


def test_pytorch_is_not_imported():
    program = "import sys, jaxconv.models.layer_from_torch; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
