"""Pictures of convolutions, for notebooks and talks; each is a matplotlib figure.

They are drawn from the library's own geometry, so they are right at any stride, dilation and
padding, and on a card of their own, so they read the same in a light and a dark notebook.
"""

from .canvas import save as save
from .channels import pointwise as pointwise
from .channels import separable as separable
from .costs import costs as costs
from .dilation import dilation_tree as dilation_tree
from .dilation import dilations as dilations
from .fields import influence as influence
from .sliding import animate as animate
from .sliding import sliding as sliding
