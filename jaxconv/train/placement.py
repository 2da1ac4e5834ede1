"""Where a run's arrays are: the state whole on every device, every batch cut over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .._src.analysis.explain import explain
from .errors import BadInputError
from .recipe import Batch

MEND = "choose a number of devices, which is processes times devices of each, that divides it"


class Placement:
    """A mesh of one axis and the axis of a batch's arrays that it cuts.

    A step is compiled for all devices as one program: XLA cuts what follows from the batch, each
    convolution runs its kernel on every device's part, and gradients are summed.

    Args:
        devices: The mesh's, of all processes, in the same order in each of them.
        cut: What is cut, the name of the mesh's axis: ``"batch"``, the examples; or ``"height"``,
            the first spatial axis of ``[N, H, …]``. Arrays without this axis are whole everywhere.
    """

    AXES = ("batch", "height")

    def __init__(self, devices: Sequence[Any], cut: str = "batch"):
        if cut not in self.AXES:
            names = " and ".join(map(repr, self.AXES))
            raise BadInputError(f"there is no mesh axis {cut!r} to cut a batch over; {names} are")
        self.name, self.axis = cut, self.AXES.index(cut)
        self.mesh = Mesh(np.asarray(devices), (cut,), axis_types=(AxisType.Auto,))
        self.whole = NamedSharding(self.mesh, PartitionSpec())

    def put(self, tree: Any) -> Any:
        """Every array of ``tree``, the same in all processes, on every device."""
        return jax.device_put(tree, self.whole)

    def cut(self, batch: Batch) -> Batch:
        """``batch`` within a compiled function, each device holding its part."""
        return {
            name: jax.lax.with_sharding_constraint(array, self._of(array.ndim))
            for name, array in batch.items()
        }

    def _of(self, rank: int) -> NamedSharding:
        if rank <= self.axis:
            return self.whole
        return NamedSharding(self.mesh, PartitionSpec(*[None] * self.axis, self.name))

    def check_batch(self, examples: Batch, batch_size: int) -> None:
        """Refuses batches that the mesh does not cut evenly."""
        for name, array in examples.items():
            shape = (batch_size, *array.shape[1:])
            if len(shape) > self.axis:
                self._check(shape[self.axis], f"the {self.name} of {name!r}, {_times(shape)},")

    def check_layers(self, step: Callable, *args: Any) -> None:
        """Refuses a step with convolutions whose extents do not divide: XLA would gather them."""
        if not self.axis or self.mesh.size == 1:
            return
        for conv in explain(step, *args).convs:
            if conv.spec is not None:
                for shape in (conv.spec.input_shape, conv.spec.output_shape):
                    self._check(shape[self.axis], f"the {self.name} of a layer, {_times(shape)},")

    def _check(self, extent: int, what: str) -> None:
        count = self.mesh.size
        if extent % count:
            raise BadInputError(
                f"{what} must divide over mesh axis {self.name!r}, but {extent} is no multiple of "
                f"its {count} devices; {MEND}"
            )


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
