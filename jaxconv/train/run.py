"""One command, from its options to its report."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from .checkpoint import Checkpoints
from .errors import BadInputError, TrainingError
from .loop import fit
from .training import History, Training

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # the status code in XLA's error messages


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, as a recipe's ``report`` receives it.

    Attributes:
        training: The trained network and its data.
        history: The losses and scores.
        outputs: The network's outputs on the held-out examples.
        folder: Where figures are saved.
        console: Where tables are printed.
    """

    training: Training
    history: History
    outputs: np.ndarray
    folder: Path
    console: Console


def run(options: argparse.Namespace) -> None:
    """Trains or resumes the recipe that the options name, then reports the results.

    Raises:
        TrainingError: The options or the saved run cannot be used, or the run failed.
    """
    try:
        _run(options)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and OUT_OF_MEMORY not in str(error):
            raise
        raise TrainingError(
            "out of memory; run the same command again to resume from the last checkpoint"
        ) from error


def _run(options: argparse.Namespace) -> None:
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs the errors that it raises
    module = importlib.import_module(f".{options.recipe}", __package__)
    recipe, console = module.RECIPE, Console(highlight=False)
    folder = _writable(options.output)
    epochs = options.epochs or (recipe.short_epochs if options.short else recipe.epochs)
    training = Training(recipe, options.seed, epochs)
    checkpoints = Checkpoints(folder / "checkpoint", training)
    if options.fresh:
        checkpoints.discard()
    history = checkpoints.restore()
    console.print(_opening(training, history))
    if history.step < training.steps:
        fit(training, history, lambda: checkpoints.save(history), console)
    _report(module.report, training, history, folder, console)


def _report(
    report: Callable[[Run], None],
    training: Training,
    history: History,
    folder: Path,
    console: Console,
) -> None:
    score = training.recipe.score
    outputs, _, value = training.held_out()
    console.print(
        f"[bold]Held-out {score.name}: {score.text(value)}[/bold] after {history.seconds:.0f} s of "
        "training\n"
    )
    report(Run(training, history, outputs, folder, console))
    saved = ", ".join(sorted(str(path) for path in folder.iterdir()))
    console.print(f"Saved {saved}", soft_wrap=True)


def _opening(training: Training, history: History) -> str:
    recipe = training.recipe
    train, held_out = (len(next(iter(part.values()))) for part in training.data)
    opening = (
        f"[bold]{recipe.name}[/bold]: {train:,} training {recipe.unit}, {held_out:,} held out; "
        f"{training.parameters:,} parameters"
    )
    if not history.step:
        return opening
    if history.step < training.steps:
        return f"{opening}\nResuming after step {history.step:,} of {training.steps:,}"
    return f"{opening}\nAlready trained; use --fresh to train again"


def _writable(folder: Path) -> Path:
    """Creates ``folder`` if it is missing, and makes sure that files can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return folder
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise BadInputError(
            f"cannot write to {folder} ({reason}); choose another --output"
        ) from error
