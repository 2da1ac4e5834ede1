"""Lowers lax's own convolutions to jaxconv's primitives, without any change to the model.

``lax.conv_general_dilated`` keeps lax's differentiation, batching, sharding and rematerialization;
only its lowering changes. So jaxconv computes the convolutions that are left after all of these,
gradients included. Convolutions that jaxconv does not support, and those that it would compute by
lax anyway, are lowered as before, and so are exported programs.
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
from ..dispatch.choose import Choice, choose_implementation
from ..dispatch.registry import check_platforms
from ..keywords import checks_keywords
from ..spmd import lowering
from .recognize import recognize_params
from .recognized_operator import RecognizedOperator, as_input_grad, compute_recognized

# Entering or leaving a user context makes jitted functions trace again, so only code inside the
# ``with`` block is affected.
_in_block = jax.make_user_context(frozenset())
_in_process: set[str] = set()
_lax_rules: dict[str, Any] = {}  # lax's own lowering rules, by platform


@checks_keywords("install")
def install(platforms: Sequence[str] = ("cpu",)) -> None:
    """Makes jaxconv compute every ``lax.conv_general_dilated`` of this process.

    This includes the convolutions of Flax, Haiku, Equinox, Keras and other libraries that call lax,
    under any transformation. jax's caches are cleared, so functions that are already jitted compile
    again at their next call; programs compiled ahead of time do not change. Calling ``install``
    again has no further effect. ``explain`` and ``summarize`` report which implementations result.

    Args:
        platforms: The platforms to install on: any of ``"cpu"``, ``"cuda"``, ``"rocm"`` and
            ``"tpu"``.

    Raises:
        ValueError: If a platform is none of these.

    >>> import jax, jax.numpy as jnp, jaxconv
    >>> jaxconv.install()
    >>> jax.lax.conv(jnp.ones((1, 2, 5)), jnp.ones((3, 2, 1)), (1,), "SAME").shape
    (1, 3, 5)
    >>> jaxconv.uninstall()

    Source: none; this is the project's own.
    """
    checked = check_platforms("install", platforms)
    _intercept(checked)
    _in_process.update(checked)
    jax.clear_caches()


def uninstall() -> None:
    """Undoes ``install`` on every platform: lax computes its convolutions again.

    jax's caches are cleared, as by ``install``. Without ``install`` before, nothing happens.
    """
    if _in_process:
        _in_process.clear()
        jax.clear_caches()


@checks_keywords("installed")
@contextlib.contextmanager
def installed(platforms: Sequence[str] = ("cpu",)) -> Iterator[None]:
    """A context manager that makes jaxconv compute lax's convolutions in a ``with`` block.

    Jitted functions are traced again when they are called in the block for the first time.

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
    checked = check_platforms("installed", platforms)
    _intercept(checked)
    with _in_block(_in_block.value | frozenset(checked)):
        yield


def _intercept(platforms: Sequence[str]) -> None:
    """Registers our rule in place of lax's, once per platform. It decides at each lowering which of
    the two applies."""
    for platform in set(platforms) - _lax_rules.keys():
        lax_rule = compat.lowering_rule(lax.conv_general_dilated_p, platform)
        rule = functools.partial(_lower, platform, lax_rule)
        mlir.register_lowering(lax.conv_general_dilated_p, rule, platform=platform)
        _lax_rules[platform] = lax_rule


def _lower(platform: str, lax_rule, ctx, lhs, rhs, **params):
    (result,) = ctx.avals_out
    recognized = None
    if not lowering.is_lowering_primitive():
        plain_xla_reason = compat.custom_calls_unsupported(ctx)
        a, b = ctx.avals_in
        found = recognize_params(a, b, params)
        recognized, _ = choose_lowering(platform, found, result.dtype, plain_xla_reason)
    if recognized is None:
        return lax_rule(ctx, lhs, rhs, **params)
    compute = functools.partial(
        compute_recognized,
        recognized=recognized,
        dtype=result.dtype,
        precision=params["precision"],
        implementation=None,
    )
    lower = mlir.lower_fun(compute, multiple_results=False)
    return compat.lower_without_mesh(ctx, platform, lower, lhs, rhs)


def choose_lowering(
    platform: str,
    recognized: RecognizedOperator | str,
    dtype: Any,
    plain_xla_reason: str | None = None,
) -> tuple[RecognizedOperator | None, Choice]:
    """The operator that one of lax's convolutions is lowered to now, and its implementation.

    The operator is None if lax's own rule lowers the convolution; the choice says why.

    Args:
        platform: One of ``registry.PLATFORMS``.
        recognized: What the convolution is to jaxconv, or why it is nothing.
        dtype: The dtype of the result.
        plain_xla_reason: As for ``choose_implementation``.
    """
    if isinstance(recognized, str):
        return None, Choice("lax", recognized, {})
    if platform not in _in_process | _in_block.value:
        reason = f'called through lax; use install("{platform}") or accelerate to change this'
        return None, Choice("lax", reason, {})
    lowered = as_input_grad(recognized)
    choice = choose_implementation(
        lowered.operator, platform, lowered.spec, dtype, plain_xla_reason=plain_xla_reason
    )
    return (None if choice.implementation == "lax" else lowered), choice
