"""Starts processes on this machine, and waits for all of them, or for one to fail."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

GRACE = 60  # seconds in which the others end by themselves once one has failed


def launch(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> int:
    """Runs the commands side by side.

    Ctrl-C and SIGTERM are passed on to all of them as SIGTERM. Once one fails the others should
    notice and end; what has not after ``GRACE`` seconds is killed.

    Returns:
        0 if all succeeded, or the largest code that one ended with; as in a shell, 128 and the
        number where that was a signal.
    """
    running = [subprocess.Popen(command, env=os.environ | environment) for command in commands]
    for index, process in enumerate(running):
        print(f"started process {index} of {len(running)}: pid {process.pid}", flush=True)
    with _passing_signals_on(running):
        return _watch(running)


def _watch(processes: list[subprocess.Popen]) -> int:
    failed = None
    while any(process.poll() is None for process in processes):
        if failed is None and any(process.returncode for process in processes):
            failed = time.monotonic()
        if failed is not None and time.monotonic() - failed > GRACE:
            for process in processes:
                process.kill()
        time.sleep(0.1)
    for index, process in enumerate(processes):
        if process.returncode:
            print(f"process {index} {_ending(process.returncode)}", file=sys.stderr)
    return max(128 - code if (code := process.returncode) < 0 else code for process in processes)


def _ending(code: int) -> str:
    return f"ended with {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"


@contextlib.contextmanager
def _passing_signals_on(processes: list[subprocess.Popen]) -> Iterator[None]:
    def pass_on(*_) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    previous = {
        number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
