"""Pictures of convolutions, for notebooks and talks, as matplotlib figures, and the playground.

They use the geometry of the convolution functions themselves, so they are right at any stride,
dilation and padding. Each figure has a background of its own and looks the same in light and dark
notebooks. The playground is one HTML page that works offline.
"""

from .channels import pointwise as pointwise
from .channels import separable as separable
from .costs import costs as costs
from .dilation import dilation_tree as dilation_tree
from .dilation import dilations as dilations
from .fields import influence as influence
from .files import save as save
from .page import playground as playground
from .sliding import animate as animate
from .sliding import sliding as sliding
