"""``jax.checkpoint`` policies that save the results of convolutions.

They complement those of ``jax.checkpoint_policies``, which know lax's primitives only.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from .fused import fused_conv_p
from .packed import packed_conv_p
from .rules import OPERATORS
from .segments import segments_p


def convs_saveable(primitive: Any, *_: Any, **__: Any) -> bool:
    """Saves the results of convolutions, jaxconv's and lax's, and recomputes everything else.

    The counterpart of ``jax.checkpoint_policies.dots_saveable``; pass it as ``policy=`` to
    ``jax.checkpoint``.

    >>> import jax, jax.numpy as jnp, jaxconv
    >>> def layer(x, kernel):
    ...     return jnp.tanh(jaxconv.conv(x, kernel))
    >>> saving = jax.checkpoint(layer, policy=convs_saveable)
    >>> saving(jnp.ones((1, 5, 2)), jnp.ones((3, 2, 2))).shape
    (1, 5, 2)

    Source: the documentation of ``jax.checkpoint_policies``.
    """
    convs = (fused_conv_p, packed_conv_p, segments_p, lax.conv_general_dilated_p)
    return primitive in OPERATORS or primitive in convs


def dots_and_convs_saveable(primitive: Any, *args: Any, **params: Any) -> bool:
    """Saves the results of convolutions and matrix products, and recomputes everything else.

    >>> import jax, jax.numpy as jnp, jaxconv
    >>> def layer(x, kernel):
    ...     return jnp.tanh(jaxconv.conv(x, kernel)) @ jnp.ones((2, 3))
    >>> saving = jax.checkpoint(layer, policy=dots_and_convs_saveable)
    >>> saving(jnp.ones((1, 5, 2)), jnp.ones((3, 2, 2))).shape
    (1, 5, 3)

    Source: the documentation of ``jax.checkpoint_policies``.
    """
    return convs_saveable(primitive) or bool(
        jax.checkpoint_policies.dots_saveable(primitive, *args, **params)
    )


# jax has its own policy under two names, dots_saveable and checkpoint_dots, and so does jaxconv.
checkpoint_convs = convs_saveable
checkpoint_dots_and_convs = dots_and_convs_saveable
