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
MAX_INTEGER = 2**31 - 1
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
        resume = shlex.join(word for word in arguments if word != "--fresh")
        return _end(f"{stop} and saved; resume with: {COMMAND} {resume}", stop.code)
    except TrainingError as error:
        return _end(str(error), error.code)
    except ImportError as error:  # a dependency of the required packages is missing
        return _end(f'{error}; pip install "jaxconv[demo]"', BadInputError.code)
    except OSError as error:
        return _end(str(error), TrainingError.code)
    except KeyboardInterrupt:
        return _end(
            "interrupted; run the same command again to resume from the last checkpoint",
            InterruptedRunError.code,
        )
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog=COMMAND,
        description="Trains a network on real data, then prints and draws the results. The same "
        "command resumes an interrupted run.",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", help=f"what to train, one of: {', '.join(RECIPES)}")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where checkpoints and figures are saved (default: runs/RECIPE)",
    )
    parser.add_argument(
        "--epochs",
        type=_integer(1),
        metavar="N",
        help="passes over the training examples (default: the recipe's)",
    )
    parser.add_argument(
        "--seed", type=_integer(0), default=0, metavar="N", help="random seed (default: 0)"
    )
    parser.add_argument("--short", action="store_true", help="train for fewer epochs")
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="delete the checkpoint of an earlier run and start over",
    )
    options = parser.parse_args(arguments)
    if options.recipe not in RECIPES:
        raise BadInputError(f"unknown recipe {options.recipe!r}; choose from {', '.join(RECIPES)}")
    if options.output is None:
        options.output = Path("runs", options.recipe + ("-short" if options.short else ""))
    return options


def _integer(minimum: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if not text.isdecimal() or not minimum <= int(text) <= MAX_INTEGER:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not an integer from {minimum} to {MAX_INTEGER}"
            )
        return int(text)

    return integer


def _require(packages: tuple[str, ...]) -> None:
    for package in (*LOOP_PACKAGES, *packages):
        try:
            found = importlib.util.find_spec(package) is not None
        except ImportError:  # raised by an import hook that hides the package
            found = False
        if not found:
            raise BadInputError(f'{package} is not installed; pip install "jaxconv[demo]"')


def _end(line: str, code: int) -> int:
    print(f"jaxconv.train: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
