"""The training loop that every recipe shares; Ctrl-C saves before it stops."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator

from rich.console import Console

from . import processes
from .errors import InterruptedRunError, TrainingError
from .progress import ProgressBar
from .training import History, Training


def fit(training: Training, history: History, save: Callable[[], None], console: Console) -> None:
    """Trains from ``history.step`` to the end, saving after each epoch and on Ctrl-C.

    Raises:
        InterruptedRunError: After Ctrl-C, once the current step is finished and saved.
        TrainingError: The loss is not finite.
    """
    with ProgressBar(training, history, console) as bar, _interrupts() as interrupted:
        while history.step < training.steps:
            start = time.perf_counter()
            loss = training.advance(history.step)
            if not math.isfinite(loss):
                raise TrainingError(f"the loss became {loss} at step {history.step + 1}")
            history.loss.append(loss)
            bar.step_seconds.append(time.perf_counter() - start)
            ends_epoch = history.step % training.batches == 0
            if ends_epoch:
                _, held_out_loss, held_out_score = training.held_out()
                history.held_out_loss.append(held_out_loss)
                history.held_out_score.append(held_out_score)
            history.seconds += time.perf_counter() - start
            bar.show()
            stop = interrupted(history.step)
            if ends_epoch or stop:
                save()
            if stop and history.step < training.steps:
                raise InterruptedRunError(f"stopped after step {history.step} of {training.steps}")


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[int], bool]]:
    """Yields a function that returns True once Ctrl-C was pressed; a second Ctrl-C interrupts.

    It is called after every step, and first returns True after the same step in all processes.
    """
    interrupts = []

    def handle(*_) -> None:
        interrupts.append(True)
        signal.signal(signal.SIGINT, previous)
        processes.request_stop()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda step: processes.should_stop(step, bool(interrupts))
    finally:
        signal.signal(signal.SIGINT, previous)
