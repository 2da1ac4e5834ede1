"""``jax.checkpoint`` policies that save the results of convolutions."""

from ._src.primitives.checkpoint_policies import checkpoint_convs as checkpoint_convs
from ._src.primitives.checkpoint_policies import (
    checkpoint_dots_and_convs as checkpoint_dots_and_convs,
)
from ._src.primitives.checkpoint_policies import convs_saveable as convs_saveable
from ._src.primitives.checkpoint_policies import dots_and_convs_saveable as dots_and_convs_saveable
