"""Two networks trained side by side for comparison, on the same examples in the same order.

Their losses are added. They share no parameter, and AdamW updates each parameter by itself, so each
network learns as it would alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from .recipe import Batch, Score
from .run import Run
from .training import Training

Loss = Callable[[jax.Array, Batch], jax.Array]

LOSS_LABEL = "sum of both networks' losses (nats)"


class Twins(nnx.Module):
    """Both networks on the same input, their outputs stacked on axis 1: ``[N, 2, …]``."""

    def __init__(self, network: nnx.Module, twin: nnx.Module):
        self.network, self.twin = network, twin

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.stack([self.network(x), self.twin(x)], axis=1)


def summed(loss: Loss) -> Loss:
    """The sum of both networks' losses."""
    return lambda outputs, batch: loss(outputs[:, 0], batch) + loss(outputs[:, 1], batch)


def of_first(score: Score) -> Score:
    """The first network's score."""
    return score._replace(of=lambda outputs, batch: score.of(outputs[:, 0], batch))


def alone(run: Run, name: str, loss: Loss) -> Training:
    """The training of one of the two networks by itself, from its current state."""
    both = run.training
    recipe = dataclasses.replace(
        both.recipe,
        data=lambda: both.data,
        network=lambda rngs: getattr(both.network, name),
        loss=loss,
    )
    return Training(recipe, both.seed, both.epochs)
