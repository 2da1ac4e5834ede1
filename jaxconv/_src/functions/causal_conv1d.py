"""``causal_conv`` with the arguments of the PyTorch package ``causal_conv1d``, for porting.

Its arrays are ``[B, D, L]``, and its weights ``[D, W]``; jaxconv's are channels-last. Each call
transposes its input and output, so new code is faster with ``causal_conv``.
"""

from __future__ import annotations

from types import MappingProxyType

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from ..geometry import checks
from ..geometry.checks import Call
from ..geometry.spec import Shape
from ..geometry.types import Activation
from ..keywords import checks_keywords
from .causal import causal_conv, causal_conv_step

Array = jax.Array
_AXES = MappingProxyType({"x": "B D L", "weight": "D W", "bias": "D"})


@checks_keywords("causal_conv1d.causal_conv1d_fn")
def causal_conv1d_fn(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    seq_idx: ArrayLike | None = None,
    initial_states: ArrayLike | None = None,
    return_final_states: bool = False,
    final_states_out: None = None,
    activation: Activation = None,
) -> Array | tuple[Array, Array]:
    """Depthwise causal convolution of whole sequences, as ``causal_conv1d.causal_conv1d_fn``.

    As there, the convolution is computed in the dtype of ``weight`` and returned in that of ``x``.
    Differentiable to any order.

    Args:
        x: ``[B, D, L]``, floating.
        weight: ``[D, W]``, floating.
        bias: ``[D]``, or None.
        seq_idx: Integers ``[B, L]``, or None: ``segment_ids`` of ``causal_conv``. Unlike in
            PyTorch, it may be combined with states.
        initial_states: ``[B, D, W-1]``, or None for zeros.
        return_final_states: Whether to return the final states as well.
        final_states_out: None. JAX arrays cannot be written to; use the states returned.
        activation: None, ``"silu"``, ``"swish"`` or another activation of ``fused_conv``.

    Returns:
        ``out [B, D, L]`` of the dtype of ``x``; with ``return_final_states`` the pair of it and the
        final states ``[B, D, W-1]``.

    Raises:
        ValueError: A shape or value does not fit, or ``final_states_out`` is given.
        TypeError: An argument is not an array, or of the wrong dtype.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(4.0).reshape(1, 1, 4)
    >>> causal_conv1d_fn(x, jnp.ones((1, 2)))[0, 0]
    Array([0., 1., 3., 5.], dtype=float32)

    Source: the documentation of the PyTorch package ``causal_conv1d`` by T. Dao.
    """
    call, x, kernel, bias = _arrays("causal_conv1d_fn", x, weight, bias)
    if final_states_out is not None:
        raise call.error(
            "final_states_out must be None, because JAX arrays cannot be written to; pass "
            "return_final_states=True and use the states returned"
        )
    state = None
    if initial_states is not None:
        state = _states(call, "initial_states", initial_states, kernel, x.shape[:1])
        if state.shape[2] != kernel.shape[0] - 1:
            raise call.error(
                f"initial_states must be [B, D, W-1], with W-1 = {kernel.shape[0] - 1} steps, but "
                f"got {state.shape}"
            )
        state = state.astype(kernel.dtype).mT
    out, final = causal_conv(
        x.astype(kernel.dtype).mT,
        kernel,
        bias,
        groups=kernel.shape[2],
        activation=activation,
        segment_ids=seq_idx,
        initial_state=state,
        return_final_state=True,
    )
    out, final = (y.mT.astype(x.dtype) for y in (out, final))
    return (out, final) if return_final_states else out


