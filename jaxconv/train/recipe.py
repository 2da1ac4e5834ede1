"""What a recipe declares: its data, network, loss and score, and how it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

Batch = Mapping[str, Any]  # named arrays with the same first axis, the examples


class Data(NamedTuple):
    """The training examples and the held-out examples, as NumPy arrays."""

    train: Batch
    held_out: Batch


class Score(NamedTuple):
    """The metric reported for the held-out examples: its name, function and format string."""

    name: str
    of: Callable[[jax.Array, Batch], jax.Array]
    format: str = "{:.3f}"

    def text(self, value: float) -> str:
        return self.format.format(value)


def no_augmentation(key: jax.Array, batch: Batch) -> Batch:
    return batch


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        name: The recipe's name on the command line.
        unit: What one example is called, in the plural.
        data: Returns the examples, the same ones at every call.
        network: Builds the network from ``nnx.Rngs``.
        outputs: ``(network, batch) -> outputs``, the network applied to a batch.
        loss: ``(outputs, batch) -> scalar``, the mean over the batch.
        score: The metric reported for the held-out examples.
        batch_size, epochs, learning_rate, weight_decay: Of AdamW under a one-cycle cosine schedule
            that peaks at ``learning_rate``.
        short_epochs: Number of epochs with ``--short``.
        loss_label: Label of the loss on the training curve's axis.
        augment: ``(key, batch) -> batch``, applied to each training batch.
    """

    name: str
    unit: str
    data: Callable[[], Data]
    network: Callable[[nnx.Rngs], nnx.Module]
    outputs: Callable[[nnx.Module, Batch], jax.Array]
    loss: Callable[[jax.Array, Batch], jax.Array]
    score: Score
    batch_size: int
    epochs: int
    learning_rate: float
    short_epochs: int
    loss_label: str = "cross-entropy (nats)"
    weight_decay: float = 1e-2
    augment: Callable[[jax.Array, Batch], Batch] = no_augmentation
