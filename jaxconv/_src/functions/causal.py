"""Causal convolution in time, whole and as a stream: any chunking gives the same outputs."""

from __future__ import annotations

import operator
from typing import Literal, TypedDict, Unpack, overload

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..geometry import checks, resolve
from ..geometry.checks import CAUSAL_AXES, Call
from ..geometry.spec import ConvSpec
from ..geometry.types import Activation, ImplementationName, Ints
from ..keywords import checks_keywords
from ..primitives.call import Options, Window, options
from .epilogue import Fields, activation_fields, convolve_activated
from .history import History, final_state, read_history
from .segments import convolve_segments

Array = jax.Array


class _Keywords(TypedDict, total=False):
    """The keywords of ``causal_conv`` that do not decide what it returns, for type checkers."""

    strides: Ints
    dilation: Ints
    groups: int
    activation: Activation
    segment_ids: ArrayLike | None
    initial_state: ArrayLike | None
    lengths: ArrayLike | None
    precision: lax.PrecisionLike
    preferred_element_type: DTypeLike | None
    implementation: ImplementationName | None


@overload
def causal_conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_final_state: Literal[False] = False,
    **keywords: Unpack[_Keywords],
) -> Array: ...
@overload
def causal_conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_final_state: Literal[True],
    **keywords: Unpack[_Keywords],
) -> tuple[Array, Array]: ...
@overload
def causal_conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_final_state: bool,
    **keywords: Unpack[_Keywords],
) -> Array | tuple[Array, Array]: ...


@checks_keywords("causal_conv")
def causal_conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: Ints = 1,
    dilation: Ints = 1,
    groups: int = 1,
    activation: Activation = None,
    segment_ids: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    return_final_state: bool = False,
    lengths: ArrayLike | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> Array | tuple[Array, Array]:
    """Causal convolution: no output depends on a later input.

        y[n, i, f] = bias[f] + sum over t, c of  x[n, s*i - d*(K-1-t), c] * kernel[t, c, f]

    On CPU, kernels of about a thousand taps and more may be transformed, and then no output depends
    on a later input but in its last bits: see ``long_conv``.

    The last tap reads the present. Before the first input come the steps of ``initial_state``, or
    zeros.

    A state holds the ``(K-1)*dilation`` steps that the next output still needs, oldest first.
    Passing the final state of one chunk of a sequence as the initial state of the next gives the
    outputs of the whole sequence, if every chunk but the last has a multiple of ``strides`` steps.

    Args:
        x: ``[N, L, C]``, or ``[L, C]`` for one example; floating or complex.
        kernel: ``[K, C/groups, F]``, of the dtype of ``x``.
        bias: ``[F]``, of the dtype of ``x``, or None.
        strides: Distance between neighboring outputs in steps, a positive int.
        dilation: Distance between neighboring taps in steps, a positive int.
        groups: The number of groups; ``groups=C`` makes the convolution depthwise.
        activation: Applied to the result, in the same pass: as in ``fused_conv``.
        segment_ids: Integers ``[N, L]`` (``[L]`` for one example), or None. Where several sequences
            are packed into one row, steps with equal ids belong together: a tap that would read a
            step with another id contributes zero.
        initial_state: ``[N, (K-1)*dilation, C]`` (no N for one example), of the dtype of ``x``, or
            None. With ``segment_ids`` it belongs to the segment of the first step. Where it may
            belong to another one, begin ``segment_ids`` with the ids of its steps:
            ``[N, (K-1)*dilation + L]``.
        return_final_state: Whether to return the state after the last step as well.
        lengths: Integers ``[N]`` (a scalar for one example) from 0 to L, or None: the number of
            steps of each example, whose final state is the one after them. The outputs after them
            are those of the padding and mean nothing. Needs ``return_final_state=True``.
        precision, preferred_element_type, implementation: As in ``conv``. With ``segment_ids``, a
            depthwise convolution runs on the CPU engine or as plain XLA operations, and
            ``explain`` does not list it.

    Returns:
        ``y [N, ceil(L/strides), F]``, of the dtype of ``x`` or ``preferred_element_type``; with
        ``return_final_state`` the pair of it and the final state, which has the shape of the
        initial one. With ``segment_ids``, the final state is that of the last step's segment: steps
        of other segments are zero in it.

    Raises:
        ValueError: A shape or value does not fit, or ``activation`` is unknown. The values of
            ``lengths`` are not checked under ``jit``.
        TypeError: An argument is not an array, dtypes are mixed or not floating or complex, or
            ``segment_ids`` or ``lengths`` are not integers.

    >>> import jax.numpy as jnp
    >>> x, kernel = jnp.arange(4.0).reshape(1, 4, 1), jnp.ones((2, 1, 1))
    >>> causal_conv(x, kernel)[0, :, 0]
    Array([0., 1., 3., 5.], dtype=float32)
    >>> causal_conv(x, kernel, segment_ids=jnp.array([[0, 0, 1, 1]]))[0, :, 0]
    Array([0., 1., 2., 5.], dtype=float32)
    >>> y, state = causal_conv(x[:, :2], kernel, return_final_state=True)
    >>> causal_conv(x[:, 2:], kernel, initial_state=state)[0, :, 0]
    Array([3., 5.], dtype=float32)

    Source: A. van den Oord et al., "WaveNet: a generative model for raw audio" (2016); packing and
    states as in the PyTorch package ``causal_conv1d``.
    """
    given = {} if initial_state is None else {"initial_state": initial_state}
    call, (x, kernel, *states), bias = checks.arrays(
        "causal_conv", axes=CAUSAL_AXES, x=x, kernel=kernel, bias=bias, **given
    )
    checks.causal_kernel(call, kernel.shape)
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    fields = activation_fields(call, activation, x.dtype)
    return_final_state = checks.flag(call, "return_final_state", return_final_state)
    window = Window(strides, "CAUSAL", dilation, groups)
    everything = (segment_ids, initial_state, lengths)
    if not return_final_state and all(each is None for each in everything):
        return convolve_activated(call, x, kernel, bias, window, fields, keywords)
    resolved = resolve.conv(call, x.shape, kernel.shape, *window)
    state_shape = checks.causal_state_shape(
        call, kernel.shape, resolved.spec.batch, dilation, groups
    )
    state = states[0] if states else None
    history = read_history(call, x.shape, state_shape, state, segment_ids, lengths)
    if lengths is not None and not return_final_state:
        raise call.error(
            "lengths only decides which state is final, because no output depends on later steps; "
            "pass return_final_state=True, or leave it out"
        )
    x = x if resolved.batched else x[None]
    y = _after(call, x, kernel, bias, history, window, resolved.spec, fields, keywords)
    results = (y, final_state(x, history)) if return_final_state else y
    return results if resolved.batched else jax.tree.map(operator.itemgetter(0), results)


