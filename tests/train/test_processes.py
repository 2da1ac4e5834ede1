"""Several processes that train as one: the roll call, what is refused, and real runs of two."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxconv._src.dispatch import tuning_cache
from jaxconv.train import processes
from jaxconv.train.errors import BadInputError
from jaxconv.train.placement import Placement
from jaxconv.train.processes import Member

ROOT = Path(__file__).parents[2]

# --- the roll call --------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def roll_call(*members: tuple[int, int, dict], patience: float = 20) -> list[str]:
    """What each of these processes is told: ``(index, processes, further facts)``."""
    address, said = f"localhost:{free_port()}", [""] * len(members)

    def take_part(at: int, index: int, count: int, facts: dict) -> None:
        try:
            known = {"processes": count, **dict.fromkeys(processes.MENDS, "same"), **facts}
            member = Member(index, count, address)
            processes.roll_call(member, known | {"processes": count}, patience)
        except BadInputError as error:
            said[at] = str(error)

    threads = [
        threading.Thread(target=take_part, args=(at, *member)) for at, member in enumerate(members)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return said


def test_processes_that_agree_go_on():
    assert roll_call(*((index, 4, {}) for index in (3, 1, 0, 2))) == [""] * 4


def test_another_number_of_processes():
    for said in roll_call((0, 2, {}), (1, 4, {})):
        assert "process 1 has processes 4, process 0 has 2; give all of them the same --" in said


@pytest.mark.parametrize("fact", ["run", "versions", "engine", "tuning"])
def test_what_else_must_be_the_same(fact):
    for said in roll_call((0, 2, {fact: "this"}), (1, 2, {fact: "that"})):
        assert f"process 1 has {fact} that, process 0 has this; " in said


def test_one_does_not_come():
    said = roll_call((0, 3, {}), (2, 3, {}), patience=1)
    for each in said:
        assert (
            "2 of 3 processes came: 1 did not come in time; start them with --coordinator" in each
        )
        assert each.endswith("or all with --processes 2")


def test_the_first_does_not_come():
    (said,) = roll_call((1, 2, {}), patience=0.2)
    assert re.search(r"process 0 was not there at localhost:\d+ .*; start it with --index 0", said)


def test_two_with_one_number():
    said = roll_call((0, 3, {}), (1, 3, {}), (1, 3, {}))
    assert all("two processes say that they are process 1; give each another" in s for s in said)


def test_who_comes_while_the_others_train_is_turned_away():
    """Then jax listens there, and would end the run of the others."""
    with socket.create_server(("localhost", 0)) as server:
        member = Member(1, 2, f"localhost:{server.getsockname()[1]}")

        def other():
            with server.accept()[0] as connection:
                connection.sendall(b"\x00\x00\x12\x04\n")  # as the first of gRPC's frames begin

        thread = threading.Thread(target=other)
        thread.start()
        with pytest.raises(BadInputError, match="holds no roll call: it has ended, or trains"):
            processes.roll_call(member, {}, 20)
        thread.join()


def test_strangers_do_not_disturb():
    address = f"localhost:{free_port()}"
    verdicts = []

    def first():
        verdicts.append(processes.roll_call(Member(0, 2, address), {}, 20))

    thread = threading.Thread(target=first)
    thread.start()
    host, port = address.split(":")
    while True:
        try:
            with socket.create_connection((host, int(port))) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            break
        except ConnectionRefusedError:
            time.sleep(0.01)
    processes.roll_call(Member(1, 2, address), {}, 20)
    thread.join()
    assert verdicts == [None]


def test_port_that_is_taken():
    with socket.create_server(("", 0)) as server:
        member = Member(0, 2, f"localhost:{server.getsockname()[1]}")
        with pytest.raises(BadInputError, match=r"cannot listen on port \d+ .*; choose another"):
            processes.roll_call(member, {}, 1)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ((2, 2, "localhost:1"), "there is no process 2 of 2; they are 0 to 1"),
        ((-1, 2, "localhost:1"), "there is no process -1 of 2"),
        ((0, 2, "localhost"), "a host and a port, such as localhost:9876, but got 'localhost'"),
    ],
)
def test_members_that_cannot_be(member, said):
    with pytest.raises(BadInputError, match=said):
        Member(*member)


def test_what_a_tuning_table_is_known_by(tmp_path, monkeypatch):
    """Its content, and the device whose section is read; where none is named there is none."""
    monkeypatch.setattr(tuning_cache, "_named", [])
    path = tmp_path / "table.json"
    path.write_text("{}")
    known = {}
    for named in ("", "off", str(path), str(tmp_path / "none.json")):
        monkeypatch.setenv(tuning_cache.VARIABLE, named)
        known[named] = tuning_cache.fingerprint()
    assert list(known.values())[:2] == ["none", "none"]
    assert known[str(path)].endswith(f" on {tuning_cache.processor()}, {os.cpu_count()} threads")
    assert "none that can be read (No such file" in known[str(tmp_path / "none.json")]
    monkeypatch.setenv(tuning_cache.VARIABLE, str(path))
    path.write_text("{ }")
    assert tuning_cache.fingerprint() != known[str(path)]


# --- the placement --------------------------------------------------------------------------------

needs_devices = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight (host) devices")
IMAGES = {"image": np.zeros((100, 40, 30, 1), np.float32), "label": np.zeros(100, np.int32)}


@needs_devices
def test_batches_and_heights_that_do_not_divide():
    Placement(jax.devices()[:4]).check_batch(IMAGES, 64)
    Placement(jax.devices()[:4], "height").check_batch(IMAGES, 3)
    with pytest.raises(
        BadInputError, match=r"over mesh axis 'batch', but 64 is no multiple of its 3"
    ):
        Placement(jax.devices()[:3]).check_batch(IMAGES, 64)
    with pytest.raises(BadInputError, match=r"height of 'image', 64×40×30×1, .* its 3 devices; ch"):
        Placement(jax.devices()[:3], "height").check_batch(IMAGES, 64)


@needs_devices
@pytest.mark.lenient  # optax promotes by itself
def test_layers_whose_height_does_not_divide():
    """The digits' network halves 28 rows twice; 7 rows are no strips of two devices."""
    from jaxconv.train import digits
    from jaxconv.train.loop import Training

    said = r"the height of a layer, 64×7×7×64, must divide over mesh axis 'height', but 7 is no mu"
    with pytest.raises(BadInputError, match=said):
        Training(digits.RECIPE, 0, 1, Placement(jax.devices()[:2], "height"))


