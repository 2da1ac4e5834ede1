"""One training run in several processes: what ``data_parallel.py`` and ``spatial.py`` share.

Without ``--index`` the command starts everything on this machine: one process that trains alone,
then as many as asked for that train together, and compares their losses. With ``--index`` it is one
of the processes, which may then be on several machines that share a folder.
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
from jaxconv.train.loop import Training, fit
from jaxconv.train.placement import Placement
from jaxconv.train.recipe import Recipe

LOSSES = "losses.json"
# In float64, where all that differs is the order in which devices' sums are added. In float32 the
# same made 3e-2 of 1e-7 in 37 steps: AdamW divides gradients that are rounding alone by themselves.
TOLERANCE = 1e-12


def main(recipe: Recipe, cut: str, description: str) -> int:
    """The command; returns its exit code, or ends the process if it is one of several."""
    options = _parse(recipe, description)
    if options.index is not None:
        os._exit(_end(recipe, cut, options))
    return _launch(recipe, options)


def _parse(recipe: Recipe, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--processes", type=_count, default=2, metavar="N")
    parser.add_argument(
        "--devices", type=_count, default=1, metavar="N", help="CPU devices of each"
    )
    parser.add_argument("--output", type=Path, default=Path("runs", recipe.name), metavar="DIR")
    parser.add_argument("--epochs", type=_count, default=recipe.epochs, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--fresh", action="store_true", help="discard what an earlier run saved")
    parser.add_argument("--index", type=int, metavar="I", help="be process I, from 0")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 is")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


# --- one process ----------------------------------------------------------------------------------


def _end(recipe: Recipe, cut: str, options: argparse.Namespace) -> int:
    """Trains, and says in one line why not. What leaves without a word to jax leaves at once: jax
    would wait for the others, and they for this process."""
    name = f"process {options.index} of {options.processes}"
    try:
        with processes.others_may_end():
            _train(recipe, cut, options)
            if jax.process_count() > 1:
                jax.distributed.shutdown()
        code = 0
    except InterruptedRunError as stop:
        print(f"{name}: {stop} and saved; the same command goes on", file=sys.stderr)
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


def _train(recipe: Recipe, cut: str, options: argparse.Namespace) -> None:
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs what it also raises
    double = jax.config.read("jax_enable_x64")
    asked = _asked(recipe, options, double)
    member = processes.Member(options.index, options.processes, options.coordinator or "")
    processes.join(member, asked | {"cut": cut})
    console = Console(highlight=False, quiet=not processes.first())
    placement = Placement(jax.devices(), cut)
    recipe = _in_double(recipe) if double else recipe
    training = Training(recipe, options.seed, options.epochs, placement)
    checkpoints = Checkpoints(options.output / "checkpoint", training)
    if options.fresh:
        checkpoints.discard()
    history = checkpoints.restore()
    shared = f"--output {options.output} must be one folder that all of them see"
    processes.agree("step of the checkpoint", history.step, shared)
    console.print(
        f"{recipe.name}: each {cut} cut over {placement.mesh.size} devices of "
        f"{jax.process_count()} processes; from step {history.step} to {training.steps}"
    )
    if history.step < training.steps:
        fit(training, history, lambda: checkpoints.save(history), console)
    if processes.first():
        finished = {"asked": asked, "loss": history.loss}
        (options.output / LOSSES).write_text(json.dumps(finished))


def _asked(recipe: Recipe, options: argparse.Namespace, double: bool) -> dict[str, Any]:
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


# --- all of them ----------------------------------------------------------------------------------


def _launch(recipe: Recipe, options: argparse.Namespace) -> int:
    """Trains alone and together, and compares."""
    asked, losses = _asked(recipe, options, double=True), []
    for count, devices in ((1, 1), (options.processes, options.devices)):
        folder = options.output / f"{count}x{devices}"
        if options.fresh or _losses(folder, asked) is None:
            command = [*_command(options, folder, count), "--index"]
            code = launch([[*command, str(index)] for index in range(count)], _environment(devices))
            if code:
                return code
        losses.append(np.asarray(_losses(folder, asked)))
    return _compare(recipe, *losses)


def _losses(folder: Path, asked: dict[str, Any]) -> list[float] | None:
    """Those of a finished run, if there is one that was asked for the same."""
    try:
        finished = json.loads((folder / LOSSES).read_text())
    except OSError:
        return None
    return finished["loss"] if finished["asked"] == asked else None


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
        f"{recipe.name}: {len(alone)} losses, from {alone[0]:.4f} to {alone[-1]:.4f}; those "
        f"together differ from those alone by {difference[0]:.1e} at first and "
        f"{difference[at]:.1e} at most, at step {at + 1}"
    )
    if difference[at] > TOLERANCE:
        print(f"more than the {TOLERANCE:.0e} that rounding explains", file=sys.stderr)
        return 1
    return 0
