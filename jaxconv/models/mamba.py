"""Mamba: a selective state space model of packed sequences, with short causal convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .._src.flax.semantics import positive
from ..nnx import CausalConv, PointwiseConv
from .inputs import check_tokens

Array = jax.Array

# The bounds of the initial step sizes, and the extent of the convolution, as in the paper's code.
MIN_STEP, MAX_STEP = 1e-3, 1e-1
TAPS = 4


class Block(nnx.Module):
    """A gated causal convolution and selective scan, with a residual connection.

        u = silu(conv(W_u x')),  x' = rms_norm(x);    Δ, B, C = projections of u
        h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t;       y_t = C_t · h_t + D u_t
        x + W_o (y · silu(W_z x'))

    Args:
        features, inner, states, rank: Sizes of ``x``, of ``u``, of the state of each channel of
            ``u``, and of the bottleneck from which ``Δ`` is computed.
        dtypes: ``dtype``, ``param_dtype`` and ``rngs``, as in Flax.
    """

    def __init__(self, features: int, inner: int, states: int, rank: int, dtypes: dict[str, Any]):
        plain: dict[str, Any] = dtypes | {"use_bias": False}
        self.sizes = (rank, rank + states)
        self.norm = nnx.RMSNorm(features, **dtypes)
        self.enter = PointwiseConv(features, 2 * inner, **plain)
        self.conv = CausalConv(
            inner, inner, TAPS, feature_group_count=inner, activation="silu", **dtypes
        )
        self.select = PointwiseConv(inner, rank + 2 * states, **plain)
        self.step_size = PointwiseConv(rank, inner, bias_init=_step_bias, **dtypes)
        decay = jnp.tile(jnp.arange(1, states + 1, dtype=jnp.float32), (inner, 1))
        self.log_decay = nnx.Param(jnp.log(decay).astype(dtypes["param_dtype"]))
        self.skip = nnx.Param(jnp.ones(inner, dtypes["param_dtype"]))
        self.leave = PointwiseConv(inner, features, **plain)

    def __call__(self, x: Array, segment_ids: Array | None = None) -> Array:
        u, gate = jnp.split(self.enter(self.norm(x)), 2, axis=-1)
        u = self.conv(u, segment_ids=segment_ids)
        y = self._scan(u, segment_ids) + self.skip[...].astype(u.dtype)[None, None] * u
        return x + self.leave(y * jax.nn.silu(gate))

    def _scan(self, u: Array, segment_ids: Array | None) -> Array:
        """``C_t · h_t`` for each step, in float32 at least."""
        rank, b, c = jnp.split(self.select(u), self.sizes, axis=-1)
        wide = jnp.float64 if u.dtype == jnp.float64 else jnp.float32
        step = jax.nn.softplus(self.step_size(rank)).astype(wide)[..., None]
        decay = -jnp.exp(self.log_decay[...].astype(wide))[None, None]
        kept = jnp.exp(step * decay)
        added = step * (b.astype(wide)[:, :, None] * u.astype(wide)[..., None])
        if segment_ids is not None:  # the first step of a segment keeps nothing
            kept = jnp.where(_starts(segment_ids)[..., None, None], 0, kept)
        _, h = jax.lax.associative_scan(_compose, (kept, added), axis=1)
        return jnp.einsum("nlds,nls->nld", h, c.astype(wide)).astype(u.dtype)


class Mamba(nnx.Module):
    """A Mamba language model: the distribution of every token given those before it.

    Tokens are embedded and pass through ``layers`` blocks; the logits are products with the same
    embedding. Several texts can be packed into one row: with ``segment_ids``, nothing passes from
    one to the next.

    Args:
        classes: Number of tokens, V.
        features: Features between blocks, D.
        layers: Number of blocks.
        states: Size of the state of each channel, S.
        expansion: Channels inside a block per feature: E = expansion * D.
        dtype, param_dtype: Types of the computation and of the parameters, as in Flax.
        rngs: The ``params`` stream initializes the parameters.

    With R = ceil(D/16), a block has ``3 D E + E (2 S + R) + R E + E S + 7 E + D`` parameters, and
    the network ``V D + D`` more.

    Called with integers ``tokens [N, L]`` and, for packed texts, integers ``segment_ids [N, L]``,
    it returns ``logits [N, L, V]``: the logits at ``i`` predict token ``i + 1`` from the tokens of
    its segment up to ``i``.

    Raises:
        ValueError: A size is not a positive int, an array does not have two axes, or an id is out
            of range.
        TypeError: ``tokens`` or ``segment_ids`` are not integers.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> network = Mamba(16, features=8, layers=2, states=4, rngs=nnx.Rngs(0))
    >>> tokens, segments = jnp.zeros((2, 9), int), jnp.array([[0] * 4 + [1] * 5] * 2)
    >>> network(tokens, segments).shape
    (2, 9, 16)

    Source: A. Gu, T. Dao, "Mamba: linear-time sequence modeling with selective state spaces"
    (2023).
    """

    def __init__(
        self,
        classes: int = 256,
        *,
        features: int = 64,
        layers: int = 4,
        states: int = 16,
        expansion: int = 2,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        sizes = {"classes": classes, "features": features, "layers": layers}
        positive("Mamba", **sizes, states=states, expansion=expansion)
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        inner, rank = expansion * features, -(-features // 16)
        self.classes = classes
        self.embed = nnx.Embed(
            classes, features, embedding_init=nnx.initializers.normal(0.02), **dtypes
        )
        self.blocks = nnx.List(
            [Block(features, inner, states, rank, dtypes) for _ in range(layers)]
        )
        self.norm = nnx.RMSNorm(features, **dtypes)

    def __call__(self, tokens: Array, segment_ids: Array | None = None) -> Array:
        check_tokens("Mamba", "tokens", tokens, self.classes)
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, segment_ids)
        return self.embed.attend(self.norm(x))


def _compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """The steps ``h -> a h + b`` one after the other."""
    (a, b), (c, d) = first, second
    return a * c, c * b + d


def _starts(segment_ids: Array) -> Array:
    """Whether each step is the first of its segment, ``[N, L]``."""
    ids = jnp.asarray(segment_ids)
    changes = ids[:, 1:] != ids[:, :-1]
    return jnp.concatenate([jnp.ones_like(ids[:, :1], bool), changes], axis=1)


def _step_bias(
    key: Array, shape: Sequence[Any], dtype: Any = None, out_sharding: Any = None
) -> Array:
    """The inverse of softplus at step sizes between the bounds, uniform in their logarithm."""
    del out_sharding
    low, high = jnp.log(MIN_STEP), jnp.log(MAX_STEP)
    step = jnp.exp(jax.random.uniform(key, shape, jnp.float32, low, high))
    return (step + jnp.log(-jnp.expm1(-step))).astype(dtype)
