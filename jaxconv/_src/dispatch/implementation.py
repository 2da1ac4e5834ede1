"""Forcing an implementation by name, for one call or for all calls in a ``with`` block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from ..keywords import checks_keywords
from .registry import check_name

# A user context is part of jit's cache key: entering it makes jitted functions trace again.
_forced = jax.make_user_context(None)


@checks_keywords("use_implementation")
@contextlib.contextmanager
def use_implementation(name: str | None) -> Iterator[None]:
    """Forces one implementation for every convolution called in a ``with`` block.

    The implementation is fixed when a convolution is called, so its gradients use the same one,
    even if they are taken outside the block. The ``implementation`` argument of a call takes
    precedence over the block.

    Args:
        name: ``"lax"``, ``"taps"``, ``"dots"``, ``"fft"``, ``"native"`` or ``"pallas"``; or None,
            which lets jaxconv choose again inside an enclosing block.

    Raises:
        ValueError: ``name`` is none of these. Calls in the block raise it, with the reason, if the
            implementation does not support the convolution.

    >>> import jax.numpy as jnp, jaxconv
    >>> with jaxconv.use_implementation("lax"):
    ...     y = jaxconv.conv(jnp.ones((1, 5, 2)), jnp.ones((3, 2, 4)))
    >>> y.shape
    (1, 5, 4)
    """
    if name is not None:
        try:
            check_name(name)
        except ValueError as error:
            raise ValueError(f"use_implementation: {error}") from None
    with _forced(name):
        yield


def resolve(name: str | None) -> str | None:
    """The implementation forced on one call: its own argument, else the enclosing block's."""
    if name is None:
        return _forced.value
    check_name(name)
    return name
