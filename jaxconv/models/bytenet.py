"""ByteNet: translation in linear time, by a dilated encoder and a causal decoder."""

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
from .inputs import check_tokens

Array = jax.Array
States = tuple[Array, ...]

# The paper's set of five residual blocks, which the paper repeats six times.
DILATIONS = (1, 2, 4, 8, 16)
# The paper's |t̂| = 1.20 |s|: few translations are longer, relative to their source.
TARGET_RATIO = 1.2


class Block(nnx.Module):
    """The paper's residual block: halve the features, dilated convolution, restore the features.

    Args:
        features: Features of the input and output, an even number.
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
        return self._expand_and_add(x, self.conv(self._reduce(x)))

    def step(self, state: Array, x: Array) -> tuple[Array, Array]:
        y, state = self.conv.step(state, self._reduce(x))
        return self._expand_and_add(x, y), state

    def _reduce(self, x: Array) -> Array:
        outer, inner, _ = self.norms
        return jax.nn.relu(inner(self.reduce(jax.nn.relu(outer(x)))))

    def _expand_and_add(self, x: Array, y: Array) -> Array:
        return x + self.expand(jax.nn.relu(self.norms[2](y)))


class ByteNet(nnx.Module):
    """ByteNet: a sequence-to-sequence network of two stacks of dilated convolutions.

    The encoder reads the source in both directions and returns columns for 1.2 times its length.
    The decoder reads the encoder's columns and the preceding target tokens. All positions are
    trained at once; a translation is generated token by token. Time and memory are linear in the
    lengths.

    Args:
        source_classes, target_classes: Number of token ids. Target id 0 is also the input before
            the first token.
        features: Features of the residual blocks, an even number; the paper's 2d.
        kernel_size: Kernel size of every dilated convolution.
        dilations: Dilation of each block of the encoder, and of each block of the decoder.
        dtype, param_dtype: Types of the computation and of the parameters, as in Flax.
        rngs: The ``params`` stream initializes the parameters.

    Called with integers ``source [N, S]`` and ``target [N, T]``, it returns
    ``logits [N, T, target_classes]``: the logits at ``t`` predict target token ``t`` from the
    source and the tokens before ``t``.

    Raises:
        ValueError: A size is not a positive int, a sequence does not have two axes, or an id is
            out of range.
        TypeError: A sequence does not consist of integers.

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
                f"ByteNet: source and target must have the same batch size N, but got [N, S] = "
                f"{jnp.shape(source)} and [N, T] = {target.shape}"
            )
        before = jnp.pad(target, ((0, 0), (1, 0)))[:, :-1]
        return self.decode(self.target(before) + self.encode(source, target.shape[1]))

    def encode(self, source: Array, length: int) -> Array:
        """The encoder's columns ``[N, length, features]`` for a target of ``length`` tokens.

        The encoder computes ``ceil(1.2 * S)`` columns, which are cropped or zero-padded.
        """
        check_tokens("ByteNet", "source", source, self.source_classes)
        x = _cropped_or_padded(self.source(source), math.ceil(TARGET_RATIO * source.shape[1]))
        for block in self.encoder:
            x = block(x)
        return _cropped_or_padded(x, length)

    def decode(self, x: Array) -> Array:
        """The logits ``[N, T, target_classes]`` of the decoder's inputs ``[N, T, features]``."""
        for block in self.decoder:
            x = block(x)
        return self._logits(x)

    def translate(self, source: Array, length: int) -> Array:
        """Generates the most likely target token ``length`` times, feeding each one back.

        Args:
            source: ``[N, S]`` token ids.
            length: Number of target tokens, at least 1; the caller truncates at the end token.

        Returns:
            ``[N, length]`` token ids.

        Raises:
            ValueError: ``length`` is not a positive int.
        """
        integer(Call("ByteNet.translate"), "length", length)
        columns = jnp.moveaxis(self.encode(source, length), 1, 0)
        states = tuple(block.conv.init_state(len(source)) for block in self.decoder)

        def generate(carry: tuple[Array, States], column: Array) -> tuple[Any, Array]:
            token, states = carry
            x, next_states = (self.target(token) + column)[:, None], []
            for block, state in zip(self.decoder, states, strict=True):
                x, state = block.step(state, x)
                next_states.append(state)
            token = self._logits(x)[:, 0].argmax(-1).astype(token.dtype)
            return (token, tuple(next_states)), token

        start = jnp.zeros(len(source), jnp.int32)
        _, tokens = jax.lax.scan(generate, (start, states), columns)
        return tokens.T

    def _logits(self, x: Array) -> Array:
        return self.classify(jax.nn.relu(self.norm(x)))


def _cropped_or_padded(x: Array, length: int) -> Array:
    """``x [N, L, C]``, cropped or zero-padded to ``length``."""
    return jnp.pad(x[:, :length], ((0, 0), (0, max(0, length - x.shape[1])), (0, 0)))
