"""The table of measured choices: where it is stored, its format, and which entry applies.

``autotune`` writes it and ``dispatch`` reads it. It is one JSON file with a section per device
kind, which has one entry per operator, spec and dtype. A file that is damaged, or was written by
other versions or on another device, is ignored with one warning.

The file is named by the environment variable ``JAXCONV_TUNING``, else by the last ``path`` passed
to ``autotune``; otherwise it is ``tuning.json`` in the user's cache directory. Several processes
must compile the same program, so they read a file only if it was named. ``JAXCONV_TUNING=off``
reads nothing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jaxlib.version
import numpy as np

from ..geometry.spec import ConvSpec, Operator

VARIABLE = "JAXCONV_TUNING"
FORMAT = "jaxconv tuning 2"


class Tuned(NamedTuple):
    """An entry: the implementation's name, and its tile as text, or None if it has none."""

    implementation: str
    tile: str | None = None


class Trial(NamedTuple):
    """What ``autotune`` measures: an implementation with one of its tiles."""

    implementation: str
    tile: Any = None


def text_of(tile: Any) -> str | None:
    """A tile as the table has it."""
    return None if tile is None else repr(tile)


# A user context is part of jit's cache key, so every trial is compiled anew.
_trial = jax.make_user_context(None)
_named: list[pathlib.Path] = []
_warned: set[pathlib.Path] = set()


@contextlib.contextmanager
def trial(implementation: str, tile: Any = None) -> Iterator[None]:
    """Lowers every convolution in the ``with`` block to one implementation with one tile."""
    with _trial(Trial(implementation, tile)):
        yield


def current_trial() -> Trial | None:
    return _trial.value


def lookup(platform: str, operator: Operator, spec: ConvSpec, dtype) -> Tuned | None:
    """The measured choice for this process's device, if there is one."""
    path = table_path()
    if path is None:
        return None
    device = device_of(platform)
    return None if device is None else read(path, device).get(key(operator, spec, dtype))


def table_path() -> pathlib.Path | None:
    """The file that dispatch reads, whether or not it exists."""
    named = _named_path()
    if named is not None:
        return None if named == "off" else pathlib.Path(named)
    return None if jax.process_count() > 1 else cache_path()


def _named_path() -> str | pathlib.Path | None:
    return os.environ.get(VARIABLE) or (_named[-1] if _named else None)


def fingerprint() -> str:
    """Text that is equal in processes whose tables make the same choices; starts no backend."""
    named = _named_path()
    if named is None or named == "off":
        return "none"
    try:
        content = pathlib.Path(named).read_bytes()
    except OSError as error:
        return f"none that can be read ({error.strerror})"
    # A table has a section for each device.
    return f"{hashlib.sha256(content).hexdigest()[:12]} on {processor()}, {os.cpu_count()} threads"


def name(path: pathlib.Path) -> None:
    """Makes ``path`` the file that this process reads from now on."""
    _named[:] = [path]


def cache_path() -> pathlib.Path | None:
    """``tuning.json`` in the user's cache directory, if the user has one."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (
            pathlib.Path(root) if root else pathlib.Path.home() / ".cache"
        ) / "jaxconv/tuning.json"
    except RuntimeError:  # no home directory
        return None


def key(operator: Operator, spec: ConvSpec, dtype) -> str:
    """``"conv float32 N8 C128 F128 G128 S56x56 K3x3 s1x1 p1,1x1,1 d1x1"``"""
    sizes = zip(
        "SKsd", (spec.input_spatial, spec.kernel_spatial, spec.strides, spec.dilation), strict=True
    )
    axes = [letter + "x".join(map(str, size)) for letter, size in sizes]
    padding = "p" + "x".join(f"{low},{high}" for low, high in spec.padding)
    features = f"N{spec.batch} C{spec.in_features} F{spec.out_features} G{spec.groups}"
    return " ".join((operator.value, np.dtype(dtype).name, features, *axes, padding))


@functools.cache
def device_of(platform: str) -> str | None:
    """The name of this process's device of a platform, or None if it has none."""
    try:
        kind = jax.local_devices(backend=platform)[0].device_kind
    except RuntimeError:
        return None
    return f"{processor()}, {os.cpu_count()} threads" if platform == "cpu" else kind


def processor() -> str:
    """The CPU's model, which jax does not report."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "cpu")


def versions() -> dict[str, str]:
    try:
        own = importlib.metadata.version("jaxconv")
    except importlib.metadata.PackageNotFoundError:  # run from its sources
        own = "sources"
    return {"jax": jax.__version__, "jaxlib": jaxlib.version.__version__, "jaxconv": own}


def read(path: pathlib.Path, device: str) -> Mapping[str, Tuned]:
    """The entries of a device's section; none, with a warning, if the file cannot be used."""
    try:
        return _read(path, path.stat().st_mtime_ns, device)
    except OSError as error:
        if path != cache_path() or not isinstance(error, FileNotFoundError):
            warn(path, error.strerror or str(error))
        return {}


@functools.lru_cache(maxsize=16)
def _read(path: pathlib.Path, changed: int, device: str) -> Mapping[str, Tuned]:
    content = _content(path)
    if isinstance(content, str):
        warn(path, content)
        return {}
    section = content["devices"].get(device)
    if section is None:
        if device == device_of({"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())):
            others = ", ".join(content["devices"])
            warn(path, f"it was measured on {others or 'no device'}, but this device is {device}")
        return {}
    if section["versions"] != versions():
        warn(path, f"it was measured with {section['versions']}, but this is {versions()}")
        return {}
    return {name: Tuned(**entry) for name, entry in section["choices"].items()}


def _content(path: pathlib.Path) -> dict | str:
    """The content of a file, or the reason why it is not a tuning table."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # not text, not JSON, or nested too deeply
        return f"it is not valid JSON: {error}"
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return f'its format is not "{FORMAT}"'
    if not _well_formed(content.get("devices")):
        return "an entry is not an implementation and its tile"
    return content


def _well_formed(devices: Any) -> bool:
    return isinstance(devices, dict) and all(
        isinstance(section, dict)
        and isinstance(section.get("versions"), dict)
        and isinstance(section.get("choices"), dict)
        and all(map(_is_entry, section["choices"].values()))
        for section in devices.values()
    )


def _is_entry(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == set(Tuned._fields)
        and isinstance(value["implementation"], str)
        and isinstance(value["tile"], str | None)
    )


def distrust(reason: str) -> None:
    """Warns that an entry of the table in use is ignored."""
    path = table_path()
    if path is not None:
        warn(path, reason)


def warn(path: pathlib.Path, reason: str) -> None:
    """Warns once per file."""
    if path not in _warned:
        _warned.add(path)
        message = (
            f"jaxconv ignores the tuning table {path}: {reason}; jaxconv.autotune writes a new one"
        )
        warnings.warn(message, stacklevel=2)


def write(path: pathlib.Path, device: str, choices: Mapping[str, Tuned]) -> None:
    """Adds a device's choices to the file, which is replaced atomically.

    Raises:
        OSError: The file cannot be written.
    """
    content = _content(path) if path.exists() else ""
    content = {"format": FORMAT, "devices": {}} if isinstance(content, str) else content
    section = content["devices"].get(device, {})
    kept = section["choices"] if section.get("versions") == versions() else {}
    merged = kept | {name: tuned._asdict() for name, tuned in choices.items()}
    content["devices"][device] = {"versions": versions(), "choices": dict(sorted(merged.items()))}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content, indent=1))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _warned.discard(path)
    _read.cache_clear()
