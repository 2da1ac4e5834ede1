"""One command from its options to its report."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import tempfile
from pathlib import Path

import jax
from rich.console import Console

from .checkpoint import Checkpoints
from .errors import BadInputError, TrainingError
from .loop import History, Training, fit
from .recipe import Recipe, Run

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # how XLA begins to say so


def run(options: argparse.Namespace) -> None:
    """Trains, or goes on training, the recipe that the options name; then reports.

    Raises:
        TrainingError: Something cannot be used or done; what was saved stays.
    """
    try:
        _run(options)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and OUT_OF_MEMORY not in str(error):
            raise
        raise TrainingError(
            "not enough memory; the same command goes on from what is saved"
        ) from error


def _run(options: argparse.Namespace) -> None:
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs what it also raises
    recipe: Recipe = importlib.import_module(f".{options.recipe}", __package__).RECIPE
    console = Console(highlight=False)
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
    _report(training, history, folder, console)


def _report(training: Training, history: History, folder: Path, console: Console) -> None:
    score = training.recipe.score
    outputs, _, reached = training.held_out()
    console.print(
        f"[bold]Held-out {score.name} {score.text(reached)}[/bold] after {history.seconds:.0f} s "
        "of training.\n"
    )
    training.recipe.report(Run(training, history, outputs, folder, console))
    kept = ", ".join(sorted(str(path) for path in folder.iterdir()))
    console.print(f"Saved: {kept}", soft_wrap=True)


def _opening(training: Training, history: History) -> str:
    recipe, data = training.recipe, training.data
    learned, held_out = (len(next(iter(part.values()))) for part in data)
    about = (
        f"[bold]{recipe.name}[/bold]: {learned:,} {recipe.unit} to learn from, {held_out:,} held "
        f"out; {training.parameters:,} parameters"
    )
    if not history.step:
        return about
    if history.step < training.steps:
        return f"{about}\nResuming after step {history.step:,} of {training.steps:,}."
    return f"{about}\nTrained already; this is its report. --fresh trains anew."


def _writable(folder: Path) -> Path:
    """``folder``, made if it was missing, once a file could be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return folder
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise BadInputError(
            f"cannot write in {folder} ({reason}); choose another --output"
        ) from error
