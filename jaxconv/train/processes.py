"""Several processes that train as one: that they agree before they start, and end together.

Each computes its part of the same program, so each must have been given the same: they hold a roll
call before jax connects them, for jax itself aborts a process without a word on who differs in
what, or lets it pass. Afterwards, a process that fails leaves the others waiting in a collective:
mostly they see at once that the connection broke, and after ``HEARTBEAT`` seconds jax ends them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from .._src.dispatch import tuning_cache
from .._src.kernels.cpu import library
from .errors import BadInputError, TrainingError

PATIENCE = 60  # seconds for all processes to come
HEARTBEAT = 40  # seconds without a sign of life after which a process counts as dead
LAUNCH = "start all of them with the same arguments"
# What must be the same in all processes, and what to do where it is not.
MENDS = {
    "processes": "give all of them the same --processes",
    "run": LAUNCH,
    "versions": "install the same versions everywhere",
    "engine": "build it everywhere or nowhere (pip install says why it was not built)",
    "tuning": "set JAXCONV_TUNING to the same table, on processors of one kind, or to off",
}


@dataclasses.dataclass(frozen=True)
class Member:
    """One of ``processes`` processes; number 0 listens at ``coordinator``, ``host:port``."""

    index: int
    processes: int
    coordinator: str

    def __post_init__(self):
        if not 0 <= self.index < self.processes:
            raise BadInputError(
                f"there is no process {self.index} of {self.processes}; they are 0 to "
                f"{self.processes - 1}"
            )
        _, colon, port = self.coordinator.rpartition(":")
        if not colon or not port.isdecimal():
            raise BadInputError(
                f"the coordinator must be a host and a port, such as localhost:9876, but got "
                f"{self.coordinator!r}"
            )

    def __str__(self) -> str:
        return f"process {self.index} of {self.processes}"

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def join(member: Member, run: Mapping[str, Any], patience: float = PATIENCE) -> None:
    """Makes this process one of several; to be called before jax has devices.

    Args:
        member: Which one it is.
        run: What the run was asked for, the same in all processes; JSON.
        patience: Seconds to wait for the others.

    Raises:
        BadInputError: The processes were given different numbers of processes, runs, versions,
            engines or tuning tables; or not all came in time.
    """
    if member.processes == 1:
        return
    facts = {
        "processes": member.processes,
        "run": dict(run),
        "versions": tuning_cache.versions(),
        "engine": library.unavailable_reason() or "the CPU engine",
        "tuning": tuning_cache.fingerprint(),
    }
    roll_call(member, facts, patience)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        member.coordinator,
        member.processes,
        member.index,
        initialization_timeout=PATIENCE,
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=PATIENCE,
    )


# --- the roll call --------------------------------------------------------------------------------


def roll_call(member: Member, facts: Mapping[str, Any], patience: float = PATIENCE) -> None:
    """Waits until all processes have come, and refuses them all where they differ in ``facts``.

    Raises:
        BadInputError: They differ, two are the same process, or not all came within ``patience``
            seconds.
    """
    call = _hold if member.index == 0 else _answer
    call(member, json.loads(json.dumps(facts)), patience)


def _hold(member: Member, facts: dict, patience: float) -> None:
    """Process 0 hears every other process, and tells all of them whether they may go on."""
    deadline, came, connections = time.monotonic() + patience, {0}, []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listening(member))
        verdict = ""
        while len(came) < member.processes and not verdict:
            server.settimeout(max(deadline - time.monotonic(), 1e-3))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                verdict = _absent(member, came)
                break
            connections.append(stack.enter_context(connection))
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):  # a stranger
                index, theirs = _receive(connection, 5)
                verdict = _disagreement(index, theirs, facts) or _twice(index, came)
                came.add(index)
        for connection in connections:
            with contextlib.suppress(OSError):
                _send(connection, verdict)
    if verdict:
        raise BadInputError(verdict)


def _listening(member: Member) -> socket.socket:
    host, port = member.address
    try:
        return socket.create_server(("", port), reuse_port=False)
    except OSError as error:
        raise BadInputError(
            f"process 0 cannot listen on port {port} ({error.strerror}); choose another "
            f"--coordinator, such as {host}:{port + 1}, for all processes"
        ) from error


def _answer(member: Member, facts: dict, patience: float) -> None:
    """The others tell process 0 what they were given, and hear whether they may go on."""
    with _connected(member, patience) as connection:
        try:
            _send(connection, [member.index, facts])
            verdict = _receive(connection, patience + 5)  # the first has waited for less
        except (OSError, ValueError) as error:
            raise BadInputError(
                f"process 0 at {member.coordinator} holds no roll call: it has ended, or trains "
                f"already, perhaps with fewer than {member.processes} processes; {LAUNCH}, at once"
            ) from error
    if verdict:
        raise BadInputError(verdict)


def _connected(member: Member, patience: float) -> socket.socket:
    deadline = time.monotonic() + patience
    while True:
        try:
            return socket.create_connection(member.address, timeout=1)
        except OSError as error:
            if time.monotonic() > deadline:
                raise BadInputError(
                    f"process 0 was not there at {member.coordinator} ({error}); start it with "
                    f"--index 0, or give the --coordinator that it has"
                ) from error
            time.sleep(0.1)


def _send(connection: socket.socket, message: Any) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, seconds: float) -> Any:
    connection.settimeout(seconds)
    with connection.makefile("rb") as lines:
        return json.loads(lines.readline(1 << 20))


def _disagreement(index: int, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    for name, fact in ours.items():
        if theirs.get(name) != fact:
            return (
                f"the processes disagree: process {index} has {name} {theirs.get(name)}, process 0 "
                f"has {fact}; {MENDS[name]}"
            )
    return ""


def _twice(index: int, came: set[int]) -> str:
    if index not in came:
        return ""
    return f"two processes say that they are process {index}; give each another --index"


def _absent(member: Member, came: set[int]) -> str:
    absent = ", ".join(str(i) for i in range(member.processes) if i not in came)
    return (
        f"{len(came)} of {member.processes} processes came: {absent} did not come in time; start "
        f"them with --coordinator {member.coordinator}, or all with --processes {len(came)}"
    )


# --- while they train -----------------------------------------------------------------------------


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def meet(place: str) -> None:
    """Waits until every process is at this place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def agree(name: str, value: int, mend: str) -> None:
    """Refuses a number that is not the same in all processes.

    Raises:
        BadInputError: It is not.
    """
    if jax.process_count() == 1:
        return
    values = multihost_utils.process_allgather(np.int32(value)).tolist()
    if len(set(values)) > 1:
        raise BadInputError(f"the processes disagree: the {name} is {values} in them; {mend}")


def stop_all() -> None:
    """Asks all processes to stop, as SIGTERM to any of them does."""
    if jax.process_count() > 1:
        os.kill(os.getpid(), signal.SIGTERM)


def stops(step: int, asked: bool) -> bool:
    """Whether to stop after this step: ``asked`` of this process alone, or SIGTERM of any.

    jax chooses a step that none has gone past, so that all save the same one.
    """
    if jax.process_count() == 1:
        return asked
    return multihost_utils.reached_preemption_sync_point(step)


@contextlib.contextmanager
def others_may_end() -> Iterator[None]:
    """Says so where what failed is that another process ended.

    Raises:
        TrainingError: Another process ended.
    """
    try:
        yield
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        if jax.process_count() == 1 or not _broken(str(error)):
            raise
        reason = str(error).partition("\n")[0][:160]
        raise TrainingError(
            f"another process has ended, and this one with it ({reason}); start all of them "
            f"again: they go on from what is saved"
        ) from error


def _broken(reason: str) -> bool:
    """Gloo's connections, and jax's coordination service."""
    return any(word in reason for word in ("Gloo", "UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED"))
