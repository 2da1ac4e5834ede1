"""Errors that end a run: each is one line for the user and an exit code of the command."""

from __future__ import annotations


class TrainingError(Exception):
    """The run failed."""

    code = 1


class BadInputError(TrainingError):
    """The command's arguments, or the files they name, cannot be used."""

    code = 2


class InterruptedRunError(TrainingError):
    """The run was interrupted by Ctrl-C and has been saved."""

    code = 130
