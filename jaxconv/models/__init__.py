"""Networks for images and sequences, one for each kind of convolution, as ``flax.nnx`` modules.

All networks take Flax's ``dtype`` and ``param_dtype``. Image networks take images ``[N, H, W, C]``
and ``conv``, the class of their convolutions: ``jaxconv.nnx.Conv``, or ``flax.nnx.Conv`` for the
same network in plain Flax; those with batch normalization also take its class as ``norm``. The
sequence networks, ``WaveNet``, ``ByteNet`` and ``Mamba``, take token ids ``[N, L]`` and use the
convolutions of ``jaxconv.nnx``.
"""

from .alexnet import AlexNet as AlexNet
from .bytenet import ByteNet as ByteNet
from .context import ContextNetwork as ContextNetwork
from .convnext import ConvNeXtT as ConvNeXtT
from .efficientnet import EfficientNetB0 as EfficientNetB0
from .from_torch import from_torch as from_torch
from .layer_from_torch import layer_from_torch as layer_from_torch
from .mamba import Mamba as Mamba
from .mobilenet_v1 import MobileNetV1 as MobileNetV1
from .mobilenet_v2 import MobileNetV2 as MobileNetV2
from .mobilenet_v3 import MobileNetV3Large as MobileNetV3Large
from .mobilenet_v3 import MobileNetV3Small as MobileNetV3Small
from .resnet import ResNet50 as ResNet50
from .wavenet import WaveNet as WaveNet
