"""``jax.checkpoint`` policies that know the family, beside those of ``jax.checkpoint_policies``.

>>> import jax, jax.numpy as jnp, jaxconv
>>> policy = jaxconv.checkpoint_policies.convs_saveable
>>> block = jax.checkpoint(lambda x, k: jnp.tanh(jaxconv.conv(x, k)), policy=policy)
>>> block(jnp.ones((1, 5, 2)), jnp.ones((3, 2, 2))).shape
(1, 5, 2)
"""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from .rules import OPERATORS


def convs_saveable(primitive: Any, *_: Any, **__: Any) -> bool:
    """Saves the results of convolutions, the family's and lax's, and recomputes all else."""
    return primitive in OPERATORS or primitive is lax.conv_general_dilated_p


def dots_and_convs_saveable(primitive: Any, *args: Any, **params: Any) -> bool:
    """Saves the results of convolutions and of matrix products, and recomputes all else."""
    return convs_saveable(primitive) or bool(
        jax.checkpoint_policies.dots_saveable(primitive, *args, **params)
    )


# jax offers its own policy under two names, dots_saveable and checkpoint_dots; so do we.
checkpoint_convs = convs_saveable
checkpoint_dots_and_convs = dots_and_convs_saveable
