"""What a recipe declares, and what its report is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from rich.console import Console

if TYPE_CHECKING:
    from .loop import History, Training

Batch = Mapping[str, Any]  # arrays that share their first axis


class Data(NamedTuple):
    """The examples to learn from and those held out, as NumPy arrays."""

    train: Batch
    held_out: Batch


class Score(NamedTuple):
    """The figure a recipe is judged by: a mean over examples, and how it is written."""

    name: str
    of: Callable[[jax.Array, Batch], jax.Array]
    form: str = "{:.3f}"

    def text(self, value: float) -> str:
        return self.form.format(value)


def unchanged(key: jax.Array, batch: Batch) -> Batch:
    """No augmentation."""
    return batch


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training run, declared.

    Attributes:
        name: The word on the command line.
        unit: What one example is called, in the plural.
        data: Returns the examples; the same ones at every call.
        network: Builds the network from ``nnx.Rngs``.
        outputs: ``(network, batch) -> outputs``, the network applied to a batch.
        loss: ``(outputs, batch) -> scalar``, the mean over the batch.
        loss_label: What the loss is, on the curve's axis.
        score: The figure reported for the held-out examples.
        report: Prints and draws what the run found.
        batch_size, epochs, learning_rate, weight_decay: AdamW under a one-cycle cosine schedule
            that peaks at ``learning_rate``.
        short_epochs: The epochs of the ``--short`` form.
        augment: ``(key, batch) -> batch``, applied to each training batch.
    """

    name: str
    unit: str
    data: Callable[[], Data]
    network: Callable[[nnx.Rngs], nnx.Module]
    outputs: Callable[[nnx.Module, Batch], jax.Array]
    loss: Callable[[jax.Array, Batch], jax.Array]
    score: Score
    report: Callable[[Run], None]
    batch_size: int
    epochs: int
    learning_rate: float
    short_epochs: int
    loss_label: str = "cross-entropy (nats)"
    weight_decay: float = 1e-2
    augment: Callable[[jax.Array, Batch], Batch] = unchanged


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: the trained network, its outputs on the held-out examples, its history."""

    training: Training
    history: History
    outputs: np.ndarray
    folder: Path
    console: Console
