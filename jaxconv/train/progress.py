"""The progress bar of a training run."""

from __future__ import annotations

import collections
import math
import statistics
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .training import History, Training

WINDOW = 20  # steps over which the loss and the rate are averaged


class ProgressBar:
    """Shows the epoch, smoothed loss, held-out score, examples per second and time left."""

    COLUMNS = (
        "epoch {task.fields[epoch]}",
        "loss {task.fields[loss]}",
        "held-out {task.fields[score]}",
        "{task.fields[rate]}",
    )

    def __init__(self, training: Training, history: History, console: Console):
        self.training, self.history = training, history
        self.step_seconds = collections.deque(maxlen=WINDOW)
        epoch, *rest = (TextColumn(column) for column in self.COLUMNS)
        self.progress = Progress(
            epoch, BarColumn(None), *rest, TimeRemainingColumn(compact=True), console=console
        )
        self.task = self.progress.add_task("", total=training.steps, **self._fields())

    def __enter__(self) -> ProgressBar:
        self.progress.start()
        self.show()
        return self

    def __exit__(self, *_) -> None:
        self.progress.stop()

    def show(self) -> None:
        self.progress.update(self.task, completed=self.history.step, **self._fields())

    def _fields(self) -> dict[str, Any]:
        training, history, score = self.training, self.history, self.training.recipe.score
        recent, scores = history.loss[-WINDOW:], history.held_out_score
        epoch = min(history.step // training.batches + 1, training.epochs)
        rate = training.recipe.batch_size / statistics.median(self.step_seconds or [math.inf])
        return {
            "epoch": f"{epoch}/{training.epochs}",
            "loss": f"{statistics.fmean(recent):.3f}" if recent else "–",
            "score": f"{score.name} {score.text(scores[-1]) if scores else '–'}",
            "rate": f"{rate:,.0f} {training.recipe.unit}/s",
        }
