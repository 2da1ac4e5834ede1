"""Serves lax's own convolutions: one line, and no change to the model.

``lax.conv_general_dilated`` keeps its own autodiff, batching, sharding and rematerialisation; only
its lowering changes, so the kernels see what is left after all of these, gradients included. What
the family cannot express, and what it would leave to lax anyway, lowers as before; so does export.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax import lax
from jax.interpreters import mlir

from .. import compat
from ..dispatch.choose import choose_implementation
from ..dispatch.registry import check_platforms
from ..spmd import lowering
from . import conv_general_dilated
from .lax_params import Recognised, as_input_gradient, recognise_convolution

# Entering a user context makes jitted functions trace again, so that the block sees the kernels and
# the code after it does not.
_in_block = jax.make_user_context(frozenset())
_in_process: set[str] = set()
_original: dict[str, Any] = {}


def install(platforms: Sequence[str] = ("cpu",)) -> None:
    """Lowers every ``lax.conv_general_dilated`` of the process onto the family's kernels.

    Whatever calls it, Flax, Haiku, Equinox, Keras or plain lax, in whichever transformation. jax's
    caches are cleared, so functions that were jitted before are compiled again at their next call;
    only programs compiled ahead of time keep what they have. Installing twice is installing once.

    Args:
        platforms: The platforms to serve, among ``"cpu"``, ``"cuda"``, ``"rocm"`` and ``"tpu"``.

    Raises:
        ValueError: A platform is none of these.

    >>> import jax, jax.numpy as jnp, jaxconv
    >>> jaxconv.install()
    >>> jax.lax.conv(jnp.ones((1, 2, 5)), jnp.ones((3, 2, 1)), (1,), "SAME").shape
    (1, 3, 5)
    >>> jaxconv.uninstall()

    Source: none; this is the project's own.
    """
    wanted = check_platforms("install", platforms)
    _intercept(wanted)
    _in_process.update(wanted)
    jax.clear_caches()


def uninstall() -> None:
    """Gives ``lax.conv_general_dilated`` its own lowering back, on every platform.

    jax's caches are cleared, as by ``install``. Without an installation it does nothing.
    """
    if _in_process:
        _in_process.clear()
        jax.clear_caches()


@contextlib.contextmanager
def installed(platforms: Sequence[str] = ("cpu",)) -> Iterator[None]:
    """Serves lax's convolutions in a ``with`` block only; jitted functions trace again in it.

    Args:
        platforms: As in ``install``.

    Raises:
        ValueError: As in ``install``.

    >>> import jax, jax.numpy as jnp, jaxconv
    >>> with jaxconv.installed():
    ...     y = jax.lax.conv(jnp.ones((1, 2, 5)), jnp.ones((3, 2, 1)), (1,), "SAME")
    >>> y.shape
    (1, 3, 5)
    """
    wanted = check_platforms("installed", platforms)
    _intercept(wanted)
    with _in_block(_in_block.value | frozenset(wanted)):
        yield


def _intercept(platforms: Sequence[str]) -> None:
    """Puts our rule in front of lax's own, once a platform; it looks up whether to serve."""
    for platform in set(platforms) - _original.keys():
        original = compat.lowering_rule(lax.conv_general_dilated_p, platform)
        rule = functools.partial(_lower, platform, original)
        mlir.register_lowering(lax.conv_general_dilated_p, rule, platform=platform)
        _original[platform] = original


def _lower(platform: str, original, ctx, lhs, rhs, **params):
    serving = platform in _in_process or platform in _in_block.value
    if not serving or lowering.lowering_family():
        return original(ctx, lhs, rhs, **params)
    (result,) = ctx.avals_out
    lhs_type, rhs_type = ctx.avals_in
    found = recognise_convolution(lhs_type, rhs_type, params)
    if isinstance(found, Recognised):
        found = as_input_gradient(found)
    if isinstance(found, str) or _kernel(ctx, platform, found, result.dtype) == "lax":
        return original(ctx, lhs, rhs, **params)
    run = functools.partial(
        conv_general_dilated.rearranged,
        found=found,
        dtype=result.dtype,
        precision=params["precision"],
        implementation=None,
    )
    return compat.lower_on_shard(
        ctx, platform, mlir.lower_fun(run, multiple_results=False), lhs, rhs
    )


def _kernel(ctx, platform: str, found: Recognised, dtype) -> str:
    plain = compat.why_plain(ctx)
    choice = choose_implementation(found.operator, platform, found.spec, dtype, None, plain)
    return choice.implementation
