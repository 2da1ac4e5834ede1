"""WaveNet: dilated causal convolutions that predict the next sample of a waveform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike

from .._src.flax.semantics import positive
from ..nnx import CausalConv, PointwiseConv
from .inputs import check_tokens

Array = jax.Array
States = tuple[Array, ...]

# One stack: each layer doubles the receptive field, up to 1,024 samples.
STACK = tuple(2**layer for layer in range(10))


class Layer(nnx.Module):
    """A gated dilated convolution with a residual output and a skip output.

        z = tanh(filter * x) · sigmoid(gate * x);   x + residual z, skip z

    Args:
        features, skip: Features of the residual output and of the skip output.
        dilation: Distance of the two taps, in samples.
        dtypes: ``dtype``, ``param_dtype`` and ``rngs``, as in Flax.
    """

    def __init__(self, features: int, skip: int, dilation: int, dtypes: dict[str, Any]):
        self.conv = CausalConv(features, 2 * features, 2, kernel_dilation=dilation, **dtypes)
        self.residual = PointwiseConv(features, features, **dtypes)
        self.skip = PointwiseConv(features, skip, **dtypes)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        return self._gated(x, self.conv(x))

    def step(self, state: Array, x: Array) -> tuple[Array, Array, Array]:
        y, state = self.conv.step(state, x)
        return *self._gated(x, y), state

    def _gated(self, x: Array, y: Array) -> tuple[Array, Array]:
        features = x.shape[-1]
        z = jnp.tanh(y[..., :features]) * jax.nn.sigmoid(y[..., features:])
        return x + self.residual(z), self.skip(z)


class WaveNet(nnx.Module):
    """WaveNet: the distribution of every sample given the samples before it.

    Samples are token ids, such as the 256 levels of µ-law. They are embedded and pass through
    causal convolutions with two taps and growing dilation, whose skip outputs are summed and turned
    into logits. A stack of ten layers with dilations 1, 2, 4, …, 512 has a receptive field of 1,024
    samples.

    Args:
        classes: Number of levels of a sample.
        features: Features of every layer.
        skip: Features of the sum of the layers' skip outputs.
        dilations: Dilation of each layer; the paper repeats the stack of ten at least three times.
        dtype, param_dtype: Types of the computation and of the parameters, as in Flax.
        rngs: The ``params`` stream initializes the parameters.

    Called with integers ``tokens [N, L]``, it returns ``logits [N, L, classes]``: the logits at
    ``i`` predict sample ``i + 1`` from the samples up to ``i``.

    Raises:
        ValueError: A size is not a positive int, ``tokens`` does not have two axes, or an id is out
            of range.
        TypeError: ``tokens`` does not consist of integers.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> network = WaveNet(16, features=4, skip=8, dilations=(1, 2, 4), rngs=nnx.Rngs(0))
    >>> network(jnp.zeros((2, 9), int)).shape
    (2, 9, 16)

    Source: A. van den Oord et al., "WaveNet: a generative model for raw audio" (2016); for
    streaming, T. Paine et al., "Fast WaveNet generation algorithm" (2016).
    """

    def __init__(
        self,
        classes: int = 256,
        *,
        features: int = 32,
        skip: int = 256,
        dilations: Sequence[int] = STACK,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        positive("WaveNet", classes=classes, features=features, skip=skip)
        if not dilations:
            raise ValueError("WaveNet: dilations must have an entry for each layer, but is empty")
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.classes = classes
        self.embed = nnx.Embed(classes, features, **dtypes)
        self.layers = nnx.List([Layer(features, skip, dilation, dtypes) for dilation in dilations])
        self.merge = PointwiseConv(skip, skip, **dtypes)
        self.classify = PointwiseConv(skip, classes, **dtypes)

    def __call__(self, tokens: Array) -> Array:
        check_tokens("WaveNet", "tokens", tokens, self.classes)
        return self.predict(self.embed(tokens))

    def predict(self, x: Array) -> Array:
        """The logits of embedded samples ``[N, L, features]``."""
        skips = []
        for layer in self.layers:
            x, skip = layer(x)
            skips.append(skip)
        return self._logits(skips)

    def init_state(self, batch_size: int) -> States:
        """The state before the first sample: the last ``dilation`` inputs of each layer.

        Its size does not depend on the number of samples processed.
        """
        return tuple(layer.conv.init_state(batch_size) for layer in self.layers)

    def step(self, states: States, tokens: Array) -> tuple[Array, States]:
        """The logits ``[N, L, classes]`` of the stream's next samples, and the state after them.

        Processing a sequence in chunks of any lengths equals processing it whole.
        """
        check_tokens("WaveNet.step", "tokens", tokens, self.classes)
        x, skips, next_states = self.embed(tokens), [], []
        for layer, state in zip(self.layers, states, strict=True):
            x, skip, state = layer.step(state, x)
            skips.append(skip)
            next_states.append(state)
        return self._logits(skips), tuple(next_states)

    def generate(
        self, prompt: Array, count: int, key: Array, temperature: ArrayLike = 1.0
    ) -> Array:
        """Draws samples after a prompt one at a time, feeding each one back.

        Args:
            prompt: ``[N, L]`` token ids, L at least 1.
            count: Number of samples to draw, a static int.
            key: A key of ``jax.random``.
            temperature: Divides the logits; below 1, likely samples become more likely. It may be
                traced; then its value is not checked.

        Returns:
            ``[N, count]`` token ids, without the prompt.

        Raises:
            ValueError: The prompt is empty, ``count`` is traced or less than 1, or ``temperature``
                is not a positive scalar.
        """
        _check_generate(prompt, count, temperature)
        logits, states = self.step(self.init_state(len(prompt)), prompt)
        if isinstance(temperature, Array):
            # Of the logits' dtype, as a Python number becomes, so that both draw the same samples.
            temperature = temperature.astype(logits.dtype)

        def draw(carry: tuple[Array, States], key: Array) -> tuple[tuple[Array, States], Array]:
            logits, states = carry
            token = jax.random.categorical(key, logits / temperature)
            logits, states = self.step(states, token[:, None])
            return (logits[:, -1], states), token

        _, drawn = jax.lax.scan(draw, (logits[:, -1], states), jax.random.split(key, count))
        return drawn.T

    def _logits(self, skips: list[Array]) -> Array:
        x = jax.nn.relu(self.merge(jax.nn.relu(sum(skips[1:], skips[0]))))
        return self.classify(x)


def _check_generate(prompt: Array, count: int, temperature: ArrayLike) -> None:
    if isinstance(count, Tracer):
        raise ValueError(
            "WaveNet.generate: count must be a static int, because it is the length of the result, "
            f"but it is traced: {count!r}; list it in static_argnames of jax.jit"
        )
    # Under an outer jit, comparing a jax array would return a tracer.
    positive = isinstance(temperature, Tracer) or np.all(np.asarray(temperature) > 0)
    if jnp.shape(prompt)[1:] == (0,) or count < 1 or np.shape(temperature) or not positive:
        raise ValueError(
            "WaveNet.generate: needs a prompt of at least one sample, a count of at least 1 and a "
            f"positive scalar temperature, but got a prompt of shape {jnp.shape(prompt)}, count "
            f"{count} and temperature {temperature}"
        )