def _after(
    call: Call,
    x: Array,
    kernel: Array,
    bias: Array | None,
    history: History,
    window: Window,
    spec: ConvSpec,
    fields: Fields,
    keywords: Options,
) -> Array:
    """The outputs for ``x [N, L, C]`` after its state, within its segments."""
    state, ids = history.state, history.ids
    if spec.empty:
        state = ids = None
    inputs = x if state is None else lax.concatenate([state, x], 1)
    if ids is not None and spec.taps > 1:
        return convolve_segments(call, inputs, ids, kernel, bias, spec, fields, keywords)
    if state is not None:
        window = window._replace(padding="VALID")
    return convolve_activated(call, inputs, kernel, bias, window, fields, keywords)


@checks_keywords("causal_conv_init")
def causal_conv_init(
    kernel: ArrayLike,
    batch_size: int,
    *,
    dilation: Ints = 1,
    groups: int = 1,
    dtype: DTypeLike | None = None,
) -> Array:
    """The streaming state before the first input: zeros, like the padding of ``causal_conv``.

    Args:
        kernel: ``[K, C/groups, F]``; only its shape and dtype are used.
        batch_size: N, at least 0.
        dilation: Distance between neighboring taps in steps, a positive int.
        groups: The number of groups.
        dtype: The dtype of the inputs to come; by default that of the kernel.

    Returns:
        ``[N, (K-1)*dilation, C]``: the inputs that the next output still needs, oldest first.

    Raises:
        ValueError: A shape or value does not fit.
        TypeError: ``kernel`` is not an array, or it or ``dtype`` is not floating or complex.

    >>> import jax.numpy as jnp
    >>> causal_conv_init(jnp.ones((3, 8, 4)), 2, dilation=4).shape
    (2, 8, 8)

    Source: T. Paine et al., "Fast WaveNet generation algorithm" (2016).
    """
    call, (kernel,), _ = checks.arrays("causal_conv_init", axes=CAUSAL_AXES, kernel=kernel)
    shape = checks.causal_state_shape(call, kernel.shape, batch_size, dilation, groups)
    state_dtype = kernel.dtype if dtype is None else checks.inexact(call, "dtype", dtype)
    return jnp.zeros(shape, state_dtype)  # pyright: ignore[reportUnknownMemberType] (jax's stub)


@checks_keywords("causal_conv_step")
def causal_conv_step(
    state: ArrayLike,
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    dilation: Ints = 1,
    groups: int = 1,
    activation: Activation = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> tuple[Array, Array]:
    """The outputs for the next ``L`` inputs of a stream, and the state after them.

    Feeding a sequence in chunks of any length gives the same outputs as ``causal_conv`` of the
    whole sequence at stride 1. The cost of a step does not depend on the length of the past. Under
    ``jax.jit(…, donate_argnums=0)`` the new state takes the memory of the old one.

    Args:
        state: ``[N, (K-1)*dilation, C]``, from ``causal_conv_init`` or the previous step.
        x: ``[N, L, C]`` with L at least 1, of the dtype of ``state``.
        kernel: ``[K, C/groups, F]``, of the dtype of ``x``.
        bias: ``[F]``, of the dtype of ``x``, or None.
        dilation, groups, activation, precision, preferred_element_type, implementation: As in
            ``causal_conv``.

    Returns:
        ``y [N, L, F]`` and the new state, of the same shape as the old one.

    Raises:
        ValueError: A shape or value does not fit, for example a state of another kernel's length.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> kernel, state = jnp.ones((2, 1, 1)), jnp.zeros((1, 1, 1))
    >>> for value in (1.0, 2.0, 3.0):
    ...     y, state = causal_conv_step(state, jnp.full((1, 1, 1), value), kernel)
    >>> float(y[0, 0, 0])
    5.0

    Source: T. Paine et al., "Fast WaveNet generation algorithm" (2016).
    """
    call, (state, x, kernel), bias = checks.arrays(
        "causal_conv_step", axes=CAUSAL_AXES, state=state, x=x, kernel=kernel, bias=bias
    )
    checks.causal_step(call, state.shape, x.shape, kernel.shape, dilation, groups)
    inputs = lax.concatenate([state, x], 1)
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    fields = activation_fields(call, activation, x.dtype)
    window = Window(1, "VALID", dilation, groups)
    y = convolve_activated(call, inputs, kernel, bias, window, fields, keywords)
    return y, lax.slice_in_dim(inputs, x.shape[1], None, axis=1)
