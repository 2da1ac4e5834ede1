"""Convolution of a sequence by a kernel as long as itself."""

from __future__ import annotations

import dataclasses

import jax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ..dispatch.fft_rule import asks_for_fft
from ..geometry import checks, resolve
from ..geometry.checks import CAUSAL_AXES, Call
from ..geometry.spec import ConvSpec
from ..geometry.types import ImplementationName
from ..keywords import checks_keywords
from ..primitives.call import Options, Window, convolve, options

Array = jax.Array


@checks_keywords("long_conv")
def long_conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    causal: bool = True,
    groups: int | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    implementation: ImplementationName | None = None,
) -> Array:
    """Convolution of a sequence by a long kernel, in ``O(L log L)`` where that is less.

        y[n, i, f] = bias[f] + sum over t, c of  x[n, i - (K-1-t) + after, c] * kernel[t, c, f]

    with zeros around the sequence: the convolution is linear, never circular. If ``causal``,
    ``after`` is 0 and the last tap reads the present, as in ``causal_conv``: pass ``h[::-1]`` for a
    filter ``h`` that is a function of the lag. Otherwise ``after`` is ``K // 2``, which centers the
    kernel as ``"SAME"`` does.

    Long kernels are transformed (``implementation="fft"``), on every platform, from about as many
    taps on as make direct sums take 32 times as many operations; shorter ones run as in ``conv``.
    The fast Fourier transform rounds differently: its error is relative to the largest values of
    the sequence, and a later input changes an earlier output in the last bits. Pass another
    ``implementation`` for direct sums.

    To stream, compute chunks by ``causal_conv(..., initial_state=..., return_final_state=True)``;
    the state holds ``K - 1`` steps, and a chunk of about K steps costs the least per step.

    Args:
        x: ``[N, L, C]``, or ``[L, C]`` for one example; floating or complex.
        kernel: ``[K, C/groups, F]``, of the dtype of ``x``; usually K is L (``2*L - 1`` if not
            ``causal``), and ``[K, 1, C]`` has a filter per channel.
        bias: ``[F]``, of the dtype of ``x``, or None.
        causal: Whether outputs read earlier steps and the present only.
        groups: The number of groups; by default as many as the shape of ``kernel`` implies.
        precision, preferred_element_type, implementation: As in ``conv``.

    Returns:
        ``[N, L, F]``, of the dtype of ``x`` or ``preferred_element_type``.

    Raises:
        ValueError: A shape or value does not fit, or ``implementation`` does not support it, as
            ``"fft"`` does not support symbolic lengths.
        TypeError: An argument is not an array, or dtypes are mixed or not floating or complex.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(4.0).reshape(1, 4, 1)
    >>> long_conv(x, jnp.ones((4, 1, 1)))[0, :, 0]  # a running sum
    Array([0., 1., 3., 6.], dtype=float32)

    Source: M. Poli et al., "Hyena hierarchy" (2023, arXiv:2302.10866); A. Gu et al., "Efficiently
    modeling long sequences with structured state spaces" (2021, arXiv:2111.00396); D. Romero et
    al., "CKConv" (2021, arXiv:2102.02611).
    """
    call, (x, kernel), bias = checks.arrays(
        "long_conv", axes=CAUSAL_AXES, x=x, kernel=kernel, bias=bias
    )
    checks.causal_kernel(call, kernel.shape)
    keywords = options(call, x.dtype, precision, preferred_element_type, implementation)
    if not isinstance(causal, bool):  # pyright: ignore[reportUnnecessaryIsInstance] (of callers)
        raise call.error(f"causal must be True or False, but got {causal!r}", TypeError)
    padding = "CAUSAL" if causal else "SAME"
    groups = _implied_groups(call, x, kernel) if groups is None else groups
    window = Window(padding=padding, groups=groups)
    spec = resolve.conv(call, x.shape, kernel.shape, *window).spec
    return convolve(call, x, kernel, bias, window, _transformed_if_long(keywords, spec))


def _implied_groups(call: Call, x: Array, kernel: Array) -> int:
    channels, per_group = x.shape[-1], kernel.shape[1]
    known = checks.known(channels) and checks.known(per_group)
    if not known or channels == 0 or per_group == 0:
        return 1
    if channels % per_group:
        raise call.error(
            f"x has C = {channels} channels, which is not a multiple of the {per_group} channels "
            "per group of the kernel; kernel must be [K, C/groups, F], for example [K, 1, C]"
        )
    return channels // per_group


def _transformed_if_long(keywords: Options, spec: ConvSpec) -> Options:
    if keywords.implementation is not None or not asks_for_fft(spec, keywords.dtype):
        return keywords
    return dataclasses.replace(keywords, implementation="fft")
