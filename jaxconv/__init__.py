"""Convolutions for JAX: every kind, to any order, as fast as the machine allows."""

from . import batching as batching  # registers the family's batching rules
from . import checkpoint_policies as checkpoint_policies
from . import filters as filters
from . import lowering as lowering  # registers its lowering rules
from . import sharding as sharding
from .accelerate import accelerate as accelerate
from .analysis import Cost as Cost
from .analysis import cost as cost
from .autotune import Tuning as Tuning
from .autotune import autotune as autotune
from .causal import causal_conv as causal_conv
from .causal import causal_conv_init as causal_conv_init
from .causal import causal_conv_step as causal_conv_step
from .explain import Explanation as Explanation
from .explain import explain as explain
from .functional import conv as conv
from .functional import conv_filter_grad as conv_filter_grad
from .functional import conv_input_grad as conv_input_grad
from .functional import conv_transpose as conv_transpose
from .functional import depthwise_conv as depthwise_conv
from .functional import pointwise_conv as pointwise_conv
from .functional import separable_conv as separable_conv
from .general import conv_general_dilated as conv_general_dilated
from .implementation import use_implementation as use_implementation
from .install import install as install
from .install import installed as installed
from .install import uninstall as uninstall
from .receptive import ReceptiveField as ReceptiveField
from .receptive import receptive_field as receptive_field
from .spec import ConvSpec as ConvSpec
from .spec import Operator as Operator
from .summary import Summary as Summary
from .summary import summarize as summarize
