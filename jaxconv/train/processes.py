"""Several processes that train as one: they check that they agree, and end together.

Each process compiles and runs its part of one program, so all of them need the same arguments,
versions, engine and tuning table. They compare these as soon as jax has connected them. When a
process fails later, the others usually notice the broken connection at once; otherwise jax ends
them after ``HEARTBEAT_SECONDS``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from .._src.dispatch import tuning_cache
from .._src.kernels.cpu import library
from .errors import BadInputError, TrainingError

CONNECT_SECONDS = 60  # for all processes to connect
HEARTBEAT_SECONDS = 40  # without a heartbeat, after which a process counts as dead
# What must be the same in all processes, and how to fix a difference.
FIXES = {
    "processes": "give all of them the same --processes",
    "run": "start all of them with the same arguments",
    "versions": "install the same versions everywhere",
    "engine": "build it everywhere or nowhere (pip install says why it was not built)",
    "tuning": "set JAXCONV_TUNING to the same table, on processors of one kind, or to off",
}


@dataclasses.dataclass(frozen=True)
class Member:
    """One of ``processes`` processes; process 0 listens at ``coordinator``, ``host:port``."""

    index: int
    processes: int
    coordinator: str

    def __post_init__(self):
        if not 0 <= self.index < self.processes:
            raise BadInputError(
                f"--index must be from 0 to {self.processes - 1} for {self.processes} processes, "
                f"but got {self.index}"
            )
        host, _, port = self.coordinator.rpartition(":")
        if self.processes > 1 and not (host and port.isdecimal()):
            raise BadInputError(
                f"--coordinator must be a host and a port, such as localhost:9876, but got "
                f"{self.coordinator!r}"
            )

    def __str__(self) -> str:
        return f"process {self.index} of {self.processes}"


# --- before they train ----------------------------------------------------------------------------


def join(member: Member, run: Mapping[str, Any], timeout: float = CONNECT_SECONDS) -> None:
    """Connects this process with the others; must be called before jax initializes its devices.

    Ends the process with a message if not all processes connect in time.

    Args:
        member: Which process this is.
        run: The run's arguments, the same in all processes; must be serializable as JSON.
        timeout: Seconds to wait for the others.

    Raises:
        BadInputError: The processes have different arguments, versions, engines or tuning tables,
            or process 0 cannot listen at its port.
    """
    if member.processes == 1:
        return
    if member.index == 0:
        _check_port(member)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with _deadline(member, timeout):
        jax.distributed.initialize(
            member.coordinator,
            member.processes,
            member.index,
            # Later than the deadline: when this timeout passes, jax aborts with a stack trace.
            initialization_timeout=2 * int(timeout) + 10,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=CONNECT_SECONDS,
        )
    facts = {
        "processes": member.processes,
        "run": dict(run),
        "versions": tuning_cache.versions(),
        "engine": library.unavailable_reason() or "the CPU engine",
        "tuning": tuning_cache.fingerprint(),
    }
    require_equal(facts, FIXES)


def _check_port(member: Member) -> None:
    """Raises BadInputError if process 0 cannot listen at its port: jax would crash."""
    host, _, port = member.coordinator.rpartition(":")
    try:
        socket.create_server(("", int(port))).close()
    except OSError as error:
        raise BadInputError(
            f"process 0 cannot listen at port {port} ({error.strerror}); choose another port in "
            f"--coordinator, such as {host}:{int(port) + 1}, for all processes"
        ) from error


@contextlib.contextmanager
def _deadline(member: Member, seconds: float) -> Iterator[None]:
    """Ends the process with a message after ``seconds``, even while jax's C++ code is waiting."""

    def end() -> None:
        print(
            f"{member}: not all {member.processes} processes connected to {member.coordinator} "
            f"within {seconds:g} seconds; start one for each --index from 0 to "
            f"{member.processes - 1}, with the same --processes and --coordinator",
            file=sys.stderr,
            flush=True,
        )
        os._exit(BadInputError.code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def require_equal(facts: Mapping[str, Any], fixes: Mapping[str, str]) -> None:
    """Disconnects all processes and raises an error unless ``facts`` are equal in all of them.

    Args:
        facts: Named values of this process, serializable as JSON.
        fixes: What to do about a difference, for each name.

    Raises:
        BadInputError: They are not equal.
    """
    if jax.process_count() == 1:
        return
    differences = describe_differences(_gather(facts), fixes)
    if differences:
        jax.distributed.shutdown()  # else the first to exit would make jax abort the others
        raise BadInputError(differences)


def _gather(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The facts of every process."""
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(text.size))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: text.size] = text
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def describe_differences(facts: Sequence[Mapping[str, Any]], fixes: Mapping[str, str]) -> str:
    """A sentence for each fact that is not the same in all processes; empty if there is none."""
    sentences = []
    for name, fix in fixes.items():
        processes: dict[str, list[int]] = {}
        for index, each in enumerate(facts):
            processes.setdefault(str(each[name]), []).append(index)
        if len(processes) > 1:
            values = ", ".join(f"{value} in {_names(who)}" for value, who in processes.items())
            sentences.append(f"{name} differs: {values}; {fix}")
    return ". ".join(sentences)


def _names(indices: Sequence[int]) -> str:
    return f"process{'es' * (len(indices) > 1)} {', '.join(map(str, indices))}"


# --- while they train -----------------------------------------------------------------------------


def is_first() -> bool:
    """Whether this is the process that prints and writes files."""
    return jax.process_index() == 0


def wait_for_all(place: str) -> None:
    """Waits until every process has reached ``place``."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def request_stop() -> None:
    """Asks all processes to stop, as SIGTERM to any of them does."""
    if jax.process_count() > 1:
        os.kill(os.getpid(), signal.SIGTERM)


def should_stop(step: int, interrupted: bool) -> bool:
    """Whether to stop after this step.

    A single process stops if it was ``interrupted``. Several stop after SIGTERM to any of them, at
    a step that jax chooses so that all of them save the same one.
    """
    if jax.process_count() == 1:
        return interrupted
    return multihost_utils.reached_preemption_sync_point(step)


@contextlib.contextmanager
def peers_may_fail() -> Iterator[None]:
    """Turns the errors of a broken connection into one that says that another process ended.

    Raises:
        TrainingError: Another process ended.
    """
    try:
        yield
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        if jax.process_count() == 1 or not _is_broken_connection(str(error)):
            raise
        reason = str(error).partition("\n")[0][:160]
        raise TrainingError(
            f"stopped because another process ended ({reason}); start all of them again to resume "
            f"from the last checkpoint"
        ) from error


def _is_broken_connection(message: str) -> bool:
    """Whether an error is one of gloo's connections or of jax's coordination service."""
    signs = ("Gloo", "UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED")
    return any(sign in message for sign in signs)
