"""The machine and the versions that a measurement belongs to."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

import jax


def platform_name() -> str:
    """The platform in use, by the name that lowering uses."""
    return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())


def machine() -> dict[str, str]:
    """The accelerator, if one is in use, and the processor."""
    device = {} if platform_name() == "cpu" else {"device": jax.devices()[0].device_kind}
    return {**device, "processor": _processor(), "threads": str(len(os.sched_getaffinity(0)))}


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    installed = [name for name in packages if importlib.util.find_spec(name) is not None]
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in installed
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
