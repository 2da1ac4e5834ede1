"""The networks of the benchmark: each in Flax, for given classes of layers, and in PyTorch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxconv.models import (
    ConvNeXtT,
    EfficientNetB0,
    MobileNetV1,
    MobileNetV2,
    MobileNetV3Large,
    ResNet50,
)
from jaxconv.models.batch_norm import BatchNorm
from jaxconv.models.conv_norm import ConvNorm
from jaxconv.models.convnext import ConvNeXtBlock
from jaxconv.models.from_torch import places_of
from jaxconv.models.resnet import Bottleneck
from jaxconv.nnx import Conv


class ConvNeXtStage(nnx.Module):
    """The first stage of ConvNeXt-T: three blocks of 96 features."""

    def __init__(self, conv: Any, rngs: nnx.Rngs):
        blocks = [ConvNeXtBlock(96, layer_scale=1.0, conv=conv, rngs=rngs) for _ in range(3)]
        self.blocks = nnx.List(blocks)

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return x


class WaveNetStack(nnx.Module):
    """Ten gated layers of two taps, with dilations 1 to 512; returns the sum of their skips."""

    def __init__(self, conv: Any, rngs: nnx.Rngs):
        self.layers = nnx.List([self._layer(conv, rngs, 2**i) for i in range(DEPTH)])

    def _layer(self, conv: Any, rngs: nnx.Rngs, dilation: int) -> nnx.List:
        taps = {"kernel_dilation": dilation, "padding": "CAUSAL"}
        gated = conv(FEATURES, 2 * FEATURES, (2,), **taps, rngs=rngs)
        widths = (FEATURES, SKIP)
        return nnx.List([gated, *(conv(FEATURES, width, (1,), rngs=rngs) for width in widths)])

    def __call__(self, x: jax.Array) -> jax.Array:
        total = jnp.zeros((*x.shape[:2], SKIP), x.dtype)
        for gated, residual, skip in self.layers:
            signal, gate = jnp.split(gated(x), 2, axis=-1)
            z = jnp.tanh(signal) * jax.nn.sigmoid(gate)
            x, total = x + residual(z), total + skip(z)
        return total


DEPTH, FEATURES, SKIP = 10, 64, 128


@dataclasses.dataclass(frozen=True)
class Case:
    """A network: its input's shape ``[N, *S, C]``, and how to make it in Flax and in PyTorch.

    ``layers`` are the network's layers with parameters in the twin's order, if it has no
    ``torch_layers``.
    """

    name: str
    shape: tuple[int, ...]
    make: Callable[[Any, Any, nnx.Rngs], Any]
    twin: Callable[[], Any]
    layers: Callable[[Any], Iterator[Any]] | None = None
    modes: tuple[str, ...] = ("training", "inference")

    def input(self) -> np.ndarray:
        return np.random.default_rng(0).standard_normal(self.shape).astype(np.float32)

    def network(self, conv: Any, norm: Any) -> Any:
        """The network with these classes of layers; parameters and statistics are always equal."""
        network = self.make(conv, norm, nnx.Rngs(0))
        nnx.update(network, jax.tree.map(jnp.array, self._state))
        return network

    @functools.cached_property
    def _state(self) -> Any:
        """Initial parameters, and batch statistics of the input.

        With the initial statistics, the values of deep networks would vanish layer by layer.
        """
        network = self.make(Conv, BatchNorm, nnx.Rngs(0))
        norms = [layer for _, layer in nnx.iter_modules(network) if isinstance(layer, BatchNorm)]
        for norm in norms:
            norm.momentum = 0.0
        if norms:
            network.train()
            nnx.jit(lambda network, x: network(x))(network, self.input())
        return jax.tree.map(np.asarray, nnx.state(network, (nnx.Param, nnx.BatchStat)))

    def copy(self, network: Any, twin: Any) -> None:
        """Copies the network's parameters and statistics to the twin."""
        import torch

        if self.layers is None:
            layers = network.torch_layers()
        else:
            own = [n for n, m in twin.named_modules() if not [*m.children()] and [*m.parameters()]]
            layers = zip(own, self.layers(network), strict=True)
        entries = {name: torch.tensor(place.get().copy()) for name, place in places_of(layers)}
        unexpected = twin.load_state_dict(entries, strict=False).unexpected_keys
        assert not unexpected, unexpected


