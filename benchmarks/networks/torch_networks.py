"""The benchmark's networks in PyTorch, with torchvision's names of layers and parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from jaxconv.models import (
    activations,
    convnext,
    efficientnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    resnet,
)
from jaxconv.models.inverted_residual import rounded


def normed(
    in_features: int,
    out_features: int,
    kernel: int,
    strides: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Convolution without bias, batch normalization, activation."""
    options = {"padding": kernel // 2, "groups": groups, "bias": False}
    conv = nn.Conv2d(in_features, out_features, kernel, strides, **options)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(out_features, eps)]
    return nn.Sequential(*layers, *([] if activation is None else [activation(inplace=True)]))


class SamePadding(nn.Module):
    """The padding of ``"SAME"`` for a 3×3 kernel of stride 2 on an even extent."""

    def forward(self, x):
        return nn.functional.pad(x, (0, 1, 0, 1))


class MobileNetV1(nn.Module):
    def __init__(self, classes: int = 1000, blocks: Sequence = mobilenet_v1.BLOCKS):
        super().__init__()
        features = mobilenet_v1.STEM
        layers = _same(normed(3, features, 3, 2))
        for out, strides in blocks:
            deep = normed(features, features, 3, strides, groups=features)
            layers += _same(deep) if strides == 2 else [deep]
            layers.append(normed(features, out, 1))
            features = out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(features, classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def _same(layer: nn.Sequential) -> list[nn.Module]:
    """Pads outside the convolution, as PyTorch must if the two sides differ."""
    conv = layer[0]
    assert isinstance(conv, nn.Conv2d)
    conv.padding = (0, 0)
    return [SamePadding(), layer]


class InvertedResidual(nn.Module):
    def __init__(self, in_features: int, out_features: int, strides: int, expansion: int):
        super().__init__()
        hidden = in_features * expansion
        expand = [normed(in_features, hidden, 1, activation=nn.ReLU6)] if expansion > 1 else []
        deep = normed(hidden, hidden, 3, strides, hidden, nn.ReLU6)
        project = normed(hidden, out_features, 1, activation=None)
        self.conv = nn.Sequential(*expand, deep, *project)
        self.residual = strides == 1 and in_features == out_features

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, classes: int = 1000, stages: Sequence = mobilenet_v2.STAGES):
        super().__init__()
        features = mobilenet_v2.STEM
        layers: list[nn.Module] = [normed(3, features, 3, 2, activation=nn.ReLU6)]
        for expansion, out, repeats, strides in stages:
            for repeat in range(repeats):
                s = strides if repeat == 0 else 1
                layers.append(InvertedResidual(features, out, s, expansion))
                features = out
        layers.append(normed(features, mobilenet_v2.HEAD, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(mobilenet_v2.HEAD, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class SqueezeExcitation(nn.Module):
    def __init__(
        self, features: int, squeezed: int, activation: type[nn.Module], gate: type[nn.Module]
    ):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(features, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, features, 1)
        self.activation = activation()
        self.scale_activation = gate()

    def forward(self, x):
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return self.scale_activation(scale) * x


class SqueezedResidual(nn.Module):
    """An inverted residual with squeeze-and-excitation, without stochastic depth.

    Stochastic depth has no parameters and does nothing in inference.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        kernel: int,
        strides: int,
        squeeze: SqueezeExcitation | None,
        activation: type[nn.Module],
        eps: float,
    ):
        super().__init__()
        options = {"activation": activation, "eps": eps}
        layers = [] if hidden == in_features else [normed(in_features, hidden, 1, **options)]
        layers.append(normed(hidden, hidden, kernel, strides, hidden, **options))
        layers += [] if squeeze is None else [squeeze]
        layers.append(normed(hidden, out_features, 1, activation=None, eps=eps))
        self.block = nn.Sequential(*layers)
        self.residual = strides == 1 and in_features == out_features

    def forward(self, x):
        return x + self.block(x) if self.residual else self.block(x)


class MobileNetV3Large(nn.Module):
    network: type[mobilenet_v3.MobileNetV3] = mobilenet_v3.MobileNetV3Large

    def __init__(
        self,
        classes: int = 1000,
        blocks: Sequence[mobilenet_v3.Block] | None = None,
    ):
        super().__init__()
        features, eps, head = mobilenet_v3.STEM, mobilenet_v3.EPSILON, self.network.HEAD
        layers: list[nn.Module] = [normed(3, features, 3, 2, activation=nn.Hardswish, eps=eps)]
        for kernel, hidden, out, squeezes, activation, strides in blocks or self.network.BLOCKS:
            squeeze = None
            if squeezes:
                squeezed = rounded(hidden // 4)
                squeeze = SqueezeExcitation(hidden, squeezed, nn.ReLU, nn.Hardsigmoid)
            activate = nn.ReLU if activation is activations.relu else nn.Hardswish
            layers.append(
                SqueezedResidual(features, hidden, out, kernel, strides, squeeze, activate, eps)
            )
            features = out
        layers.append(normed(features, 6 * features, 1, activation=nn.Hardswish, eps=eps))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(6 * features, head), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(head, classes)
        )

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class MobileNetV3Small(MobileNetV3Large):
    network = mobilenet_v3.MobileNetV3Small


class EfficientNetB0(nn.Module):
    def __init__(self, classes: int = 1000, stages: Sequence = efficientnet.STAGES):
        super().__init__()
        features, eps = efficientnet.STEM, 1e-5
        layers: list[nn.Module] = [normed(3, features, 3, 2, activation=nn.SiLU)]
        for expansion, kernel, strides, out, repeats in stages:
            blocks = []
            for repeat in range(repeats):
                s, hidden = strides if repeat == 0 else 1, expansion * features
                squeeze = SqueezeExcitation(hidden, max(1, features // 4), nn.SiLU, nn.Sigmoid)
                blocks.append(
                    SqueezedResidual(features, hidden, out, kernel, s, squeeze, nn.SiLU, eps)
                )
                features = out
            layers.append(nn.Sequential(*blocks))
        layers.append(normed(features, 4 * features, 1, activation=nn.SiLU))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(4 * features, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Bottleneck(nn.Module):
    def __init__(self, in_features: int, features: int, strides: int = 1):
        super().__init__()
        out = resnet.EXPANSION * features
        self.conv1, self.bn1, _ = normed(in_features, features, 1)
        self.conv2, self.bn2, _ = normed(features, features, 3, strides)
        self.conv3, self.bn3 = normed(features, out, 1, activation=None)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if strides > 1 or in_features != out:
            self.downsample = normed(in_features, out, 1, strides, activation=None)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    def __init__(self, classes: int = 1000, width: int = 64, depths: Sequence = resnet.DEPTHS):
        super().__init__()
        self.conv1, self.bn1, self.relu = normed(3, width, 7, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stages = []
        features = width
        for stage, depth in enumerate(depths):
            blocks = []
            for block in range(depth):
                strides = 2 if block == 0 and stage > 0 else 1
                blocks.append(Bottleneck(features, width << stage, strides))
                features = resnet.EXPANSION * (width << stage)
            self.stages.append(f"layer{stage + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.fc = nn.Linear(features, classes)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.fc(x.mean((2, 3)))


class Permute(nn.Module):
    def __init__(self, *order: int):
        super().__init__()
        self.order = order

    def forward(self, x):
        return x.permute(self.order)


class LayerNorm2d(nn.LayerNorm):
    """Over the features of ``[N, C, H, W]``."""

    def forward(self, input):
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, features: int, layer_scale: float = 1e-6):
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((features, 1, 1), layer_scale))
        self.block = nn.Sequential(
            nn.Conv2d(features, features, 7, padding=3, groups=features),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(features, eps=convnext.EPSILON),
            nn.Linear(features, 4 * features),
            nn.GELU(),
            nn.Linear(4 * features, features),
            Permute(0, 3, 1, 2),
        )

    def forward(self, x):
        return x + self.layer_scale * self.block(x)


class ConvNeXtT(nn.Module):
    def __init__(
        self,
        classes: int = 1000,
        widths: Sequence = convnext.WIDTHS,
        depths: Sequence = convnext.DEPTHS,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        features, eps = 3, convnext.EPSILON
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            k = convnext.PATCH if stage == 0 else 2
            enter = nn.Conv2d(features, width, k, k)
            norm = LayerNorm2d(width if stage == 0 else features, eps=eps)
            layers.append(nn.Sequential(*((enter, norm) if stage == 0 else (norm, enter))))
            layers.append(nn.Sequential(*(ConvNeXtBlock(width) for _ in range(depth))))
            features = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            LayerNorm2d(features, eps=eps), nn.Flatten(1), nn.Linear(features, classes)
        )

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3), keepdim=True))


class WaveNetLayer(nn.Module):
    def __init__(self, features: int, skip: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.conv = nn.Conv1d(features, 2 * features, 2, dilation=dilation)
        self.residual = nn.Conv1d(features, features, 1)
        self.skip = nn.Conv1d(features, skip, 1)

    def forward(self, x):
        signal, gate = self.conv(nn.functional.pad(x, (self.dilation, 0))).chunk(2, dim=1)
        z = torch.tanh(signal) * torch.sigmoid(gate)
        return x + self.residual(z), self.skip(z)


class WaveNetStack(nn.Module):
    def __init__(self, features: int, skip: int, dilations: Sequence[int]):
        super().__init__()
        self.layers = nn.ModuleList(WaveNetLayer(features, skip, d) for d in dilations)

    def forward(self, x):
        total = 0
        for layer in self.layers:
            x, skip = layer(x)
            total = total + skip
        return total
