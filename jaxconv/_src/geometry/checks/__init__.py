"""Argument validation: every error names the function, the arrays, what is wrong and the fix.

Shapes and values raise ``ValueError``; dtypes and objects that are not arrays raise ``TypeError``.
A symbolic dimension of ``jax.export`` passes every check that it does not decide.
"""

from .arrays import array as array
from .arrays import arrays as arrays
from .arrays import inexact as inexact
from .arrays import precision_of as precision_of
from .arrays import result_dtype as result_dtype
from .call import AXES as AXES
from .call import CAUSAL_AXES as CAUSAL_AXES
from .call import SPATIAL as SPATIAL
from .call import Call as Call
from .call import shown as shown
from .foreign_layouts import LayoutWarning as LayoutWarning
from .foreign_layouts import layout_hint as layout_hint
from .foreign_layouts import warn_of_images as warn_of_images
from .foreign_layouts import warn_of_kernel as warn_of_kernel
from .layouts import bias as bias
from .layouts import causal_kernel as causal_kernel
from .layouts import depthwise_kernel as depthwise_kernel
from .layouts import filter_bank as filter_bank
from .layouts import per_feature as per_feature
from .layouts import pointwise_kernel as pointwise_kernel
from .layouts import separable_kernel as separable_kernel
from .sequences import causal_state as causal_state
from .sequences import causal_state_shape as causal_state_shape
from .sequences import causal_step as causal_step
from .sequences import lengths as lengths
from .sequences import per_example as per_example
from .sequences import segment_ids as segment_ids
from .sizes import batched as batched
from .sizes import elements as elements
from .sizes import flag as flag
from .sizes import group_count as group_count
from .sizes import index as index
from .sizes import integer as integer
from .sizes import known as known
from .sizes import per_axis as per_axis
from .sizes import per_axis_of_input as per_axis_of_input
from .sizes import sequence as sequence
from .sizes import sizes as sizes
from .sizes import spatial_rank as spatial_rank
from .specs import spec as spec
