"""Dense layers as 1x1 convolutions, where the caller asks for it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax
from jax.extend.core import JaxprEqn

from ...geometry.spec import ConvSpec, Shape
from .flat import shape_of

# A user context is part of jit's cache key: entering it makes jitted functions trace again.
_fused = jax.make_user_context(False)


@contextlib.contextmanager
def fuse_dense_layers() -> Iterator[None]:
    """Fuses dense layers, too, with what follows them.

    This is not the default, because XLA partitions a matrix product over several devices in more
    ways than a convolution.
    """
    with _fused(True):
        yield


def dense_layers_are_fused() -> bool:
    return _fused.value


@dataclasses.dataclass(frozen=True)
class Reshaping:
    """As a ``Rearrangement``, for an array that is reshaped."""

    shape: Shape
    new_shape: Shape

    def apply(self, array, spatial_axes: Sequence[int]):
        return array.reshape(self.new_shape)

    def apply_to_result(self, array, spatial_axes: Sequence[int]):
        return array.reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Dense:
    """A matrix product ``x [..., C] @ kernel [C, F]`` as a 1x1 convolution."""

    spec: ConvSpec
    lhs: Reshaping
    rhs: Reshaping
    result: Reshaping


def dense(eqn: JaxprEqn) -> Dense | None:
    """The dense layer that an equation is, or None."""
    x, kernel = map(shape_of, eqn.invars)
    contracted, batch = eqn.params["dimension_numbers"]
    if len(kernel) != 2 or len(x) < 2 or any(batch):
        return None
    if tuple(map(tuple, contracted)) != ((len(x) - 1,), (0,)):
        return None
    spatial = x[1:-1] if 1 <= len(x) - 2 <= 3 else (math.prod(x[1:-1]),)
    ones = (1,) * len(spatial)
    spec = ConvSpec(
        batch=x[0],
        in_features=kernel[0],
        out_features=kernel[1],
        input_spatial=spatial,
        kernel_spatial=ones,
        strides=ones,
        padding=((0, 0),) * len(spatial),
        dilation=ones,
        groups=1,
    )
    return Dense(
        spec,
        Reshaping(x, spec.input_shape),
        Reshaping(kernel, spec.kernel_shape),
        Reshaping(shape_of(eqn.outvars[0]), spec.output_shape),
    )
