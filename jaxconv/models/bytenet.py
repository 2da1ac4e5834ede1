"""ByteNet: translation in linear time, by a dilated encoder and a causal decoder on top of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .._src.flax.semantics import positive
from .._src.geometry.checks import Call, integer
from ..nnx import CausalConv, Conv, PointwiseConv
from .tokens import check_tokens

Array = jax.Array
States = tuple[Array, ...]

# The paper's set of five residual blocks, which it repeats six times.
DILATIONS = (1, 2, 4, 8, 16)
# The paper's |t̂| = 1.20 |s|: few translations are longer than that beside their source.
STRETCH = 1.2


class Block(nnx.Module):
    """The paper's residual block: half the features, a dilated convolution of them, all again.

    Args:
        features: Of the block's input and output, an even number.
        conv: The dilated convolution, of half the features.
        dtypes: ``dtype``, ``param_dtype`` and ``rngs``, as in Flax.
    """

    def __init__(self, features: int, conv: Any, dtypes: dict[str, Any]):
        half = features // 2
        sizes = (features, half, half)
        self.norms = nnx.List([nnx.LayerNorm(size, **dtypes) for size in sizes])
        self.reduce = PointwiseConv(features, half, **dtypes)
        self.conv = conv
        self.expand = PointwiseConv(half, features, **dtypes)

    def __call__(self, x: Array) -> Array:
        return self._after(x, self.conv(self._before(x)))

    def step(self, state: Array, x: Array) -> tuple[Array, Array]:
        y, state = self.conv.step(state, self._before(x))
        return self._after(x, y), state

    def _before(self, x: Array) -> Array:
        outer, inner, _ = self.norms
        return jax.nn.relu(inner(self.reduce(jax.nn.relu(outer(x)))))

    def _after(self, x: Array, y: Array) -> Array:
        return x + self.expand(jax.nn.relu(self.norms[2](y)))


class ByteNet(nnx.Module):
    """ByteNet: sequence to sequence by two stacks of dilated convolutions, one on the other.

    The encoder sees the source both ways, at 1.2 times its length. The decoder sees the encoder's
    column and the target before it, so that all positions are trained at once, and a translation is
    read off one token after another. Time and memory are linear in the lengths.

    Args:
        source_classes, target_classes: Numbers of token ids. Target id 0 also stands before the
            first token.
        features: Features of the residual blocks, the paper's 2d, an even number.
        kernel_size: Taps of every dilated convolution.
        dilations: Of the blocks of the encoder, and again of the decoder.
        dtype, param_dtype: Of the computation and of the parameters, as in Flax.
        rngs: The stream ``params`` gives the initial values.

    Called with ``source [N, S]`` and ``target [N, T]``, integers, it returns
    ``logits [N, T, target_classes]``: those at ``t`` are of target token ``t``, and depend on the
    source and the tokens before ``t``.

    Raises:
        ValueError: A size is no positive int, a sequence does not have two axes, or an id is out of
            range.
        TypeError: A sequence is not of integers.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> network = ByteNet(30, 40, features=8, rngs=nnx.Rngs(0))
    >>> network(jnp.zeros((2, 10), int), jnp.zeros((2, 12), int)).shape
    (2, 12, 40)

    Source: N. Kalchbrenner et al., "Neural machine translation in linear time" (2016).
    """

    def __init__(
        self,
        source_classes: int,
        target_classes: int,
        *,
        features: int = 128,
        kernel_size: int = 3,
        dilations: Sequence[int] = DILATIONS,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        positive("ByteNet", source_classes=source_classes, target_classes=target_classes)
        if features < 2 or features % 2:
            raise ValueError(f"ByteNet: features must be an even number, but got {features}")
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.source_classes, self.target_classes = source_classes, target_classes
        self.source = nnx.Embed(source_classes, features, **dtypes)
        self.target = nnx.Embed(target_classes, features, **dtypes)
        sizes = (features // 2, features // 2, (kernel_size,))
        encoder = [Conv(*sizes, kernel_dilation=dilation, **dtypes) for dilation in dilations]
        decoder = [CausalConv(*sizes, kernel_dilation=dilation, **dtypes) for dilation in dilations]
        self.encoder = nnx.List([Block(features, conv, dtypes) for conv in encoder])
        self.decoder = nnx.List([Block(features, conv, dtypes) for conv in decoder])
        self.norm = nnx.LayerNorm(features, **dtypes)
        self.classify = PointwiseConv(features, target_classes, **dtypes)

    def __call__(self, source: Array, target: Array) -> Array:
        check_tokens("ByteNet", "target", target, self.target_classes)
        if jnp.shape(source)[:1] != target.shape[:1]:
            raise ValueError(
                f"ByteNet: source and target must have as many sequences, but got [N, S] = "
                f"{jnp.shape(source)} and [N, T] = {target.shape}"
            )
        before = jnp.pad(target, ((0, 0), (1, 0)))[:, :-1]
        return self.decode(self.target(before) + self.encode(source, target.shape[1]))

    def encode(self, source: Array, length: int) -> Array:
        """The source's columns ``[N, length, features]`` for a target of ``length`` tokens.

        There are ``ceil(1.2 * S)`` of them; a longer target sees zeros after the last.
        """
        check_tokens("ByteNet", "source", source, self.source_classes)
        x = _fitted(self.source(source), math.ceil(STRETCH * source.shape[1]))
        for block in self.encoder:
            x = block(x)
        return _fitted(x, length)

    def decode(self, x: Array) -> Array:
        """The logits ``[N, T, target_classes]`` of the decoder's inputs ``[N, T, features]``."""
        for block in self.decoder:
            x = block(x)
        return self._logits(x)

    def translate(self, source: Array, length: int) -> Array:
        """The likeliest next target token, ``length`` times over, each fed back.

        Args:
            source: ``[N, S]`` token ids.
            length: Number of target tokens, at least 1; the reader cuts at the end token.

        Returns:
            ``[N, length]`` token ids.

        Raises:
            ValueError: ``length`` is no positive int.
        """
        integer(Call("ByteNet.translate"), "length", length)
        columns = jnp.moveaxis(self.encode(source, length), 1, 0)
        states = tuple(block.conv.init_state(len(source)) for block in self.decoder)

        def read(carry: tuple[Array, States], column: Array) -> tuple[Any, Array]:
            token, states = carry
            x, after = (self.target(token) + column)[:, None], []
            for block, state in zip(self.decoder, states, strict=True):
                x, state = block.step(state, x)
                after.append(state)
            token = self._logits(x)[:, 0].argmax(-1).astype(token.dtype)
            return (token, tuple(after)), token

        start = jnp.zeros(len(source), jnp.int32)
        _, tokens = jax.lax.scan(read, (start, states), columns)
        return tokens.T

    def _logits(self, x: Array) -> Array:
        return self.classify(jax.nn.relu(self.norm(x)))


def _fitted(x: Array, length: int) -> Array:
    """``x [N, L, C]`` cut or continued with zeros to ``length``."""
    return jnp.pad(x[:, :length], ((0, 0), (0, max(0, length - x.shape[1])), (0, 0)))
