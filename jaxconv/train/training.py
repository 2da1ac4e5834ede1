"""A recipe's examples, network and optimizer, and the functions that train and evaluate it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from .placement import Placement
from .recipe import Batch, Recipe


class State(NamedTuple):
    """What a training step updates. The seed and the step number determine everything else."""

    parameters: Any  # an nnx.State; typed Any because optax accepts and returns any tree
    rest: nnx.State  # the network's other variables, such as running means
    optimizer: optax.OptState


@dataclasses.dataclass
class History:
    """The loss of each step, the held-out loss and score of each epoch, and the seconds taken."""

    loss: list[float] = dataclasses.field(default_factory=list)
    held_out_loss: list[float] = dataclasses.field(default_factory=list)
    held_out_score: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """The number of steps taken."""
        return len(self.loss)


class Training:
    """A recipe's examples, network and optimizer, and the functions that train and evaluate it.

    Args:
        recipe: What to train.
        seed: Determines the initial parameters, the order of the examples and the augmentation.
        epochs: Number of passes over the training examples.
        placement: The devices that share the work; by default this process's first device.

    Raises:
        BadInputError: A batch or a layer cannot be divided evenly over the devices.
    """

    def __init__(self, recipe: Recipe, seed: int, epochs: int, placement: Placement | None = None):
        self.recipe, self.seed, self.epochs = recipe, seed, epochs
        self.placement = placement or Placement(jax.local_devices()[:1])
        self.data = recipe.data()
        self.placement.check_batch(self.data.train, recipe.batch_size)
        self.train = self.placement.replicate(self.data.train)
        self.batches = _length(self.data.train) // recipe.batch_size
        self.steps = self.batches * epochs
        schedule = optax.cosine_onecycle_schedule(self.steps, recipe.learning_rate)
        self.optimizer = optax.adamw(schedule, weight_decay=recipe.weight_decay)
        self.graph, parameters, rest = nnx.split(recipe.network(nnx.Rngs(seed)), nnx.Param, ...)
        state = State(parameters, rest, self.optimizer.init(parameters))
        self.state = self.placement.replicate(state)
        self.step = jax.jit(self._step, out_shardings=self.placement.replicated)
        self.apply = jax.jit(self._outputs, out_shardings=self.placement.replicated)
        self._order = functools.lru_cache(maxsize=1)(self._order)
        self.placement.check_layers(self.step, *self.arguments(0))

    @property
    def parameters(self) -> int:
        """The number of trained parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.parameters))

    @property
    def network(self) -> nnx.Module:
        """The network with its current parameters."""
        return nnx.merge(self.graph, self.state.parameters, self.state.rest, copy=True)

    def arguments(self, step: int) -> tuple:
        """The arguments of ``self.step`` for one step, counted from 0."""
        epoch, position = divmod(step, self.batches)
        key = jax.random.fold_in(jax.random.key(self.seed), step)
        return self.state, self.train, self._order(epoch)[position], key

    def advance(self, step: int) -> float:
        """Takes one step and returns its loss."""
        self.state, loss = self.step(*self.arguments(step))
        return float(loss)

    def held_out(self) -> tuple[np.ndarray, float, float]:
        """The outputs, loss and score on the held-out examples."""
        examples, size = self.data.held_out, self.recipe.batch_size
        count = _length(examples)
        # The last batch repeats the last example, so that every batch has the compiled size.
        batches = np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)
        outputs = [self.apply(self.state, _take(examples, batch)) for batch in batches]
        outputs = jnp.concatenate(outputs)[:count]
        loss, score = self.recipe.loss(outputs, examples), self.recipe.score.of(outputs, examples)
        return np.asarray(outputs), float(loss), float(score)

    def _order(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng((self.seed, epoch)).permutation(_length(self.data.train))
        return order[: self.batches * self.recipe.batch_size].reshape(self.batches, -1)

    def _step(self, state: State, train: Batch, indices: Any, key: jax.Array) -> tuple:
        batch = self.placement.shard(self.recipe.augment(key, _take(train, indices)))

        def loss_of(parameters):
            network = nnx.merge(self.graph, parameters, state.rest, copy=True)
            network.train()
            loss = self.recipe.loss(self.recipe.outputs(network, batch), batch)
            return loss, nnx.split(network, nnx.Param, ...)[2]

        (loss, rest), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.parameters)
        updates, optimizer = self.optimizer.update(gradient, state.optimizer, state.parameters)
        return State(optax.apply_updates(state.parameters, updates), rest, optimizer), loss

    def _outputs(self, state: State, batch: Batch) -> jax.Array:
        network = nnx.merge(self.graph, state.parameters, state.rest, copy=True)
        network.eval()
        return self.recipe.outputs(network, self.placement.shard(batch))


def _length(examples: Batch) -> int:
    return len(next(iter(examples.values())))


def _take(examples: Batch, indices: Any) -> Batch:
    return {name: array[indices] for name, array in examples.items()}
