"""Named convolutions of real networks, shared by tests and benchmarks."""

from __future__ import annotations

import dataclasses

from jaxconv._src.geometry.spec import ConvSpec, Pairs, Shape


@dataclasses.dataclass(frozen=True)
class Workload:
    """One convolution. ``spec`` describes the forward convolution, also of a transposed one."""

    name: str
    kind: str
    spec: ConvSpec


def _workload(
    name: str,
    kind: str,
    batch: int,
    spatial: Shape,
    features: tuple[int, int],
    kernel: Shape,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: Pairs | None = None,
) -> Workload:
    if padding is None:  # the same on both sides, as in PyTorch's networks
        sides = (dilation * (k - 1) // 2 for k in kernel)
        padding = tuple((side, side) for side in sides)
    spec = ConvSpec(
        batch=batch,
        in_features=features[0],
        out_features=features[1],
        input_spatial=spatial,
        kernel_spatial=kernel,
        strides=(stride,) * len(kernel),
        padding=padding,
        dilation=(dilation,) * len(kernel),
        groups=groups,
    )
    return Workload(name, kind, spec)


def _depthwise(name: str, batch: int, spatial: Shape, channels: int, kernel: Shape, **options):
    multiplier = options.pop("multiplier", 1)
    features = (channels, channels * multiplier)
    return _workload(
        name, "depthwise", batch, spatial, features, kernel, groups=channels, **options
    )


DEPTHWISE = (
    _depthwise("depthwise 3x3 8x56x56x128", 8, (56, 56), 128, (3, 3)),
    _depthwise("depthwise 3x3 s2 8x28x28x256", 8, (28, 28), 256, (3, 3), stride=2),
    _depthwise("depthwise 3x3 8x14x14x512", 8, (14, 14), 512, (3, 3)),
    _depthwise("depthwise 5x5 8x7x7x960", 8, (7, 7), 960, (5, 5)),
    _depthwise("depthwise 5x5 s2 4x35x35x72", 4, (35, 35), 72, (5, 5), stride=2),
    _depthwise("depthwise 7x7 8x56x56x96", 8, (56, 56), 96, (7, 7)),
    _depthwise("depthwise 7x7 8x14x14x384", 8, (14, 14), 384, (7, 7)),
    _depthwise("depthwise 3x3 d2 8x56x56x64", 8, (56, 56), 64, (3, 3), dilation=2),
    _depthwise("depthwise 31x31 1x28x28x128", 1, (28, 28), 128, (31, 31)),
    _depthwise("depthwise 3x3 1x112x112x32", 1, (112, 112), 32, (3, 3)),
    _depthwise("depthwise x2 3x3 8x28x28x128", 8, (28, 28), 128, (3, 3), multiplier=2),
    _depthwise("depthwise causal k4 8x1024x768", 8, (1024,), 768, (4,), padding=((3, 0),)),
    _depthwise("depthwise 3x3x3 2x16x32x32x64", 2, (16, 32, 32), 64, (3, 3, 3)),
)

GROUPED = (
    _workload("grouped g32 3x3 8x28x28x256", "grouped", 8, (28, 28), (256, 256), (3, 3), groups=32),
    _workload("grouped g4 3x3 8x28x28x256", "grouped", 8, (28, 28), (256, 256), (3, 3), groups=4),
)

DENSE = (
    _workload("dense 3x3 8x56x56x64", "dense", 8, (56, 56), (64, 64), (3, 3)),
    _workload("dense 3x3 s2 8x56x56 64>128", "dense", 8, (56, 56), (64, 128), (3, 3), stride=2),
    _workload("dense 7x7 s2 4x224x224 3>64", "dense", 4, (224, 224), (3, 64), (7, 7), stride=2),
    _workload("pointwise 8x28x28 256>512", "pointwise", 8, (28, 28), (256, 512), (1, 1)),
    _workload("pointwise s2 8x56x56 64>128", "pointwise", 8, (56, 56), (64, 128), (1, 1), stride=2),
    _workload("dense 3x3 d2 8x28x28x128", "dense", 8, (28, 28), (128, 128), (3, 3), dilation=2),
    _workload("dense 3x3 d8 4x56x56x64", "dense", 4, (56, 56), (64, 64), (3, 3), dilation=8),
    _workload(
        "causal k2 d64 4x8000 64>128",
        "dense",
        4,
        (8000,),
        (64, 128),
        (2,),
        dilation=64,
        padding=((64, 0),),
    ),
    _workload("dense k3 8x1024x256", "dense", 8, (1024,), (256, 256), (3,)),
    _workload("dense 3x3x3 2x16x32x32x32", "dense", 2, (16, 32, 32), (32, 32), (3, 3, 3)),
    _workload(
        "patch 16x16 4x224x224 3>384",
        "dense",
        4,
        (224, 224),
        (3, 384),
        (16, 16),
        stride=16,
        padding=((0, 0), (0, 0)),
    ),
    _workload(
        "transposed 4x4 s2 8x14x14 256>128",
        "dense",
        8,
        (28, 28),
        (128, 256),
        (4, 4),
        stride=2,
    ),
)

WORKLOADS = DEPTHWISE + GROUPED + DENSE
