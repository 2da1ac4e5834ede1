"""Two networks trained side by side, to compare: the same examples, order and schedule for both.

Their losses are added. No parameter is shared and AdamW treats each by itself, so either learns as
it would alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from .loop import Training
from .recipe import Batch, Run, Score

Loss = Callable[[jax.Array, Batch], jax.Array]

LOSS_LABEL = "both networks' loss (nats)"


class Twins(nnx.Module):
    """Both networks on the same input; the outputs stand behind the batch axis: ``[N, 2, …]``."""

    def __init__(self, network: nnx.Module, twin: nnx.Module):
        self.network, self.twin = network, twin

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.stack([self.network(x), self.twin(x)], axis=1)


def added(loss: Loss) -> Loss:
    """The sum of both networks' losses."""
    return lambda outputs, batch: loss(outputs[:, 0], batch) + loss(outputs[:, 1], batch)


def of_first(score: Score) -> Score:
    """The first network's score."""
    return score._replace(of=lambda outputs, batch: score.of(outputs[:, 0], batch))


def alone(run: Run, name: str, loss: Loss) -> Training:
    """The training of one of the two by itself, on the same examples, from its present state."""
    both = run.training
    recipe = dataclasses.replace(
        both.recipe,
        data=lambda: both.data,
        network=lambda rngs: getattr(both.network, name),
        loss=loss,
    )
    return Training(recipe, both.seed, both.epochs)
