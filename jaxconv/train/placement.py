"""How a run's arrays are placed on devices: the state replicated, every batch sharded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .._src.analysis.explain import explain
from .errors import BadInputError
from .recipe import Batch

FIX = "choose a total number of devices (processes times devices per process) that divides it"


class Placement:
    """A one-dimensional mesh, and the axis of a batch's arrays that is sharded over it.

    A step is compiled as one program for all devices: XLA partitions what follows from the batch,
    each convolution computes every device's shard, and gradients are summed.

    Args:
        devices: The devices of all processes, in the same order in each process.
        axis: The axis to shard, which also names the mesh axis: ``"batch"``, the examples, or
            ``"height"``, the first spatial axis of ``[N, H, …]``. Arrays without this axis are
            replicated.
    """

    AXES = ("batch", "height")

    def __init__(self, devices: Sequence[Any], axis: str = "batch"):
        if axis not in self.AXES:
            names = " or ".join(map(repr, self.AXES))
            raise BadInputError(f"Placement: axis must be {names}, but got {axis!r}")
        self.name, self.axis = axis, self.AXES.index(axis)
        self.mesh = Mesh(np.asarray(devices), (axis,), axis_types=(AxisType.Auto,))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())

    def replicate(self, tree: Any) -> Any:
        """Puts every array of ``tree``, which is the same in all processes, on every device."""
        return jax.device_put(tree, self.replicated)

    def shard(self, batch: Batch) -> Batch:
        """Shards ``batch`` over the devices, inside a compiled function."""
        return {
            name: jax.lax.with_sharding_constraint(array, self._sharding(array.ndim))
            for name, array in batch.items()
        }

    def _sharding(self, rank: int) -> NamedSharding:
        if rank <= self.axis:
            return self.replicated
        return NamedSharding(self.mesh, PartitionSpec(*[None] * self.axis, self.name))

    def check_batch(self, examples: Batch, batch_size: int) -> None:
        """Raises BadInputError if a batch cannot be divided evenly over the devices."""
        for name, array in examples.items():
            shape = (batch_size, *array.shape[1:])
            if len(shape) > self.axis:
                self._check(shape[self.axis], f"the {self.name} of {name!r}, {_times(shape)},")

    def check_layers(self, step: Callable, *args: Any) -> None:
        """Raises BadInputError if a layer cannot be divided evenly: XLA would gather it instead."""
        if not self.axis or self.mesh.size == 1:
            return
        for conv in explain(step, *args).convs:
            if conv.spec is not None:
                for shape in (conv.spec.input_shape, conv.spec.output_shape):
                    self._check(shape[self.axis], f"the {self.name} of a layer, {_times(shape)},")

    def _check(self, extent: int, what: str) -> None:
        devices = self.mesh.size
        if extent % devices:
            raise BadInputError(
                f"{what} must be divisible by the {devices} devices of mesh axis {self.name!r}, "
                f"but got {extent}; {FIX}"
            )


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
