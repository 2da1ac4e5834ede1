"""Without the engine, its module gives the reason that the build installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from jaxconv._src.kernels import cpu
from jaxconv._src.kernels.cpu import library

CSRC = Path(cpu.__file__).parents[3] / "csrc"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An empty directory in place of the one that the engine is installed in."""
    monkeypatch.setattr(cpu, "__path__", [str(tmp_path)])
    return tmp_path


def load():
    return library._load.__wrapped__()


def test_the_installed_reason_is_given(installed):
    (installed / library.REASON_FILE).write_text("no C++ compiler was found")
    assert load() == (
        "the CPU engine was not built: no C++ compiler was found; "
        "to build it, reinstall jaxconv from source"
    )


def test_a_checkout_that_was_not_installed(installed):
    assert "jaxconv was not installed" in load()


def test_a_library_that_cannot_be_loaded(installed):
    (installed / library.FILE).write_bytes(b"no library")
    assert load().startswith("the CPU engine could not be loaded: ")


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"JAXCONV_BUILD_ENGINE": "0"}, "JAXCONV_BUILD_ENGINE was 0"),
        ({"CXX": "/bin/false"}, "no C++ compiler was found"),
    ],
)
def test_the_build_installs_the_reason(tmp_path, monkeypatch, variables, reason):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    build, prefix = tmp_path / "build", tmp_path / "prefix"
    for command in (
        ["cmake", "-S", CSRC, "-B", build],
        ["cmake", "--install", build, "--prefix", prefix],
    ):
        subprocess.run(command, check=True, capture_output=True)
    (file,) = (path for path in prefix.rglob("*") if path.is_file())
    assert file.relative_to(prefix) == Path("jaxconv/_src/kernels/cpu") / library.REASON_FILE
    assert reason in file.read_text()
