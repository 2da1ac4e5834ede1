"""The loop that every recipe shares: optax steps, held-out scores, progress, Ctrl-C."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from . import processes
from .errors import InterruptedRunError, TrainingError
from .placement import Placement
from .recipe import Batch, Recipe


class State(NamedTuple):
    """What a step changes. With the seed and the number of steps taken it fixes the rest."""

    parameters: Any  # an nnx.State, which optax takes and returns as any tree
    rest: nnx.State  # the network's other variables, such as running means
    optimizer: optax.OptState


@dataclasses.dataclass
class History:
    """The loss of each step taken; the held-out loss and score after each epoch; the time."""

    loss: list[float] = dataclasses.field(default_factory=list)
    held_out_loss: list[float] = dataclasses.field(default_factory=list)
    held_out_score: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """The number of steps taken."""
        return len(self.loss)


class Training:
    """A recipe's examples, network and optimizer, and the functions that train and apply it.

    Args:
        recipe: What to train.
        seed: Fixes the initial parameters, the order of the examples and the augmentation.
        epochs: How often every training example is seen.
        placement: The devices that share the work, and how; one of this process's by default.

    Raises:
        BadInputError: The devices do not divide a batch or a layer.
    """

    def __init__(self, recipe: Recipe, seed: int, epochs: int, placement: Placement | None = None):
        self.recipe, self.seed, self.epochs = recipe, seed, epochs
        self.placement = placement or Placement(jax.local_devices()[:1])
        self.data = recipe.data()
        self.placement.check_batch(self.data.train, recipe.batch_size)
        self.train = self.placement.put(self.data.train)
        self.batches = _length(self.data.train) // recipe.batch_size
        self.steps = self.batches * epochs
        schedule = optax.cosine_onecycle_schedule(self.steps, recipe.learning_rate)
        self.optimizer = optax.adamw(schedule, weight_decay=recipe.weight_decay)
        self.graph, parameters, rest = nnx.split(recipe.network(nnx.Rngs(seed)), nnx.Param, ...)
        state = State(parameters, rest, self.optimizer.init(parameters))
        self.state = self.placement.put(state)
        whole = self.placement.whole
        self.step = jax.jit(self._step, out_shardings=whole)
        self.apply = jax.jit(self._outputs, out_shardings=whole)
        self._order = functools.lru_cache(maxsize=1)(self._order)
        self.placement.check_layers(self.step, *self.arguments(0))

    @property
    def parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.parameters))

    @property
    def network(self) -> nnx.Module:
        """The network with its present parameters."""
        return nnx.merge(self.graph, self.state.parameters, self.state.rest, copy=True)

    def arguments(self, step: int) -> tuple:
        """What ``self.step`` is called with for one step, counted from 0."""
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
        chunks = np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)
        outputs = [self.apply(self.state, _take(examples, chunk)) for chunk in chunks]
        outputs = jnp.concatenate(outputs)[:count]
        loss, score = self.recipe.loss(outputs, examples), self.recipe.score.of(outputs, examples)
        return np.asarray(outputs), float(loss), float(score)

    def _order(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng((self.seed, epoch)).permutation(_length(self.data.train))
        return order[: self.batches * self.recipe.batch_size].reshape(self.batches, -1)

    def _step(self, state: State, train: Batch, indices: Any, key: jax.Array) -> tuple:
        batch = self.placement.cut(self.recipe.augment(key, _take(train, indices)))

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
        return self.recipe.outputs(network, self.placement.cut(batch))


def fit(training: Training, history: History, save: Callable[[], None], console: Console) -> None:
    """Trains from ``history.step`` to the end, saving after each epoch and on Ctrl-C.

    Raises:
        InterruptedRunError: After Ctrl-C, with the step in progress finished and saved.
        TrainingError: The loss is not finite.
    """
    with _Bar(training, history, console) as bar, _interrupts() as interrupted:
        while history.step < training.steps:
            began = time.perf_counter()
            loss = training.advance(history.step)
            if not math.isfinite(loss):
                raise TrainingError(f"the loss became {loss} at step {history.step + 1}")
            history.loss.append(loss)
            bar.durations.append(time.perf_counter() - began)
            ends_epoch = history.step % training.batches == 0
            if ends_epoch:
                _, held_out_loss, held_out_score = training.held_out()
                history.held_out_loss.append(held_out_loss)
                history.held_out_score.append(held_out_score)
            history.seconds += time.perf_counter() - began
            bar.show()
            stops = interrupted(history.step)
            if ends_epoch or stops:
                save()
            if stops and history.step < training.steps:
                raise InterruptedRunError(f"stopped after step {history.step} of {training.steps}")


class _Bar:
    """The progress bar: epoch, smoothed loss, held-out score, examples a second, time left."""

    COLUMNS = (
        "epoch {task.fields[epoch]}",
        "loss {task.fields[loss]}",
        "held-out {task.fields[score]}",
        "{task.fields[rate]}",
    )

    def __init__(self, training: Training, history: History, console: Console):
        self.training, self.history = training, history
        self.durations = collections.deque(maxlen=20)
        epoch, *rest = (TextColumn(column) for column in self.COLUMNS)
        self.progress = Progress(
            epoch, BarColumn(None), *rest, TimeRemainingColumn(compact=True), console=console
        )
        self.task = self.progress.add_task("", total=training.steps, **self._fields())

    def __enter__(self) -> _Bar:
        self.progress.start()
        self.show()
        return self

    def __exit__(self, *_) -> None:
        self.progress.stop()

    def show(self) -> None:
        self.progress.update(self.task, completed=self.history.step, **self._fields())

    def _fields(self) -> dict[str, Any]:
        training, history, score = self.training, self.history, self.training.recipe.score
        recent, scores = history.loss[-20:], history.held_out_score
        epoch = min(history.step // training.batches + 1, training.epochs)
        rate = training.recipe.batch_size / statistics.median(self.durations or [math.inf])
        return {
            "epoch": f"{epoch}/{training.epochs}",
            "loss": f"{statistics.fmean(recent):.3f}" if recent else "–",
            "score": f"{score.name} {score.text(scores[-1]) if scores else '–'}",
            "rate": f"{rate:,.0f} {training.recipe.unit}/s",
        }


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[int], bool]]:
    """Ctrl-C only makes the yielded function true; a second one interrupts at once.

    The function is asked after every step, and is true after the same one in all processes.
    """
    asked = []

    def ask(*_) -> None:
        asked.append(True)
        signal.signal(signal.SIGINT, previous)
        processes.stop_all()

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda step: processes.stops(step, bool(asked))
    finally:
        signal.signal(signal.SIGINT, previous)


def _length(examples: Batch) -> int:
    return len(next(iter(examples.values())))


def _take(examples: Batch, indices: Any) -> Batch:
    return {name: array[indices] for name, array in examples.items()}
