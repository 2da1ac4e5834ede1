"""Starts processes on this machine and waits until all of them end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

GRACE_SECONDS = 60  # for the other processes to end by themselves once one has failed


def launch(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> int:
    """Runs the commands at the same time.

    Ctrl-C and SIGTERM are forwarded to all of them as SIGTERM. Once one has failed, the others
    should notice and end; after ``GRACE_SECONDS`` they are killed.

    Returns:
        0 if all succeeded, otherwise the largest exit code; as in a shell, 128 plus its number for
        a signal.
    """
    running = [subprocess.Popen(command, env=os.environ | environment) for command in commands]
    for index, process in enumerate(running):
        print(f"started process {index} of {len(running)}: pid {process.pid}", flush=True)
    with _forwarding_signals(running):
        return _wait(running)


def _wait(processes: list[subprocess.Popen]) -> int:
    failed_at = None
    while any(process.poll() is None for process in processes):
        if failed_at is None and any(process.returncode for process in processes):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS:
            for process in processes:
                process.kill()
        time.sleep(0.1)
    for index, process in enumerate(processes):
        if process.returncode:
            print(f"process {index} {_describe(process.returncode)}", file=sys.stderr)
    return max(128 - code if (code := process.returncode) < 0 else code for process in processes)


def _describe(code: int) -> str:
    return f"exited with {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"


@contextlib.contextmanager
def _forwarding_signals(processes: list[subprocess.Popen]) -> Iterator[None]:
    def forward(*_) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    previous = {
        number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
