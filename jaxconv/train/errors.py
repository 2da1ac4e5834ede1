"""What ends a run early: each is one line for the reader and the exit code of the command."""

from __future__ import annotations


class TrainingError(Exception):
    """The run failed."""

    code = 1


class BadInputError(TrainingError):
    """What the command was given cannot be used."""

    code = 2


class InterruptedRunError(TrainingError):
    """Ctrl-C; what was trained so far is saved."""

    code = 130
