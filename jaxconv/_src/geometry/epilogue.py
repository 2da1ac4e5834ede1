"""What a fused convolution computes after the products of each output: static and hashable."""

from __future__ import annotations

import dataclasses
from typing import Any

# In the order of ``Activation`` in csrc/epilogue.h, which starts with the identity.
ACTIVATIONS = (
    "relu",
    "relu6",
    "leaky_relu",
    "silu",
    "gelu_tanh",
    "gelu_exact",
    "sigmoid",
    "hard_swish",
    "tanh",
)

# Other names for the same functions. ``jax.nn.gelu`` is the tanh approximation by default.
ALIASES = {"gelu": "gelu_tanh", "swish": "silu", "hard_silu": "hard_swish"}


@dataclasses.dataclass(frozen=True)
class Epilogue:
    """``y = activation(conv(x, kernel) * scale + bias + residual)``, each part optional.

    ``scale`` and ``bias`` are ``[F]``, ``residual`` has the shape of the output.
    ``activation`` is one of ``ACTIVATIONS`` or None; ``negative_slope`` belongs to
    ``"leaky_relu"`` and is 0 for every other activation, so that equal epilogues compare equal.
    """

    scale: bool = False
    bias: bool = False
    residual: bool = False
    activation: str | None = None
    negative_slope: float = 0.0

    def replace(self, **changes: Any) -> Epilogue:
        return dataclasses.replace(self, **changes)

    @property
    def trivial(self) -> bool:
        """Whether it changes nothing."""
        return not (self.scale or self.bias or self.residual or self.activation)

    @property
    def operands(self) -> tuple[str, ...]:
        """The names of the arrays that it reads, in the order of the primitive's operands."""
        return tuple(name for name in ("scale", "bias", "residual") if getattr(self, name))

    def __str__(self) -> str:
        return " + ".join((*self.operands, *([self.activation] if self.activation else [])))


NO_EPILOGUE = Epilogue()