def _bottleneck(conv: Any, norm: Any, rngs: nnx.Rngs) -> Bottleneck:
    options = {"momentum": 0.9, "dtype": None, "param_dtype": jnp.float32, "rngs": rngs}
    return Bottleneck(functools.partial(ConvNorm, conv, norm=norm, **options), 256, 64, 1)


def _normed(layers: Any) -> Iterator[Any]:
    for layer in layers:
        yield from (layer.conv, layer.norm)


def _mobilenet(network: MobileNetV1) -> Iterator[Any]:
    yield from (*_normed(network.layers), network.classify)


def _convnext(network: ConvNeXtStage) -> Iterator[Any]:
    for block in network.blocks:
        yield from (block.convolve, block.norm, block.expand, block.project)


def _twins() -> Any:
    """Imports PyTorch only when it is needed."""
    from benchmarks.networks import torch_networks

    return torch_networks


def _convnext_twin() -> Any:
    twins = _twins()
    stage = [twins.ConvNeXtBlock(96, layer_scale=1.0) for _ in range(3)]
    return twins.nn.Sequential(*stage)


# One network at a time, on images of its published size. Nothing is dropped at random in training,
# and the branches of ConvNeXt's blocks are as large as their inputs, so that errors show.
SIZE = 224
BATCHES = (1, 8)
_MODELS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "MobileNetV1": (MobileNetV1, {}),
    "MobileNetV2": (MobileNetV2, {"dropout": 0.0}),
    "MobileNetV3Large": (MobileNetV3Large, {"dropout": 0.0}),
    "ResNet50": (ResNet50, {}),
    "ConvNeXtT": (ConvNeXtT, {"stochastic_depth": 0.0, "layer_scale": 1.0}),
    "EfficientNetB0": (EfficientNetB0, {"dropout": 0.0, "stochastic_depth": 0.0}),
}


def _network(name: str, batch: int) -> Case:
    network, options = _MODELS[name]

    def make(conv: Any, norm: Any, rngs: nnx.Rngs) -> Any:
        classes = {"conv": conv} if network is ConvNeXtT else {"conv": conv, "norm": norm}
        return network(**classes, **options, rngs=rngs)

    return Case(
        f"{name} {batch}x{SIZE}x{SIZE}x3",
        (batch, SIZE, SIZE, 3),
        make,
        lambda: getattr(_twins(), name)(),
        _mobilenet if network is MobileNetV1 else None,
        ("training", "inference") if batch > 1 else ("inference",),
    )


PARTS = (
    Case(
        "MobileNetV1 16x96x96x3",
        (16, 96, 96, 3),
        lambda conv, norm, rngs: MobileNetV1(conv=conv, norm=norm, rngs=rngs),
        lambda: _twins().MobileNetV1(),
        _mobilenet,
    ),
    Case(
        "ConvNeXt-T stage 8x56x56x96",
        (8, 56, 56, 96),
        lambda conv, norm, rngs: ConvNeXtStage(conv, rngs),
        _convnext_twin,
        _convnext,
    ),
    Case(
        "WaveNet stack 4x4000x64",
        (4, 4000, FEATURES),
        lambda conv, norm, rngs: WaveNetStack(conv, rngs),
        lambda: _twins().WaveNetStack(FEATURES, SKIP, [2**i for i in range(DEPTH)]),
        lambda network: (layer for layers in network.layers for layer in layers),
    ),
    Case(
        "ResNet-50 bottleneck 8x56x56x256",
        (8, 56, 56, 256),
        _bottleneck,
        lambda: _twins().Bottleneck(256, 64),
        lambda block: _normed((block.reduce, block.convolve, block.restore)),
    ),
)

NETWORKS = tuple(_network(name, batch) for name in _MODELS for batch in BATCHES)
CASES = (*PARTS, *NETWORKS)
