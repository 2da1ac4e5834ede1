"""Checkpoints: orbax saves and restores them; file digests are checked before orbax reads a file.

Several processes save and restore together, in a folder that all of them can see.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from . import processes
from .errors import BadInputError, TrainingError
from .training import History, Training

FIX = "use --fresh to start over, or choose another --output"
# orbax restores an array with a flipped bit without an error, and answers a truncated one with
# pages of tracebacks on the error stream.
DIGESTS = "digests.json"


class Checkpoints:
    """The latest checkpoint of one run: its state, its history and the arguments it was run with.

    Args:
        folder: Where the checkpoint is or will be saved.
        training: Its ``state`` is what is saved and restored.
    """

    def __init__(self, folder: Path, training: Training):
        self.folder, self.training = folder, training

    def restore(self) -> History:
        """Restores the state of ``training``, if one is saved, and returns its history.

        Raises:
            BadInputError: The checkpoint is damaged, or belongs to another network or run.
        """
        if not self.folder.exists():
            return History()
        if not self.folder.is_dir():
            raise BadInputError(f"{self.folder} is not a checkpoint folder; {FIX}")
        with self._unreadable_in_words(), self._manager() as manager:
            step = manager.latest_step()
            if step is None:
                return History()
            self._check_digests(self.folder / str(step))
            self._check_shapes(manager.item_metadata(step)["state"])
            saved = manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(self._arrays()), run=ocp.args.JsonRestore()
                ),
            )
            self._check_arguments(saved.run["arguments"])
            names, tree = self._arrays(), jax.tree.structure(self.training.state)
            self.training.state = jax.tree.unflatten(tree, [saved.state[name] for name in names])
            return History(**saved.run["history"])

    def save(self, history: History) -> None:
        """Saves the current state; orbax deletes the previous checkpoint once this one is complete.

        Raises:
            TrainingError: The state cannot be saved, as on a full disk; the previous one remains.
        """
        try:
            with processes.peers_may_fail():
                # Finds out at once if a process has died; orbax's own barriers would wait for long.
                processes.wait_for_all("saving")
                self._write(history)
        except (OSError, ValueError) as error:
            raise TrainingError(f"cannot save to {self.folder}: {_reason(error)}") from error

    def _write(self, history: History) -> None:
        run = {"arguments": self._arguments(), "history": dataclasses.asdict(history)}
        with self._manager() as manager:
            manager.save(
                history.step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(self._arrays()), run=ocp.args.JsonSave(run)
                ),
                force=True,
            )
        if processes.is_first():
            _write_digests(self.folder / str(history.step))

    def discard(self) -> None:
        """Deletes the checkpoint of an earlier run."""
        if processes.is_first() and self.folder.is_dir():
            shutil.rmtree(self.folder)
        elif processes.is_first():
            self.folder.unlink(missing_ok=True)
        processes.wait_for_all("discarded")

    def _manager(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.folder.absolute(),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "run": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=1, cleanup_tmp_directories=True, enable_async_checkpointing=False
            ),
        )

    def _arrays(self) -> dict[str, jax.Array]:
        """The state's arrays by name: a checkpoint does not depend on the classes of a library."""
        leaves = jax.tree.leaves_with_path(self.training.state)
        return {
            jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves
        }

    def _arguments(self) -> dict[str, Any]:
        training = self.training
        return {"recipe": training.recipe.name, "seed": training.seed, "epochs": training.epochs}

    def _check_digests(self, step: Path) -> None:
        if not (step / DIGESTS).exists():  # killed after orbax's commit, before they were written
            return
        for name, digest in json.loads((step / DIGESTS).read_text()).items():
            if not (step / name).exists() or _digest(step / name) != digest:
                raise BadInputError(f"{step / name} is missing or damaged; {FIX}")

    def _check_shapes(self, saved: Any) -> None:
        expected, saved = self._arrays(), dict(saved.items())
        for name in sorted(expected.keys() | saved.keys()):
            wanted, found = (_shape(arrays.get(name)) for arrays in (expected, saved))
            if wanted != found:
                raise BadInputError(
                    f"{self.folder} is of another network: {name} must be {wanted}, but is {found} "
                    f"in the checkpoint; {FIX}"
                )

    def _check_arguments(self, saved: dict[str, Any]) -> None:
        for name, value in self._arguments().items():
            if saved[name] != value:
                raise BadInputError(
                    f"{self.folder} is of a run with {name} {saved[name]}, not {value}; {FIX}"
                )

    @contextlib.contextmanager
    def _unreadable_in_words(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInputError(f"cannot read {self.folder} ({_reason(error)}); {FIX}") from error


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0][-120:]


def _write_digests(step: Path) -> None:
    files = sorted(path for path in step.rglob("*") if path.is_file())
    digests = {str(path.relative_to(step)): _digest(path) for path in files}
    partial = step / f"{DIGESTS}.tmp"
    partial.write_text(json.dumps(digests))
    os.replace(partial, step / DIGESTS)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _shape(array: Any) -> str:
    if array is None:
        return "missing"
    return "×".join(map(str, array.shape)) or "a scalar"
