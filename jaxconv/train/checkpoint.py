"""Checkpoints: orbax writes and reads them; each is checked, byte by byte, before it is read.

Several processes save and restore together, in a folder that all of them see; the first does what
orbax does not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from . import processes
from .errors import BadInputError, TrainingError
from .loop import History, Training

MEND = "start over with --fresh, or choose another --output"
# Beside the step's own files, because orbax would read a damaged array with pages of messages.
DIGESTS = "digests.json"


class Checkpoints:
    """The checkpoint of one run: the whole state, the history, and what the run was asked for.

    Args:
        folder: Where the checkpoint is or will be; orbax writes under a temporary name and renames.
        training: Its ``state`` is what is saved and restored.
    """

    def __init__(self, folder: Path, training: Training):
        self.folder, self.training = folder, training

    def restore(self) -> History:
        """Puts the saved state into ``training`` and returns its history; an empty one if none.

        Raises:
            BadInputError: The checkpoint is damaged, of another network or of another run.
        """
        if not self.folder.exists():
            return History()
        if not self.folder.is_dir():
            raise BadInputError(f"{self.folder} is not a checkpoint; {MEND}")
        with self._refusing_damage(), self._manager() as manager:
            if not manager.all_steps():
                return History()
            step = self._finished()
            if step is None:
                raise BadInputError(f"{self.folder} lacks its {DIGESTS}; {MEND}")
            self._check_digests(self.folder / str(step))
            self._check_shapes(manager.item_metadata(step)["state"])
            saved = manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(self._named()), run=ocp.args.JsonRestore()
                ),
            )
            self._check_asked(saved.run["asked"])
            names, tree = self._named(), jax.tree.structure(self.training.state)
            self.training.state = jax.tree.unflatten(tree, [saved.state[name] for name in names])
            return History(**saved.run["history"])

    def save(self, history: History) -> None:
        """Saves the present state in place of the one before, which goes only once this is safe.

        Raises:
            TrainingError: It cannot be written, as on a full disk; the one before stays.
        """
        self._sweep()
        try:
            with processes.others_may_end():
                processes.meet("saving")
                self._write(history)
                processes.meet("saved")
        except (OSError, ValueError) as error:
            raise TrainingError(f"cannot save in {self.folder}: {_reason(error)}") from error
        finally:
            self._sweep()

    def _write(self, history: History) -> None:
        run = {"asked": self._asked(), "history": dataclasses.asdict(history)}
        with self._manager() as manager:
            manager.save(
                history.step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(self._named()), run=ocp.args.JsonSave(run)
                ),
                force=True,
            )
        if not processes.first():
            return
        saved = self.folder / str(history.step)
        partial = saved / f"{DIGESTS}.tmp"
        partial.write_text(json.dumps(_digests(saved)))
        os.replace(partial, saved / DIGESTS)

    def discard(self) -> None:
        """Removes what an earlier run saved."""
        if processes.first() and self.folder.is_dir():
            shutil.rmtree(self.folder)
        elif processes.first():
            self.folder.unlink(missing_ok=True)
        processes.meet("discarded")

    def _finished(self) -> int | None:
        """The newest step that has its digests: a kill may leave a newer one without."""
        steps = (int(path.parent.name) for path in self.folder.glob(f"*/{DIGESTS}"))
        return max(steps, default=None)

    def _sweep(self) -> None:
        """Removes all but the newest finished checkpoint: older ones, and what is half-written."""
        if not processes.first():
            return
        kept = str(self._finished())
        for path in self.folder.glob("[0-9]*"):
            if path.name != kept:
                shutil.rmtree(path, ignore_errors=True)

    def _manager(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.folder.absolute(),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "run": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False),
        )

    def _named(self) -> dict[str, jax.Array]:
        """The state's arrays by name: what is saved does not depend on a library's classes."""
        leaves = jax.tree.leaves_with_path(self.training.state)
        return {
            jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves
        }

    def _asked(self) -> dict[str, Any]:
        training = self.training
        return {"recipe": training.recipe.name, "seed": training.seed, "epochs": training.epochs}

    def _check_digests(self, saved: Path) -> None:
        for name, digest in json.loads((saved / DIGESTS).read_text()).items():
            if not (saved / name).exists() or _digest(saved / name) != digest:
                raise BadInputError(f"{saved / name} is missing, cut short or changed; {MEND}")

    def _check_shapes(self, saved: Any) -> None:
        expected, saved = self._named(), dict(saved.items())
        for name in sorted(expected.keys() | saved.keys()):
            here, there = (_shape(arrays.get(name)) for arrays in (expected, saved))
            if here != there:
                raise BadInputError(
                    f"{self.folder} is of another network ({name} is {there} there, {here} here); "
                    f"{MEND}"
                )

    def _check_asked(self, saved: dict[str, Any]) -> None:
        for name, value in self._asked().items():
            if saved[name] != value:
                raise BadInputError(
                    f"{self.folder} is of a run with {name} {saved[name]}, not {value}; {MEND}"
                )

    @contextlib.contextmanager
    def _refusing_damage(self):
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInputError(
                f"{self.folder} cannot be read ({_reason(error)}); {MEND}"
            ) from error


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0][-120:]


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): _digest(path) for path in files if DIGESTS not in path.name
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _shape(array: Any) -> str:
    if array is None:
        return "missing"
    return "×".join(map(str, array.shape)) or "a scalar"
