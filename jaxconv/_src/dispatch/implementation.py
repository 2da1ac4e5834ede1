"""The choice of a kernel by name, for one call or for all calls in a ``with`` block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from . import choose

# A user context is part of jit's cache key: entering it makes jitted functions trace again.
_forced = jax.make_user_context(None)


@contextlib.contextmanager
def use_implementation(name: str | None) -> Iterator[None]:
    """Forces one kernel for every convolution that is bound in the block.

    The choice is made where an operator is bound, so the gradients of a convolution called in the
    block inherit it, also when they are taken outside. An ``implementation`` argument of a call
    goes first, and ``None`` gives the choice back to dispatch.

    Args:
        name: ``"lax"``, ``"taps"``, ``"dots"``, another name of ``dispatch.IMPLEMENTATIONS``, or None.

    Raises:
        ValueError: ``name`` is none of these; and from the calls in the block, with the reason,
            where that kernel cannot serve.

    >>> import jax.numpy as jnp, jaxconv
    >>> with jaxconv.use_implementation("lax"):
    ...     y = jaxconv.conv(jnp.ones((1, 5, 2)), jnp.ones((3, 2, 4)))
    >>> y.shape
    (1, 5, 4)
    """
    if name is not None:
        try:
            choose.check_name(name)
        except ValueError as error:
            raise ValueError(f"use_implementation: {error}") from None
    with _forced(name):
        yield


def resolve(name: str | None) -> str | None:
    """The kernel's name that one call asks for: its argument, else the enclosing block's."""
    if name is None:
        return _forced.value
    choose.check_name(name)
    return name