def test_mesh_axes_that_are_not_there():
    with pytest.raises(BadInputError, match=r"no mesh axis 'width'.*'batch' and 'height' are"):
        Placement(jax.devices()[:1], "width")


# --- real processes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> dict[str, str]:
    """Where the processes keep what they compiled: seconds of each are saved."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def start(cache: dict[str, str], example: str, *arguments: str) -> subprocess.Popen:
    environment = os.environ | cache | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, f"examples/{example}.py", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def assert_equal_losses(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert re.search(r"\d+ losses, .*; those together differ .* by \S+ at first and \S+e-1\d", said)
    return said


def test_spatial_run_equals_one_process(tmp_path, cache):
    said = assert_equal_losses(start(cache, "spatial", "--epochs=1", f"--output={tmp_path}"))
    assert "each height cut over 2 devices of 2 processes; from step 0 to 20" in said


def test_a_killed_process_ends_the_other_and_the_run_resumes(tmp_path, cache):
    """The data-parallel run, killed after its first epoch was saved."""
    arguments = ("data_parallel", "--epochs=2", f"--output={tmp_path}")
    process, pids, said = start(cache, *arguments), {}, []
    for line in process.stdout:
        said.append(line)
        if found := re.match(r"started process (\d) of 2: pid (\d+)", line):
            pids[int(found[1])] = int(found[2])
        if len(pids) == 2:
            break
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("2x1/checkpoint/*/digests.json")):
        assert process.poll() is None, "".join(said)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(pids[1], signal.SIGKILL)
    killed = time.monotonic()
    rest, _ = process.communicate(timeout=120)
    assert time.monotonic() - killed < 60
    assert process.returncode == 128 + signal.SIGKILL
    assert "process 1 was ended by SIGKILL" in rest
    assert "process 0 of 2: another process has ended, and this one with it (" in rest
    assert "start all of them again: they go on from what is saved" in rest
    said = assert_equal_losses(start(cache, *arguments))
    assert re.search(r"2 processes; from step 15 to 30", said)
    assert "of 1:" not in said  # the run alone is finished, and not made again
    assert len(json.loads((tmp_path / "2x1/losses.json").read_text())["loss"]) == 30