@checks_keywords("causal_conv1d.causal_conv1d_update")
def causal_conv1d_update(
    x: ArrayLike,
    conv_state: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    activation: Activation = None,
    cache_seqlens: ArrayLike | None = None,
    conv_state_indices: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """The next steps of a stream, as ``causal_conv1d.causal_conv1d_update``.

    PyTorch's function writes to ``conv_state``; this one returns the new state as well. Under
    ``jax.jit(…, donate_argnums=1)`` it takes the memory of the old one.

    Args:
        x: ``[B, D]`` for one step, or ``[B, D, L]``, floating.
        conv_state: ``[B, D, S]`` with S at least W-1: the last S steps, the newest at the end.
        weight: ``[D, W]``, floating.
        bias: ``[D]``, or None.
        activation: As in ``causal_conv1d_fn``.
        cache_seqlens: Integers ``[B]``, or None. If given, ``conv_state`` is a circular buffer, and
            the steps of ``x`` are written from ``cache_seqlens % S`` on.
        conv_state_indices: Integers ``[B]``, or None. If given, ``conv_state`` has more rows than
            ``x``, and these are the rows of the examples, each a different one.

    Returns:
        ``out``, of the shape and dtype of ``x``, and the new ``conv_state``.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: An argument is not an array, or of the wrong dtype.

    >>> import jax.numpy as jnp
    >>> state, weight = jnp.zeros((1, 1, 2)), jnp.ones((1, 3))
    >>> for value in (1.0, 2.0, 3.0):
    ...     out, state = causal_conv1d_update(jnp.full((1, 1), value), state, weight)
    >>> float(out[0, 0]), state[0, 0]
    (6.0, Array([2., 3.], dtype=float32))

    Source: the documentation of the PyTorch package ``causal_conv1d`` by T. Dao.
    """
    steps = checks.array("causal_conv1d_update", "x", x)
    single = steps.ndim == 2
    steps = steps[..., None] if single else steps
    call, steps, kernel, bias = _arrays("causal_conv1d_update", steps, weight, bias)
    batch, rows, at = steps.shape[:1], None, None
    if conv_state_indices is not None:
        rows = checks.per_example(call, "conv_state_indices", conv_state_indices, batch)
    if cache_seqlens is not None:
        at = checks.per_example(call, "cache_seqlens", cache_seqlens, batch).astype(jnp.int32)
    whole = _states(call, "conv_state", conv_state, kernel, batch if rows is None else ())
    states = whole if rows is None else whole[rows]
    past, states = _shift(states, steps, kernel) if at is None else _turn(states, steps, kernel, at)
    out, _ = causal_conv_step(
        past.astype(kernel.dtype).mT,
        steps.astype(kernel.dtype).mT,
        kernel,
        bias,
        groups=kernel.shape[2],
        activation=activation,
    )
    out = out.mT.astype(steps.dtype)
    whole = states if rows is None else whole.at[rows].set(states)
    return (out[..., 0] if single else out), whole


def _shift(states: Array, x: Array, kernel: Array) -> tuple[Array, Array]:
    """The steps before ``x [B, D, L]``, and the states after it, the newest step at the end."""
    past = lax.slice_in_dim(states, states.shape[2] - kernel.shape[0] + 1, None, axis=2)
    both = lax.concatenate([states, x.astype(states.dtype)], 2)
    return past, lax.slice_in_dim(both, x.shape[2], None, axis=2)


def _turn(states: Array, x: Array, kernel: Array, at: Array) -> tuple[Array, Array]:
    """As ``_shift``, with circular buffers whose next entry is ``at [B]``."""
    size = states.shape[2]
    kept = min(size, x.shape[2])  # the others would be overwritten
    reads = _around(at, 1 - kernel.shape[0], 0, size)
    writes = _around(at, x.shape[2] - kept, x.shape[2], size)
    past = jnp.take_along_axis(states, jnp.expand_dims(reads, 1), axis=2)
    newest = lax.slice_in_dim(x, x.shape[2] - kept, None, axis=2).astype(states.dtype)
    examples = jnp.expand_dims(lax.iota(jnp.int32, len(states)), 1)
    return past, states.at[examples, :, writes].set(newest.mT)


def _around(at: Array, start: int, stop: int, size: int) -> Array:
    """``[B, stop - start]``: the entries ``at + start … at + stop - 1`` of a circular buffer."""
    offsets = jnp.expand_dims(lax.iota(jnp.int32, stop - start) + start, 0)
    return jnp.remainder(jnp.expand_dims(at, 1) + offsets, size)


def _arrays(
    function: str, x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None
) -> tuple[Call, Array, Array, Array | None]:
    """``x``, the kernel ``[W, 1, D]`` and the bias of its dtype, checked."""
    given = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    arrays = {name: checks.array(function, name, value) for name, value in given.items()}
    call = Call(function, _AXES, **{name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
        checks.inexact(call, name, array.dtype)
    x, weight, bias = arrays["x"], arrays["weight"], arrays.get("bias")
    if x.ndim != 3 or weight.ndim != 2:
        raise call.error("x must be [B, D, L] and weight [D, W]")
    if weight.shape[0] != x.shape[1]:
        raise call.error(
            f"weight must have one row per channel, but {weight.shape[0]} != {x.shape[1]}"
        )
    if bias is not None:
        checks.per_feature(call, "bias", bias, x.shape[1])
        bias = bias.astype(weight.dtype)
    return call, x, jnp.expand_dims(weight.T, 1), bias


def _states(call: Call, name: str, value: ArrayLike, kernel: Array, batch: Shape) -> Array:
    """``[B, D, S]`` with S at least W-1; any B if ``batch`` is empty."""
    states = checks.array(call.function, name, value)
    checks.inexact(call, name, states.dtype)
    width, _, channels = kernel.shape
    fits = states.ndim == 3 and states.shape[1] == channels and states.shape[2] >= width - 1
    if not fits or states.shape[: len(batch)] != batch:
        rows = batch[0] if batch else "B"
        raise call.error(
            f"{name} must be [B, D, S] = ({rows}, {channels}, S) with S at least W-1 = "
            f"{width - 1}, but got {states.shape}"
        )
    return states
