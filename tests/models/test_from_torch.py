"""``from_torch`` against PyTorch modules with random weights, in torchvision's layout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxconv.models import (
    AlexNet,
    ConvNeXtT,
    EfficientNetB0,
    MobileNetV1,
    MobileNetV2,
    MobileNetV3Large,
    MobileNetV3Small,
    ResNet50,
    from_torch,
    mobilenet_v3,
)

torch = pytest.importorskip("torch")
twins = pytest.importorskip("benchmarks.networks.torch_networks")

pytestmark = pytest.mark.models

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 1, 1))
# Both activations, with and without squeeze-and-excitation, expansion and residual.
ROWS = (0, 3, 4, 10)
LARGE, SMALL_ROWS = (
    {"blocks": tuple(blocks[row] for row in ROWS)}
    for blocks in (mobilenet_v3.LARGE, mobilenet_v3.SMALL)
)
MBCONV = ((1, 3, 1, 16, 1), (6, 5, 2, 24, 2), (6, 3, 1, 32, 1))
SMALL = {
    "EfficientNetB0": (EfficientNetB0, twins.EfficientNetB0, {"stages": MBCONV}),
    "MobileNetV3Large": (MobileNetV3Large, twins.MobileNetV3Large, LARGE),
    "MobileNetV3Small": (MobileNetV3Small, twins.MobileNetV3Small, SMALL_ROWS),
    "MobileNetV2": (MobileNetV2, twins.MobileNetV2, {"stages": STAGES}),
    "ResNet50": (ResNet50, twins.ResNet50, {"width": 8, "depths": (2, 1)}),
    "ConvNeXtT": (ConvNeXtT, twins.ConvNeXtT, {"widths": (8, 12), "depths": (2, 1)}),
}
FULL = {
    "efficientnet_b0": twins.EfficientNetB0,
    "mobilenet_v3_large": twins.MobileNetV3Large,
    "mobilenet_v3_small": twins.MobileNetV3Small,
    "mobilenet_v2": twins.MobileNetV2,
    "resnet50": twins.ResNet50,
    "convnext_tiny": twins.ConvNeXtT,
}


def randomized(twin):
    """Randomizes every entry, including statistics, scales and biases, so that each one matters."""
    generator = torch.Generator().manual_seed(0)
    for name, entry in twin.state_dict().items():
        if entry.dtype.is_floating_point:
            fan = max(1, entry[0].numel())
            values = torch.randn(entry.shape, generator=generator) / fan**0.5
            positive = name.endswith("running_var") or (entry.ndim == 1 and "weight" in name)
            entry.copy_(values.abs() + 0.5 if positive else values)
    return twin.eval()


@jax.jit
def apply(network, x):
    return network(x)


def difference(network, twin, size: int) -> float:
    """The largest difference of the outputs, relative to the largest output."""
    x = np.random.default_rng(1).standard_normal((2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = twin(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
    network.eval()
    got = np.asarray(apply(network, x))
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", SMALL)
def test_outputs_equal_pytorchs(name):
    make, make_twin, options = SMALL[name]
    twin = randomized(make_twin(classes=7, **options))
    network = make(7, **options, rngs=nnx.Rngs(0))
    assert difference(network, twin, 33) > 1e-2  # with its own initial values
    assert from_torch(network, twin.state_dict()) is network
    assert difference(network, twin, 33) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_published_networks_by_torchvisions_name(name):
    entries = FULL[name](classes=11).state_dict()
    network = from_torch(name, {key: entry.numpy() for key, entry in entries.items()})
    loaded = jax.tree.leaves(nnx.state(network, (nnx.Param, nnx.BatchStat)))
    expected = [entry for key, entry in entries.items() if "num_batches" not in key]
    assert sum(leaf.size for leaf in loaded) == sum(entry.numel() for entry in expected)
    assert network.classify.out_features == 11


def test_every_entry_matters():
    """Changing any single entry changes the outputs: none is dropped or read twice."""
    make, make_twin, options = SMALL["ResNet50"]
    options = {**options, "depths": (1, 1)}
    twin = randomized(make_twin(classes=3, **options))
    network = make(3, **options, rngs=nnx.Rngs(0))
    for name, entry in twin.state_dict().items():
        if entry.dtype.is_floating_point:
            from_torch(network, twin.state_dict())
            kept = entry.clone()
            entry.mul_(1.5).add_(0.1)
            assert difference(network, twin, 16) > 1e-4, name
            entry.copy_(kept)


def entries() -> dict:
    twin = twins.ResNet50(classes=3, width=4, depths=(1,))
    return {name: entry.numpy() for name, entry in twin.state_dict().items()}


def tiny() -> ResNet50:
    return ResNet50(3, width=4, depths=(1,), rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_one_error_lists_every_mismatch():
    state_dict = entries()
    del state_dict["layer1.0.bn2.running_var"]
    state_dict["layer1.0.conv9.weight"] = np.zeros(3)
    state_dict["fc.weight"] = state_dict["fc.weight"].T
    network = tiny()
    before = np.asarray(network.stem.conv.kernel[...])
    with pytest.raises(ValueError, match="does not fit ResNet50") as caught:
        from_torch(network, state_dict)
    for part in (
        "missing layer1.0.bn2.running_var",
        "unknown layer1.0.conv9.weight",
        "fc.weight must be (3, 16), but is (16, 3)",
    ):
        assert part in str(caught.value)
    assert np.array_equal(before, network.stem.conv.kernel[...])  # nothing was loaded


@pytest.mark.slow
def test_unsupported_networks_are_refused():
    for network in (MobileNetV1(2, width=0.25, rngs=nnx.Rngs(0)), "alexnet", "mobilenet_v1"):
        with pytest.raises((TypeError, ValueError), match="torchvision has no MobileNetV1"):
            from_torch(network, {})
    alexnet = AlexNet(3, image_size=67, hidden=4, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="its AlexNet is another network"):
        from_torch(alexnet, {})
    with pytest.raises(TypeError, match="must map names to arrays, but got list"):
        from_torch(tiny(), [1])


def test_values_are_cast_to_the_networks_dtype():
    """For bfloat16 tensors and float64 arrays."""
    state_dict = {name: torch.from_numpy(v).bfloat16() for name, v in entries().items() if v.ndim}
    network = from_torch(tiny(), state_dict)
    assert network.stem.conv.kernel.dtype == jnp.float32
    expected = state_dict["conv1.weight"].float().numpy().transpose(2, 3, 1, 0)
    assert np.array_equal(network.stem.conv.kernel[...], expected)
    from_torch(network, {name: v.astype(np.float64) for name, v in entries().items()})
    assert network.stem.norm.var.dtype == jnp.float32
