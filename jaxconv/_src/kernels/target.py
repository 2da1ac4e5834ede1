"""The device that Pallas kernels are compiled for, and whether they are interpreted instead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax


class Target(NamedTuple):
    """A kind of device as jax names it, ``""`` if unknown, and ``pallas_call``'s ``interpret``."""

    device_kind: str = ""
    interpret: Any = False


# A user context is part of jit's cache key: entering it makes jitted functions trace again.
_target = jax.make_user_context(None)


@contextlib.contextmanager
def compile_for(device_kind: str = "", interpret: Any = False) -> Iterator[None]:
    """Compiles the kernels lowered in the block for a kind of device, or interprets them.

    Interpreted kernels run on any machine.
    """
    with _target(Target(device_kind, interpret)):
        yield


def device_kind(platform: str) -> str:
    """The kind of device to compile for, of ``"cuda"`` or ``"tpu"``; ``""`` if it is unknown.

    It is that of ``compile_for``, else that of the device which the mesh in use describes, else
    that of this process's own device.
    """
    if _target.value is not None:
        return _target.value.device_kind
    platform = {"cuda": "gpu"}.get(platform, platform)
    described = jax.sharding.get_abstract_mesh().abstract_device
    if described is not None and described.platform == platform:
        return described.device_kind
    return jax.local_devices()[0].device_kind if jax.default_backend() == platform else ""


def interpret() -> Any:
    """What to pass to ``pallas_call`` as ``interpret``."""
    return _target.value.interpret if _target.value is not None else False
