"""Networks that stand for the kinds of convolution, as modules of ``flax.nnx``; one file each.

All take the number of ``classes``, Flax's ``dtype`` and ``param_dtype``, and ``conv``, the class of
their convolutions: ``jaxconv.nnx.Conv``, or ``flax.nnx.Conv`` for the same network on plain Flax.
Those with batch normalisation take its class as ``norm``. Images are ``[N, H, W, C]``. The sequence
networks, ``WaveNet`` and ``ByteNet``, take token ids ``[N, L]`` and have the convolutions of
``jaxconv.nnx``.
"""

from .alexnet import AlexNet as AlexNet
from .bytenet import ByteNet as ByteNet
from .context import ContextNetwork as ContextNetwork
from .convnext import ConvNeXtT as ConvNeXtT
from .from_torch import from_torch as from_torch
from .mobilenet_v1 import MobileNetV1 as MobileNetV1
from .mobilenet_v2 import MobileNetV2 as MobileNetV2
from .resnet import ResNet50 as ResNet50
from .wavenet import WaveNet as WaveNet
