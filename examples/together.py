"""The command of ``data_parallel.py`` and ``spatial.py``: one training run in several processes.

Without ``--index`` the command starts everything on this machine: one process that trains alone,
then ``--processes`` that train together, and compares their losses. With ``--index`` the command is
one of the processes, which may be on several machines that share a folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from launch import launch
from rich.console import Console

from jaxconv.train import processes
from jaxconv.train.checkpoint import Checkpoints
from jaxconv.train.errors import InterruptedRunError, TrainingError
from jaxconv.train.loop import fit
from jaxconv.train.placement import Placement
from jaxconv.train.recipe import Recipe
from jaxconv.train.training import Training

LOSSES = "losses.json"
# Relative, in float64, where only the order of summation differs. float32 would not do: AdamW
# divides each gradient by its own magnitude, which turned rounding errors of 1e-7 into differences
# of 3e-2 within 37 steps.
TOLERANCE = 1e-12


def main(recipe: Recipe, axis: str, description: str) -> int:
    """The command, with ``axis`` of each batch sharded.

    Returns the exit code, or exits at once as one of several processes: jax would wait for the
    others at exit, and they for this process.
    """
    options = _parse(recipe, description)
    if options.index is not None:
        os._exit(_member(recipe, axis, options))
    return _launch(recipe, options)


def _parse(recipe: Recipe, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--processes", type=_count, default=2, metavar="N", help="number of processes (default: 2)"
    )
    parser.add_argument(
        "--devices",
        type=_count,
        default=1,
        metavar="N",
        help="CPU devices per process (default: 1)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs", recipe.name),
        metavar="DIR",
        help="where checkpoints and losses are saved (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=_count,
        default=recipe.epochs,
        metavar="N",
        help="passes over the training examples (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="delete the checkpoints of an earlier run and start over",
    )
    parser.add_argument("--index", type=int, metavar="I", help="run as process I, counted from 0")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


# --- one process ----------------------------------------------------------------------------------


def _member(recipe: Recipe, axis: str, options: argparse.Namespace) -> int:
    """Trains as one of the processes; returns its exit code, after one line about an error."""
    name = f"process {options.index} of {options.processes}"
    try:
        with processes.peers_may_fail():
            _train(recipe, axis, options)
            if jax.process_count() > 1:
                jax.distributed.shutdown()
        code = 0
    except InterruptedRunError as stop:
        print(f"{name}: {stop} and saved; the same command resumes", file=sys.stderr)
        code = stop.code
    except TrainingError as error:
        print(f"{name}: {error}", file=sys.stderr)
        code = error.code
    except BaseException:
        logging.exception("%s failed", name)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _train(recipe: Recipe, axis: str, options: argparse.Namespace) -> None:
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs the errors that it raises
    double = jax.config.read("jax_enable_x64")
    arguments = _arguments(recipe, options, double)
    member = processes.Member(options.index, options.processes, options.coordinator or "")
    processes.join(member, arguments | {"axis": axis})
    console = Console(highlight=False, quiet=not processes.is_first())
    placement = Placement(jax.devices(), axis)
    recipe = _in_double(recipe) if double else recipe
    training = Training(recipe, options.seed, options.epochs, placement)
    checkpoints = Checkpoints(options.output / "checkpoint", training)
    if options.fresh:
        checkpoints.discard()
    history = checkpoints.restore()
    fix = f"--output {options.output} must be one folder that all processes can see"
    processes.require_equal({"checkpoint step": history.step}, {"checkpoint step": fix})
    console.print(
        f"{recipe.name}: {axis} sharded over {placement.mesh.size} devices of "
        f"{jax.process_count()} processes; steps {history.step} to {training.steps}"
    )
    if history.step < training.steps:
        fit(training, history, lambda: checkpoints.save(history), console)
    if processes.is_first():
        finished = {"arguments": arguments, "loss": history.loss}
        (options.output / LOSSES).write_text(json.dumps(finished))


def _arguments(recipe: Recipe, options: argparse.Namespace, double: bool) -> dict[str, Any]:
    numbers = {"seed": options.seed, "epochs": options.epochs}
    return {"recipe": recipe.name, **numbers, "dtype": "float64" if double else "float32"}


def _in_double(recipe: Recipe) -> Recipe:
    """The recipe with its examples and its network's variables in float64."""

    def double(tree):
        return jax.tree.map(
            lambda x: x.astype(np.float64) if jax.numpy.issubdtype(x.dtype, np.floating) else x,
            tree,
        )

    def network(rngs: nnx.Rngs) -> nnx.Module:
        graph, state = nnx.split(recipe.network(rngs))
        return nnx.merge(graph, double(state))

    return dataclasses.replace(recipe, data=lambda: double(recipe.data()), network=network)


# --- all processes --------------------------------------------------------------------------------


def _launch(recipe: Recipe, options: argparse.Namespace) -> int:
    """Trains in one process, then in several, and compares the losses."""
    arguments, losses = _arguments(recipe, options, double=True), []
    for count, devices in ((1, 1), (options.processes, options.devices)):
        folder = options.output / f"{count}x{devices}"
        if options.fresh or _losses(folder, arguments) is None:
            command = [*_command(options, folder, count), "--index"]
            code = launch([[*command, str(index)] for index in range(count)], _environment(devices))
            if code:
                return code
        losses.append(np.asarray(_losses(folder, arguments)))
    return _compare(recipe, *losses)


def _losses(folder: Path, arguments: dict[str, Any]) -> list[float] | None:
    """The losses of a finished run, if there is one with the same arguments."""
    try:
        finished = json.loads((folder / LOSSES).read_text())
    except OSError:
        return None
    return finished["loss"] if finished["arguments"] == arguments else None


def _command(options: argparse.Namespace, folder: Path, count: int) -> list[str]:
    numbers = {"processes": count, "epochs": options.epochs, "seed": options.seed}
    words = [f"--{name}={value}" for name, value in numbers.items()]
    words += [f"--output={folder}", f"--coordinator=localhost:{_free_port()}"]
    return [sys.executable, sys.argv[0], *words, *(["--fresh"] if options.fresh else [])]


def _environment(devices: int) -> dict[str, str]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1", "XLA_FLAGS": flags.strip()}


def _free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def _compare(recipe: Recipe, alone: np.ndarray, together: np.ndarray) -> int:
    difference = np.abs(together - alone) / np.abs(alone)
    at = int(difference.argmax())
    print(
        f"{recipe.name}: {len(alone)} losses, from {alone[0]:.4f} to {alone[-1]:.4f}; relative "
        f"difference between several processes and one: {difference[0]:.1e} at the first step, at "
        f"most {difference[at]:.1e}, at step {at + 1}"
    )
    if difference[at] > TOLERANCE:
        print(f"the losses differ by more than {TOLERANCE:.0e}", file=sys.stderr)
        return 1
    return 0
