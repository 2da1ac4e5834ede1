"""Convolutions for JAX: pure functions and Flax modules, differentiable to any order.

>>> import jax.numpy as jnp, jaxconv
>>> jaxconv.conv(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4)), padding="SAME").shape
(1, 8, 8, 4)
"""

import importlib
import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING, Any

from . import causal_conv1d as causal_conv1d
from . import checkpoint_policies as checkpoint_policies
from . import filters as filters
from . import sharding as sharding
from ._src.analysis.autotune import Tuning as Tuning
from ._src.analysis.autotune import autotune as autotune
from ._src.analysis.cost import Cost as Cost
from ._src.analysis.cost import cost as cost
from ._src.analysis.explain import Explanation as Explanation
from ._src.analysis.explain import explain as explain
from ._src.analysis.receptive_field import ReceptiveField as ReceptiveField
from ._src.analysis.receptive_field import receptive_field as receptive_field
from ._src.analysis.summary import Summary as Summary
from ._src.analysis.summary import summarize as summarize
from ._src.dispatch.implementation import use_implementation as use_implementation
from ._src.functions.blur import blur_pool as blur_pool
from ._src.functions.causal import causal_conv as causal_conv
from ._src.functions.causal import causal_conv_init as causal_conv_init
from ._src.functions.causal import causal_conv_step as causal_conv_step
from ._src.functions.conv import conv as conv
from ._src.functions.conv import conv_filter_grad as conv_filter_grad
from ._src.functions.conv import conv_input_grad as conv_input_grad
from ._src.functions.depthwise import depthwise_conv as depthwise_conv
from ._src.functions.dynamic import dynamic_conv as dynamic_conv
from ._src.functions.factorization import separate as separate
from ._src.functions.fused import fused_conv as fused_conv
from ._src.functions.gated import gated_conv as gated_conv
from ._src.functions.long import long_conv as long_conv
from ._src.functions.normalization import spectral_norm as spectral_norm
from ._src.functions.normalization import weight_norm as weight_norm
from ._src.functions.normalization import weight_standardization as weight_standardization
from ._src.functions.partial import partial_conv as partial_conv
from ._src.functions.patches import fold as fold
from ._src.functions.patches import unfold as unfold
from ._src.functions.pointwise import pointwise_conv as pointwise_conv
from ._src.functions.separable import separable_conv as separable_conv
from ._src.functions.shuffle import channel_shuffle as channel_shuffle
from ._src.functions.shuffle import pixel_shuffle as pixel_shuffle
from ._src.functions.shuffle import pixel_unshuffle as pixel_unshuffle
from ._src.functions.transpose import conv_transpose as conv_transpose
from ._src.geometry.checks import LayoutWarning as LayoutWarning
from ._src.geometry.spec import ConvSpec as ConvSpec
from ._src.geometry.spec import Operator as Operator
from ._src.interop.accelerate import accelerate as accelerate
from ._src.interop.conv_general_dilated import conv_general_dilated as conv_general_dilated
from ._src.interop.inference import optimize_for_inference as optimize_for_inference
from ._src.interop.install import install as install
from ._src.interop.install import installed as installed
from ._src.interop.install import uninstall as uninstall

# Imported for their effect: they register the primitives' batching and lowering rules.
from ._src.primitives import batching as _batching  # noqa: F401  # pyright: ignore[reportUnusedImport]
from ._src.spmd import lowering as _lowering  # noqa: F401  # pyright: ignore[reportUnusedImport]

if TYPE_CHECKING:
    from . import linen as linen
    from . import models as models
    from . import nnx as nnx
    from . import train as train
    from . import viz as viz

__all__ = [
    "ConvSpec",
    "Cost",
    "Explanation",
    "LayoutWarning",
    "Operator",
    "ReceptiveField",
    "Summary",
    "Tuning",
    "accelerate",
    "autotune",
    "blur_pool",
    "causal_conv",
    "causal_conv1d",
    "causal_conv_init",
    "causal_conv_step",
    "channel_shuffle",
    "checkpoint_policies",
    "conv",
    "conv_filter_grad",
    "conv_general_dilated",
    "conv_input_grad",
    "conv_transpose",
    "cost",
    "depthwise_conv",
    "dynamic_conv",
    "explain",
    "filters",
    "fold",
    "fused_conv",
    "gated_conv",
    "install",
    "installed",
    "linen",
    "long_conv",
    "models",
    "nnx",
    "optimize_for_inference",
    "partial_conv",
    "pixel_shuffle",
    "pixel_unshuffle",
    "pointwise_conv",
    "receptive_field",
    "separable_conv",
    "separate",
    "sharding",
    "spectral_norm",
    "summarize",
    "train",
    "unfold",
    "uninstall",
    "use_implementation",
    "viz",
    "weight_norm",
    "weight_standardization",
]

# Imported at first use, because they need packages that jaxconv itself does not depend on: the name
# of each with the extra that installs them.
_EXTRAS = {"linen": "flax", "models": "flax", "nnx": "flax", "train": "demo", "viz": "demo"}


def _has_flax() -> bool:
    try:
        return importlib.util.find_spec("flax") is not None
    except ImportError:
        return False


# Without Flax, ``from jaxconv import *``, ``dir`` and ``help`` leave out the modules that need it.
if not TYPE_CHECKING and not _has_flax():
    __all__ = [name for name in __all__ if _EXTRAS.get(name) != "flax"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("jaxconv")
    if name not in _EXTRAS:
        raise AttributeError(f"module 'jaxconv' has no attribute {name!r}")
    try:
        return importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("jaxconv"):
            raise
        raise ImportError(
            f"jaxconv.{name} needs {error.name}, which is not installed; run "
            f'pip install "jaxconv[{_EXTRAS[name]}]"'
        ) from error


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "__doc__", "__name__", "__file__", "__path__"])
