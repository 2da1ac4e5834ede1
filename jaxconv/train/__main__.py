"""The command line: ``python -m jaxconv.train RECIPE``."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from . import RECIPES
from .errors import BadInputError, InterruptedRunError, TrainingError

COMMAND = "python -m jaxconv.train"
LARGEST = 2**31 - 1
LOOP_PACKAGES = ("flax", "matplotlib", "optax", "orbax", "rich")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInputError(f"{message}; see {COMMAND} --help")


def main(arguments: list[str]) -> int:
    """Runs one recipe; returns 0, 1 (the run failed), 2 (bad input) or 130 (Ctrl-C)."""
    try:
        options = _parse(arguments)
        _require(RECIPES[options.recipe])
        from .run import run

        run(options)
    except InterruptedRunError as stop:
        again = shlex.join(word for word in arguments if word != "--fresh")
        return _end(f"{stop} and saved; resume with: {COMMAND} {again}", stop.code)
    except TrainingError as error:
        return _end(str(error), error.code)
    except ImportError as error:  # of what the packages above need
        return _end(f'{error}; pip install "jaxconv[demo]"', BadInputError.code)
    except OSError as error:
        return _end(f"cannot go on: {error}", TrainingError.code)
    except KeyboardInterrupt:
        return _end(
            "stopped; the same command goes on from what is saved", InterruptedRunError.code
        )
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog=COMMAND, allow_abbrev=False)
    parser.add_argument("recipe", help=f"what to train: {', '.join(RECIPES)}")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/RECIPE")
    parser.add_argument("--epochs", type=_whole(1), metavar="N", help="default: the recipe's")
    parser.add_argument("--seed", type=_whole(0), default=0, metavar="N", help="default: 0")
    parser.add_argument("--short", action="store_true", help="a quick look: few epochs")
    parser.add_argument("--fresh", action="store_true", help="discard an earlier run's checkpoint")
    options = parser.parse_args(arguments)
    if options.recipe not in RECIPES:
        raise BadInputError(f"unknown recipe {options.recipe!r}; choose from {', '.join(RECIPES)}")
    if options.output is None:
        options.output = Path("runs", options.recipe + ("-short" if options.short else ""))
    return options


def _whole(low: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= LARGEST:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {LARGEST}")
        return int(text)

    return whole


def _require(packages: tuple[str, ...]) -> None:
    for package in (*LOOP_PACKAGES, *packages):
        try:
            found = importlib.util.find_spec(package) is not None
        except ImportError:  # an import hook's way of saying so
            found = False
        if not found:
            raise BadInputError(f'{package} is not installed; pip install "jaxconv[demo]"')


def _end(line: str, code: int) -> int:
    print(f"jaxconv.train: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
