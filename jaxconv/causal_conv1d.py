"""Short causal convolutions with the names and layouts of the PyTorch package ``causal_conv1d``."""

from ._src.functions.causal_conv1d import causal_conv1d_fn as causal_conv1d_fn
from ._src.functions.causal_conv1d import causal_conv1d_update as causal_conv1d_update

__all__ = ["causal_conv1d_fn", "causal_conv1d_update"]
