"""A save that is killed: ``python killed_save.py CHECKPOINT EVENT PATH``.

Restores the checkpoint of ``TINY`` and saves it as five steps later. Kills itself by SIGKILL at the
first Python audit event ``EVENT``, such as ``os.rename``, with an argument that ends in ``PATH``.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from jaxconv.train.checkpoint import Checkpoints
from jaxconv.train.training import Training
from support.tiny_recipe import TINY


def main(checkpoint: str, event: str, path: str) -> None:
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    checkpoints = Checkpoints(Path(checkpoint), Training(TINY, 0, TINY.epochs))
    history = checkpoints.restore()
    history.loss += [1.0] * 5

    def kill(name: str, arguments: tuple) -> None:
        if name == event and any(str(argument).endswith(path) for argument in arguments):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
    checkpoints.save(history)


if __name__ == "__main__":
    main(*sys.argv[1:])
