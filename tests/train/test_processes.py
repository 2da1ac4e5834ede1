"""Several processes that train as one: the checks before they start, and real runs of two."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
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

# --- before they train ----------------------------------------------------------------------------


def facts(**changes):
    return {**dict.fromkeys(processes.FIXES, "same"), **changes}


def test_equal_facts_are_no_difference():
    assert not processes.describe_differences([facts()] * 4, processes.FIXES)


@pytest.mark.parametrize("name", processes.FIXES)
def test_a_difference_names_the_processes_the_values_and_the_fix(name):
    values = [facts(**{name: value}) for value in ("this", "that", "this")]
    message = processes.describe_differences(values, processes.FIXES)
    assert (
        message
        == f"{name} differs: this in processes 0, 2, that in process 1; " + (processes.FIXES[name])
    )


def test_every_difference_is_named():
    message = processes.describe_differences(
        [facts(), facts(run="other", tuning="other")], processes.FIXES
    )
    assert message.count("differs: same in process 0, other in process 1; ") == 2


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ((2, 2, "localhost:1"), "--index must be from 0 to 1 for 2 processes, but got 2"),
        ((-1, 2, "localhost:1"), "--index must be from 0 to 1 for 2 processes, but got -1"),
        ((0, 2, "localhost"), "a host and a port, such as localhost:9876, but got 'localhost'"),
        ((0, 2, ":9876"), "a host and a port, such as localhost:9876, but got ':9876'"),
    ],
)
def test_invalid_members_are_refused(member, said):
    with pytest.raises(BadInputError, match=said):
        Member(*member)


def test_fingerprint_of_a_tuning_table(tmp_path, monkeypatch):
    """It depends on the content and on the device whose section is read."""
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
        BadInputError, match=r"by the 3 devices of mesh axis 'batch', but got 64; choose"
    ):
        Placement(jax.devices()[:3]).check_batch(IMAGES, 64)
    with pytest.raises(
        BadInputError, match=r"height of 'image', 64×40×30×1, must .* the 3 devices"
    ):
        Placement(jax.devices()[:3], "height").check_batch(IMAGES, 64)


@pytest.mark.slow
@needs_devices
@pytest.mark.lenient  # optax promotes by itself
def test_layers_whose_height_does_not_divide():
    """The digits' network halves 28 rows twice; 7 rows cannot be divided over two devices."""
    from jaxconv.train import digits
    from jaxconv.train.training import Training

    said = r"the height of a layer, 64×7×7×64, must be divisible by the 2 devices .*, but got 7"
    with pytest.raises(BadInputError, match=said):
        Training(digits.RECIPE, 0, 1, Placement(jax.devices()[:2], "height"))


def test_unknown_mesh_axis_is_refused():
    with pytest.raises(BadInputError, match=r"axis must be 'batch' or 'height', but got 'width'"):
        Placement(jax.devices()[:1], "width")


# --- real processes -------------------------------------------------------------------------------

JOIN = """
import json, os, sys
from jaxconv.train import processes
from jaxconv.train.errors import BadInputError

index, count, address, timeout, epochs = json.loads(sys.argv[1])
try:
    processes.join(processes.Member(index, count, address), {"epochs": epochs}, timeout)
except BadInputError as error:
    print(error, file=sys.stderr, flush=True)
    os._exit(error.code)  # as the examples end
"""


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def joining(*members: list) -> list[tuple[int, str]]:
    """The exit code and the error output of each process: ``[index, count, timeout, epochs]``."""
    address, environment = f"localhost:{free_port()}", os.environ | {"PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN, json.dumps([index, count, address, timeout, epochs])],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, count, timeout, epochs in members
    ]
    errors = [process.communicate(timeout=120)[1] for process in running]
    return [(process.returncode, error) for process, error in zip(running, errors, strict=True)]


def test_processes_with_different_arguments_are_refused():
    for code, error in joining([0, 2, 60, 3], [1, 4, 60, 5]):
        assert code == BadInputError.code
        assert "processes differs: 2 in process 0, 4 in process 1; give all of them the" in error
        assert "run differs: {'epochs': 3} in process 0, {'epochs': 5} in process 1; st" in error


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_missing_process_ends_the_other_with_a_sentence(index):
    ((code, error),) = joining([index, 2, 3, 1])
    assert code == BadInputError.code
    assert error.startswith(f"process {index} of 2: not all 2 processes connected to localhost:")
    assert error.endswith("from 0 to 1, with the same --processes and --coordinator\n")
    assert error.count("\n") == 1


def test_port_in_use_is_refused():
    with socket.create_server(("", 0)) as server:
        member = Member(0, 2, f"localhost:{server.getsockname()[1]}")
        with pytest.raises(BadInputError, match=r"cannot listen at port \d+ .*; choose another"):
            processes.join(member, {}, 20)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> dict[str, str]:
    """A compilation cache that the processes share, which saves seconds of each run."""
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
    assert re.search(
        r"\d+ losses, .*; relative difference .* \S+ at the first step, at most \S+e-1\d", said
    )
    return said


@pytest.mark.slow
def test_spatial_run_equals_one_process(tmp_path, cache):
    said = assert_equal_losses(start(cache, "spatial", "--epochs=1", f"--output={tmp_path}"))
    assert "height sharded over 2 devices of 2 processes; steps 0 to 20" in said


@pytest.mark.slow
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
    assert "process 1 was killed by SIGKILL" in rest
    assert "process 0 of 2: stopped because another process ended (" in rest
    assert "start all of them again to resume from the last checkpoint" in rest
    said = assert_equal_losses(start(cache, *arguments))
    assert re.search(r"2 processes; steps 15 to 30", said)
    assert "of 1:" not in said  # the finished run of one process is not repeated
    assert len(json.loads((tmp_path / "2x1/losses.json").read_text())["loss"]) == 30
