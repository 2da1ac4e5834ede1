"""Networks that stand for the kinds of convolution, as modules of ``flax.nnx``; one file each.

All take images ``[N, H, W, C]``, the number of ``classes``, Flax's ``dtype`` and ``param_dtype``,
and ``conv``, the class of their convolutions: ``jaxconv.nnx.Conv``, or ``flax.nnx.Conv`` for the
same network on plain Flax.
"""

from .mobilenet_v1 import MobileNetV1 as MobileNetV1
