"""Types of the arguments that the public functions share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import jax

# One int for every spatial axis, or one per axis.
Ints = int | Sequence[int]

ImplementationName = Literal["lax", "taps", "dots", "fft", "native", "pallas"]

ActivationName = Literal[
    "relu",
    "relu6",
    "leaky_relu",
    "silu",
    "swish",
    "gelu",
    "gelu_tanh",
    "gelu_exact",
    "sigmoid",
    "hard_swish",
    "hard_silu",
    "tanh",
]

# An activation by name, or the function of ``jax.nn`` itself; None for none.
Activation = ActivationName | Callable[[jax.Array], jax.Array] | None
