"""The networks of the benchmark: each in Flax, for a class of convolutions, and in PyTorch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxconv.models import MobileNetV1
from jaxconv.models.conv_norm import ConvNorm
from jaxconv.models.convnext import ConvNeXtBlock
from jaxconv.models.resnet import Bottleneck


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
    """A network: its input's shape ``[N, *S, C]``, and how to make it in Flax and in PyTorch."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[Any, Any, nnx.Rngs], Any]
    twin: Callable[[], Any]
    layers: Callable[[Any], Iterator[Any]]  # with weights, in the twin's order

    def copy(self, network: Any, twin: Any) -> None:
        """Copies the network's weights to the twin."""
        import torch

        own = [m for m in twin.modules() if not list(m.children()) and list(m.parameters())]
        for layer, module in zip(self.layers(network), own, strict=True):
            kernel = getattr(layer, "kernel", None)
            weight = np.asarray((layer.scale if kernel is None else kernel)[...])
            order = (-1, -2, *range(weight.ndim - 2))[: weight.ndim]
            with torch.no_grad():
                module.weight.copy_(torch.from_numpy(weight.transpose(order).copy()))
                if layer.bias is not None:
                    module.bias.copy_(torch.from_numpy(np.array(layer.bias[...])))


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


CASES = (
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
